"""What the oracles of a ``committee`` world have to say: batches at random times, to whoever is up."""

from random import Random

from p2pnode.sim.committee_plan import Plan
from p2pnode.sim.host import Host
from p2pnode.sim.world import World
from protocol.committee.cut import content_bytes_max
from protocol.roles.oracle import Include


class Work:
    """Hands nodes something to include. Whoever is no member of the committee leaves it."""

    def __init__(self, world: World, plan: Plan, rng: Random) -> None:
        self._world = world
        self._plan = plan
        self._rng = rng
        self._pause_ms = rng.choice((150, 400, 1_000, 3_000)) * (1 if plan.size < 10 else 3)
        self._until_ms = 0

    def begin(self, until_ms: int) -> None:
        """Batches at random until a time."""
        self._until_ms = until_ms
        self._next()

    def _next(self) -> None:
        pause_ms = max(1, int(self._rng.expovariate(1 / self._pause_ms)))
        if self._world.now_us // 1_000 + pause_ms < self._until_ms:
            self._world.after(pause_ms * 1_000, self._random_batches)

    def _random_batches(self) -> None:
        for _ in range(self._rng.choice((1, 1, 1, 2, 5))):
            self.include(self._rng.choice(list(self._world.hosts.values())))
        self._next()

    def include(self, host: Host) -> None:
        """A node has something to say."""
        if host.up and host.drives:
            size = 1 + int((content_bytes_max(self._plan.params) - 1) * self._rng.random() ** 3)
            host.drives[0].dispatch(Include(self._rng.randbytes(size)))
