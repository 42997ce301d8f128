"""What a client's program wants, drawn from the seed: sessions, orders, cancellations, going away without a word.

It drives the production ClientMachine through its wishes and reacts to what is delivered, as the SDK does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random

from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Boot, Dispatch, Part, Perform
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.roles.client import (
    AskTask,
    CancelAsk,
    ClientMachine,
    CloseAsked,
    ConnectRouter,
    Deliver,
    Item,
    OpenAsked,
    RouterGone,
    RouterReady,
    SessionAssigned,
    SessionOver,
    TaskOver,
    TaskText,
)

PRICE_CAP_WEI = 1_000


@dataclass(frozen=True, slots=True)
class Wish:
    """One order."""

    pause_ms: int
    """After the one before."""
    content: str
    tokens: int
    timeout_ms: int
    cancel_at: int | None
    """Cancelled once more tokens than this were shown."""
    hasty: bool
    """The next order does not wait for this one's end."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One session."""

    pause_ms: int
    routers: tuple[NodeId, ...]
    """The first is greeted first; the session names them all."""
    timeout_ms: int
    lifetime_ms: int
    lanes: int
    direct: bool
    wishes: tuple[Wish, ...]
    leaves_open: bool
    """It is never closed: it runs out."""
    cap_wei: int = 0
    """What the session may cost; 0: nothing is reserved for it."""
    lingers_ms: int = 0
    """So long after its last answer it is closed: its client wants to hear what becomes of that."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What the visits of a world's clients are drawn from."""

    routers: tuple[NodeId, ...]
    model: ModelDigest
    visits_max: int
    wishes_max: int
    tokens_max: int
    lanes_max: int
    stop_ms: int
    """In the world's time: no session is opened after this."""
    caps_wei: tuple[int, ...] = (0,)
    """What a session may cost, one of these."""
    lanes: tuple[int, ...] = ()
    """How many lanes it has; empty: 1 to ``lanes_max``."""

    def visit(self, rng: Random) -> Visit:
        """Draw a visit."""
        first = rng.randrange(len(self.routers))
        named = self.routers[first:] + self.routers[:first]
        leaves_open = rng.random() < 0.1
        return Visit(
            pause_ms=int(rng.expovariate(1 / 1_500)),
            routers=named[: rng.randint(1, len(named))] if rng.random() < 0.2 else named,
            timeout_ms=rng.randint(1_000, 12_000),
            lifetime_ms=rng.randint(8_000, 20_000) if leaves_open else 3_600_000,
            lanes=rng.choice(self.lanes) if self.lanes else rng.randint(1, self.lanes_max),
            direct=rng.random() < 0.3,
            wishes=tuple(self._wish(rng) for _ in range(rng.randint(1, self.wishes_max))),
            leaves_open=leaves_open,
            cap_wei=rng.choice(self.caps_wei) if len(self.caps_wei) > 1 else self.caps_wei[0],
        )

    def _wish(self, rng: Random) -> Wish:
        return Wish(
            pause_ms=rng.choice((0, 0, int(rng.expovariate(1 / 2_000)))),
            content=f"question {rng.randrange(10**6)}",
            tokens=rng.randint(1, self.tokens_max),
            timeout_ms=rng.randint(500, 15_000),
            cancel_at=rng.choice((None, None, None, rng.randint(0, 20))),
            hasty=rng.random() < 0.15,
        )


class ClientProgram:
    """A client: its machine and its script. A client that comes back after a crash has forgotten everything."""

    def __init__(
        self,
        key: Key,
        genesis: Genesis,
        habits: Habits,
        visits: Sequence[Visit] | None = None,
        heard: Callable[[Item], None] | None = None,
    ) -> None:
        self._key = key
        self._genesis = genesis
        self._habits = habits
        self._visits = visits
        """What the first life does; drawn if None."""
        self._heard = heard
        """Told of everything that is delivered."""

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        rng, habits = boot.random, self._habits
        if self._visits is not None:
            visits = list(self._visits) if boot.incarnation == 1 else []
        else:
            visits = [habits.visit(rng) for _ in range(rng.randint(1, habits.visits_max))]

        def performers(dispatch: Dispatch) -> Mapping[type, Perform]:
            script = Script(visits, habits, self._genesis, boot, dispatch)
            boot.later(0, script.begin)
            return {Deliver: partial(self._deliver, script)}

        return [Part(ClientMachine(self._key.node_id, self._key.sign), performers)]

    def _deliver(self, script: "Script", effect: object) -> None:
        assert isinstance(effect, Deliver)
        script.delivered(effect)
        if self._heard is not None:
            self._heard(effect.item)


class Script:
    """One life of a client's program: visit after visit."""

    def __init__(self, visits: list[Visit], habits: Habits, genesis: Genesis, boot: Boot, dispatch: Dispatch) -> None:
        self._visits = visits
        self._habits = habits
        self._genesis = genesis
        self._boot = boot
        self._dispatch = dispatch
        self._handles = count(1)
        self._greeted: dict[NodeId, int] = {}
        self._greeting: dict[int, NodeId] = {}
        self._visit: Visit | None = None
        self._to_greet: list[NodeId] = []
        self._session = 0
        """The present session's handle; 0: none."""
        self._ready = False
        self._left: list[Wish] = []
        self._asked: dict[int, tuple[Wish, int]] = {}
        """Orders under way, and how many tokens of each were shown."""

    def _soon(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._boot.later(delay_ms * 1_000, action)

    def begin(self) -> None:
        """On to the next visit, after its pause."""
        self._visit, self._session, self._ready = None, 0, False
        if self._visits:
            visit = self._visits.pop(0)
            self._soon(visit.pause_ms, lambda: self._set_out(visit))

    def _set_out(self, visit: Visit) -> None:
        if self._boot.elapsed_ms() > self._habits.stop_ms:
            return
        self._visit, self._left, self._to_greet = visit, list(visit.wishes), list(visit.routers)
        self._go_to_next()

    def _go_to_next(self) -> None:
        assert self._visit is not None
        if not self._to_greet:
            self.begin()
            return
        router = self._to_greet.pop(0)
        if router in self._greeted:
            self._open(router)
            return
        handle = next(self._handles)
        self._greeting[handle] = router
        self._wish(ConnectRouter(handle, router, self._genesis.network_id()))

    def _open(self, router: NodeId) -> None:
        visit = self._visit
        assert visit is not None
        self._session, self._ready = next(self._handles), False
        wish = OpenAsked(
            handle=self._session,
            router=router,
            model=self._habits.model,
            nonce=self._nonce(),
            price_cap_wei=PRICE_CAP_WEI,
            tokens=max(wish.tokens for wish in visit.wishes),
            timeout_ms=visit.timeout_ms,
            lifetime_ms=visit.lifetime_ms,
            others=tuple(other for other in visit.routers if other != router),
            lanes=visit.lanes,
            direct=visit.direct,
            cap_wei=visit.cap_wei,
        )
        self._wish(wish)

    def _nonce(self) -> bytes:
        """They rise: the ledger takes no session that is older than one which it has let go of."""
        drawn = self._boot.random.randbytes(32)
        return self._boot.elapsed_ms().to_bytes(8, "big") + drawn[8:] if self._reserves() else drawn

    def _reserves(self) -> bool:
        return self._visit is not None and self._visit.cap_wei > 0

    def _ask(self, session: int) -> None:
        if session != self._session or not self._left:
            return
        wish = self._left.pop(0)
        handle = next(self._handles)
        self._asked[handle] = (wish, 0)
        rng = self._boot.random
        ask = AskTask(
            handle=handle,
            session=session,
            messages=(PromptMessage("user", wish.content),),
            sampling=SamplingParams(),
            nonce=rng.randbytes(32),
            seed=rng.randbytes(32),
            max_tokens=wish.tokens,
            timeout_ms=wish.timeout_ms,
        )
        self._wish(ask)
        if wish.hasty:
            self._continue(session)

    def _continue(self, session: int) -> None:
        """The next order, or the session's end."""
        if self._left:
            self._soon(self._left[0].pause_ms, lambda: self._ask(session))
        elif not self._asked and self._visit is not None and not self._visit.leaves_open:
            self._soon(self._visit.lingers_ms, lambda: self._dispatch(CloseAsked(session)))

    def _wish(self, wish: object) -> None:
        # Never within an effect: the machine is not done with what it asked for.
        self._soon(0, lambda: self._dispatch(wish))

    # What is delivered

    def delivered(self, effect: Deliver) -> None:
        """Take what is delivered."""
        handle, item = effect.handle, effect.item
        if isinstance(item, RouterReady | RouterGone):
            self._about_router(handle, item)
        elif handle in self._asked:
            self._about_answer(handle, item)
        elif handle == self._session:
            self._about_session(item)

    def _about_router(self, handle: int, item: RouterReady | RouterGone) -> None:
        router = self._greeting[handle]
        waited_for = self._visit is not None and not self._session and router not in self._greeted
        if isinstance(item, RouterReady):
            self._greeted[router] = handle
            if waited_for:
                self._open(router)
            return
        if self._greeted.get(router) == handle:
            del self._greeted[router]
        elif waited_for:
            self._go_to_next()

    def _about_session(self, item: Item) -> None:
        if isinstance(item, SessionAssigned) and not self._ready:
            self._ready = True
            self._continue(self._session)
        elif isinstance(item, SessionOver):
            self.begin()

    def _about_answer(self, handle: int, item: Item) -> None:
        wish, shown = self._asked[handle]
        if isinstance(item, TaskText):
            self._asked[handle] = (wish, shown + len(item.ids))
            if wish.cancel_at is not None and shown <= wish.cancel_at < shown + len(item.ids):
                self._wish(CancelAsk(handle))
        elif isinstance(item, TaskOver):
            del self._asked[handle]
            if self._session and not self._asked:
                self._continue(self._session)
