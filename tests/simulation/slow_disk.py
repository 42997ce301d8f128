"""A disk of the simulated network."""

import random
from collections.abc import Sequence

import trio


class Disk:
    """Durable after a while."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        await trio.sleep(self.rng.uniform(0.0, 0.03))
