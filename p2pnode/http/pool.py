"""Sessions that are kept open, so that a request finds its miner without an auction.

A session is served by one miner at a time. So that requests spread over all miners, each that runs has a session of its
own: one that is free, or a new one, whichever is there first. A free one that nobody wants for a while is closed: it
holds a slot of its miner. A conversation comes back to the session that holds its beginning in the miner's cache, if
that is free. What its answers come to is heard of only as long as a session is open, so it stays a little.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import trio

from p2pnode.answer import RequestFailed
from p2pnode.session import Session

log = logging.getLogger(__name__)

RETRY_AFTER_MS = 1_000
CAPACITY = frozenset(("no_capacity", "queue_full", "rate_limited", "deadline_exceeded"))
"""Why a session is not opened now: whoever waits goes on waiting for one that is open."""


class Net(Protocol):
    """What of a light client sessions are opened at."""

    @property
    def certifies(self) -> bool:
        """Whether answers get certified, as far as this client can check that."""

    def session(
        self, model: str | None = None, *, tokens: int = 512, timeout_ms: int = 0
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session, and close it with the block."""


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """The bounds of a pool."""

    sessions_max: int = 128
    """Open at once; a router lets a client have some more."""
    waiting_max: int = 256
    """Requests that wait for a session."""
    idle_s: float = 60.0
    """A session that nobody wants for so long is closed."""
    orders_max: int = 900
    """In one session; the network's bound is a little higher."""
    linger_s: float = 10.0
    """So long one that is over stays for its last answers to become final."""
    tokens_min: int = 512
    """For so many an order the ledger reserves, however little the first one asks for: others will follow."""
    age_s: float = 3_000.0
    """Nothing is begun in a session that is older; it was opened for an hour."""


@dataclass(slots=True, eq=False)
class Held:
    """A session of the pool."""

    model: str
    """The digest, in hexadecimal digits."""
    session: Session
    opened: float
    owner: str = ""
    """Whose it was last."""
    label: str = ""
    """As the last request named it."""
    beginnings: frozenset[bytes] = frozenset()
    """Digests of what its miner's cache holds."""
    orders: int = 0
    busy: bool = True
    since: float = 0.0
    """When it became free."""
    over: bool = False
    """Nothing more is begun in it."""
    ended: trio.Event = field(default_factory=trio.Event)

    def end(self) -> None:
        """Close it, now or when its order is over."""
        self.over = True
        if not self.busy:
            self.ended.set()


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that waits for a session."""

    want: "Want"
    event: trio.Event = field(default_factory=trio.Event)
    held: Held | None = None
    failed: RequestFailed | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """Which session a request would like best."""

    model: str
    tokens: int
    timeout_ms: int
    """So long it may wait for one."""
    owner: str = ""
    label: str = ""
    """A session's id, or a name that its owner gave it."""
    beginnings: Sequence[bytes] = ()
    """Of the conversation, the shortest first."""


class Pool:
    """See the module. Runs in ``nursery``; :meth:`take` lends a session to one request."""

    def __init__(self, net: Net, nursery: trio.Nursery, terms: PoolTerms) -> None:
        self._net = net
        self._nursery = nursery
        self._terms = terms
        self._held: OrderedDict[int, Held] = OrderedDict()
        """By identity, the longest free first."""
        self._lingering: list[trio.CancelScope] = []
        """Of sessions that are over, the longest first."""
        self._opening: dict[str, int] = {}
        self._waiting: dict[str, deque[_Waiter]] = {}

    @property
    def open(self) -> Sequence[Held]:
        """Every session that stands."""
        return tuple(self._held.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for a session."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def take(self, want: Want) -> AsyncIterator[Held]:
        """A session for one order. Raises RequestFailed."""
        held = self._free(want) or await self._wait(want)
        held.orders += 1
        held.owner, held.label = want.owner, want.label
        try:
            yield held
        finally:
            self._give_back(held)

    def find(self, session: bytes) -> Held | None:
        """The session of that id, if it stands."""
        return next((held for held in self._held.values() if held.session.id == session), None)

    def _free(self, want: Want) -> Held | None:
        best: tuple[int, float] | None = None
        chosen: Held | None = None
        for held in self._held.values():
            if held.busy or held.over or held.model != want.model:
                continue
            score = (self._likeness(held, want), held.since)
            if best is None or score >= best:
                best, chosen = score, held
        if chosen is not None:
            chosen.busy = True
        return chosen

    @staticmethod
    def _likeness(held: Held, want: Want) -> int:
        if want.label and want.owner == held.owner and want.label in (held.label, held.session.id.hex()):
            return 1 + len(want.beginnings)
        return sum(each in held.beginnings for each in want.beginnings)

    async def _wait(self, want: Want) -> Held:
        if self.waiting >= self._terms.waiting_max:
            raise RequestFailed(
                "queue_full", "too many requests wait for a session here", retry_after_ms=RETRY_AFTER_MS
            )
        waiters, waiter = self._waiting.setdefault(want.model, deque()), _Waiter(want)
        waiters.append(waiter)
        self._open_more(want.model)
        try:
            with trio.move_on_after(want.timeout_ms / 1_000):
                await waiter.event.wait()
        except trio.Cancelled:
            if waiter.held is not None:
                self._give_back(waiter.held)
            raise
        finally:
            with suppress(ValueError):
                waiters.remove(waiter)
            if not waiters:
                self._waiting.pop(want.model, None)
        if waiter.failed is not None:
            raise waiter.failed
        if waiter.held is None:
            raise RequestFailed("no_capacity", "no miner was free in time", retry_after_ms=RETRY_AFTER_MS)
        return waiter.held

    def _open_more(self, model: str) -> None:
        """Open a session for one that waits and for whom none is being opened, if there may be another."""
        waiters = self._waiting.get(model)
        opening = self._opening.get(model, 0)
        if waiters and len(waiters) > opening and self._may_open():
            self._opening[model] = opening + 1
            self._nursery.start_soon(self._run, waiters[-1].want)

    def _may_open(self) -> bool:
        if len(self._held) + len(self._lingering) + sum(self._opening.values()) < self._terms.sessions_max:
            return True
        if self._lingering:
            self._lingering.pop(0).cancel()
            return True
        # One of another model that nobody uses makes room.
        idle = next((held for held in self._held.values() if not held.busy), None)
        if idle is not None:
            idle.end()
        return idle is not None

    async def _run(self, want: Want) -> None:
        """A session, from its opening to its end."""
        model, counted = want.model, True
        try:
            tokens = max(want.tokens, self._terms.tokens_min)
            async with self._net.session(model, tokens=tokens, timeout_ms=want.timeout_ms) as session:
                held = Held(model, session, trio.current_time())
                self._opened(model)
                counted = False
                self._held[id(held)] = held
                try:
                    self._give_back(held)
                    await self._keep(held)
                finally:
                    held.over = True
                    del self._held[id(held)]
                    self._open_more(model)
                await self._linger(session)
            # Its miner has a slot again.
            self._open_more(model)
        except RequestFailed as error:
            if counted:
                self._opened(model)
                self._refused(model, error)
                counted = False
        finally:
            if counted:
                self._opened(model)

    async def _linger(self, session: Session) -> None:
        """Until its last answers are final, as long as that takes no one the room."""
        if not self._net.certifies:
            return
        with trio.move_on_after(self._terms.linger_s) as scope:
            self._lingering.append(scope)
            try:
                await session.decided()
            finally:
                if scope in self._lingering:
                    self._lingering.remove(scope)

    def _opened(self, model: str) -> None:
        self._opening[model] -= 1
        if not self._opening[model]:
            del self._opening[model]

    async def _keep(self, held: Held) -> None:
        """Until it has been free for long, or is over."""
        while not held.ended.is_set():
            now = trio.current_time()
            until = self._terms.idle_s + (now if held.busy else held.since)
            if now >= until:
                return
            with trio.move_on_at(until):
                await held.ended.wait()

    def _refused(self, model: str, error: RequestFailed) -> None:
        """No session was opened: someone is told, unless a session that is open may still serve them."""
        there = any(held.model == model and not held.over for held in self._held.values())
        if error.code in CAPACITY and (there or self._opening.get(model)):
            return
        waiters = self._waiting.get(model)
        if waiters:
            waiter = waiters.popleft()
            if error.code == "deadline_exceeded":
                # It was not the request's own: the next attempt may find a miner.
                error = RequestFailed("no_capacity", str(error), retry_after_ms=RETRY_AFTER_MS)
            waiter.failed = error
            waiter.event.set()

    def _give_back(self, held: Held) -> None:
        """An order is over, or a session was opened: the next one that waits has it."""
        now = trio.current_time()
        old = held.orders >= self._terms.orders_max or now - held.opened > self._terms.age_s
        held.busy, held.since = False, now
        if held.over or old:
            held.end()
            return
        self._held.move_to_end(id(held))
        waiters = self._waiting.get(held.model)
        if waiters:
            waiter = waiters.popleft()
            held.busy, waiter.held = True, held
            waiter.event.set()
