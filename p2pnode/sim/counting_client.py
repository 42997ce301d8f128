"""A client that opens a session, orders some answers, sees each of them become as certain as it can, and closes it.

In a network without a committee that is at the end of each answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Boot, Dispatch, Part, Perform
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.light.levels import Level
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.roles.client import (
    AskTask,
    ClientMachine,
    CloseAsked,
    ConnectRouter,
    Deliver,
    Item,
    OpenAsked,
    RouterReady,
    SessionAssigned,
    SessionOver,
    TaskLevel,
    TaskOver,
)

TIMEOUT_MS = 60_000
LIFETIME_MS = 3_600_000
_ROUTER, _SESSION, _FIRST_TASK = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Errand:
    """What a client comes for."""

    router: NodeId
    model: ModelDigest
    orders: int = 1
    every_ms: int = 1_000
    """From one order to the next, if the one before is answered by then."""
    tokens: int = 48
    lanes: int = 1
    price_cap_wei: int = 0
    cap_wei: int = 0


@dataclass(frozen=True, slots=True)
class ErrandProgram:
    """The client: its machine and its script."""

    key: Key
    genesis: Genesis
    errand: Errand

    def start(self, boot: Boot) -> Sequence[Part]:
        """See p2pnode.sim.host.Program."""

        def performers(dispatch: Dispatch) -> Mapping[type, Perform]:
            script = _Script(self.errand, self.genesis, boot, dispatch)
            boot.later(0, script.begin)
            return {Deliver: script.delivered}

        return [Part(ClientMachine(self.key.node_id, self.key.sign), performers)]


class _Script:
    def __init__(self, errand: Errand, genesis: Genesis, boot: Boot, dispatch: Dispatch) -> None:
        self._errand = errand
        self._genesis = genesis
        self._boot = boot
        self._dispatch = dispatch
        self._next = _FIRST_TASK
        self._due = self._running = False
        """Whether it is time for the next order, and whether the last one is not answered yet."""
        self._settling: set[int] = set()
        """Answers that may still become more certain."""

    def begin(self) -> None:
        """Greet the router."""
        self._wish(ConnectRouter(_ROUTER, self._errand.router, self._genesis.network_id()))

    def _wish(self, wish: object) -> None:
        # Never within an effect: the machine is not done with what it asked for.
        self._boot.later(0, lambda: self._dispatch(wish))

    def delivered(self, effect: object) -> None:
        """Take what the machine delivers."""
        assert isinstance(effect, Deliver)
        self._take(effect.handle, effect.item)

    def _take(self, handle: int, item: Item) -> None:
        match item:
            case RouterReady():
                self._open()
            case SessionAssigned() if self._next == _FIRST_TASK and not self._running:
                self._order()
            case TaskOver():
                self._running = False
                if item.end is None or not self._genesis.committee:
                    self._settling.discard(handle)
                if self._due:
                    self._order()
                self._close_if_done()
            case TaskLevel() if item.level is Level.FINALIZED or item.against:
                self._settling.discard(handle)
                self._close_if_done()
            case SessionOver():
                self._next = _FIRST_TASK + self._errand.orders

    def _open(self) -> None:
        errand = self._errand
        self._wish(
            OpenAsked(
                handle=_SESSION,
                router=errand.router,
                model=errand.model,
                nonce=self._boot.random.randbytes(32),
                price_cap_wei=errand.price_cap_wei,
                tokens=errand.tokens,
                timeout_ms=TIMEOUT_MS,
                lifetime_ms=LIFETIME_MS,
                lanes=errand.lanes,
                cap_wei=errand.cap_wei,
            )
        )

    def _order(self) -> None:
        errand, handle = self._errand, self._next
        if handle >= _FIRST_TASK + errand.orders:
            return
        self._next, self._due, self._running = handle + 1, False, True
        self._settling.add(handle)
        rng = self._boot.random
        self._wish(
            AskTask(
                handle=handle,
                session=_SESSION,
                messages=(PromptMessage("user", f"question {handle - _FIRST_TASK}"),),
                sampling=SamplingParams(),
                nonce=rng.randbytes(32),
                seed=rng.randbytes(32),
                max_tokens=errand.tokens,
                timeout_ms=TIMEOUT_MS,
            )
        )
        self._boot.later(errand.every_ms * 1_000, self._time_for_another)

    def _time_for_another(self) -> None:
        self._due = True
        if not self._running:
            self._order()

    def _close_if_done(self) -> None:
        if not self._running and not self._settling and self._next >= _FIRST_TASK + self._errand.orders:
            self._wish(CloseAsked(_SESSION))
