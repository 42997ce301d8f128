"""A client's own look at the chain: whether the contract accepted the headers that oracles say it did."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from chain.api import AcceptedHeader, Reading
from chain.errors import ChainError
from protocol.core.ids import Digest

log = logging.getLogger(__name__)

WANTED_MAX = 1_024
"""Headers that are looked for at once; beyond it the oldest is let go."""
FIRST_S = 0.25
DELAY_S_MAX = 8.0
"""Between two looks for one header: it may become final on the chain any moment, or never."""
GIVE_UP_S = 1_800.0


@dataclass(slots=True)
class _Wanted:
    at_s: float
    """When to look next."""
    delay_s: float
    until_s: float


class ChainLook:
    """Asks the chain from worker threads, one question at a time. An outage is waited out.

    Spec: [LEVEL-SETTLED.1]
    """

    def __init__(
        self,
        chain: Reading,
        tell: Callable[[Digest], None],
        tell_newest: Callable[[AcceptedHeader], None] = lambda _newest: None,
    ) -> None:
        self._chain = chain
        self._tell = tell
        self._tell_newest = tell_newest
        self._newest_wanted = False
        self._wanted: dict[Digest, _Wanted] = {}
        self._wake = trio.Event()
        self.trouble = ""
        """Why the chain cannot be asked now; empty where it can."""

    def look_for(self, digest: Digest) -> None:
        """An oracle says that the contract accepted this header."""
        if digest in self._wanted:
            return
        now_s = trio.current_time()
        self._wanted[digest] = _Wanted(now_s, FIRST_S, now_s + GIVE_UP_S)
        if len(self._wanted) > WANTED_MAX:
            del self._wanted[next(iter(self._wanted))]
        self._wake.set()

    def look_for_newest(self) -> None:
        """Somebody wants to know which header the contract accepted last."""
        self._newest_wanted = True
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if self._newest_wanted:
                self._newest_wanted = False
                await self._look_for_newest()
            due = [digest for digest, wanted in self._wanted.items() if wanted.at_s <= trio.current_time()]
            for digest in due:
                await self._look(digest)
            with trio.move_on_at(min((wanted.at_s for wanted in self._wanted.values()), default=float("inf"))):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _look_for_newest(self) -> None:
        try:
            newest = await trio.to_thread.run_sync(self._chain.latest_checkpoint, abandon_on_cancel=True)  # type: ignore[call-arg]
        except ChainError as error:
            self._failed(error)
            return
        self.trouble = ""
        if newest is not None:
            self._tell_newest(newest)

    def _failed(self, error: ChainError) -> None:
        if str(error) != self.trouble:
            log.warning("cannot ask the chain: %s", error)
        self.trouble = str(error)

    async def _look(self, digest: Digest) -> None:
        found = False
        try:
            accepted = await trio.to_thread.run_sync(self._chain.accepted, digest, abandon_on_cancel=True)  # type: ignore[call-arg]
            found, self.trouble = accepted is not None, ""
        except ChainError as error:
            self._failed(error)
        wanted, now_s = self._wanted.get(digest), trio.current_time()
        if wanted is None:
            return
        wanted.at_s, wanted.delay_s = now_s + wanted.delay_s, min(2 * wanted.delay_s, DELAY_S_MAX)
        if found or now_s > wanted.until_s:
            del self._wanted[digest]
        if found:
            self._tell(digest)
