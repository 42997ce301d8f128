"""The routers that a client watches: each is asked on a stream of its own, round by round, for its newest final header.

So it shows who is there, who is behind the others, and whose headers stand still. Whatever does not hold convicts who
showed it: a router that is honest checks all that it shows here before.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Close, Open, Send
from protocol.light.headers import UnknownEpoch, Untrusted, place
from protocol.light.news import check_outcome
from protocol.messages.committee import Certified
from protocol.messages.handover import HandOvers, HandOversFound
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked
from protocol.messages.results import OutcomeNews, SettledNews
from protocol.messages.sessions import ROUTERS_MAX
from protocol.roles.client.chain import Chain
from protocol.roles.client.events import ChainWanted, Deliver, Handle, RouterSeen, RouterState, WatchRouters
from protocol.roles.client.state import Held

ROUND_MS = 5_000
ANSWER_MS = 3_000
"""A router that has said nothing for so long, though it was asked, is silent."""
RETRY_MS_MAX = 60_000
"""Between two tries to reach a router that was silent."""
HEARTBEATS = 3
"""Of a committee without work: if no router has shown a later header for so many, it stands still, or all of them hold
its headers back."""
LIARS_MAX = 16
NOTE_MAX = 200
"""Characters of why a router is thought of as it is."""
QUESTIONS_MAX = 256
"""Of one stream that wait for an answer."""

OutcomeTold = OutcomeNews | SettledNews


@dataclass(slots=True)
class Watched:
    """One router, as it has shown itself."""

    node: NodeId
    state: RouterState = RouterState.UNKNOWN
    note: str = ""
    head: tuple[int, int] = (0, 0)
    """Epoch and height of the last header that it showed."""
    answer_ms: int | None = None
    """How long its last answer took."""
    channel: Channel | None = None
    questions: deque[Message] = field(default_factory=deque)
    """Not answered yet, in order; hand-overs are asked for beside them."""
    asked_ms: int = 0
    floor: tuple[int, int] = (0, 0)
    """What it has to be up to by now: somebody had it one round before it was asked."""
    ahead: Certified | None = None
    """Of an epoch whose committee it has yet to show."""
    led_on_ms: int = 0
    """When it was last asked for, or showed, a part of how that came about."""
    retry_ms: int = 0
    delay_ms: int = ROUND_MS
    asked: int = 0
    """Questions for outcomes; each has at most two answers."""
    told: int = 0
    withheld: int = 0
    """Answers of which others knew that they are final, and it did not tell."""


class Watching:
    """See the module; over what the machine holds. Spec: [LIGHT-WATCH.1]"""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._handle: Handle | None = None
        self._genesis: Genesis | None = None
        self._chain: Chain | None = None
        self._routers: dict[NodeId, Watched] = {}
        self._by_channel: dict[Channel, Watched] = {}
        self._liars: OrderedDict[NodeId, str] = OrderedDict()
        """Who lied before it was watched, and how."""
        self._before: tuple[int, int] = (0, 0)
        """The newest header that was known when this round began."""
        self._risen: tuple[tuple[int, int], int] = ((0, 0), 0)
        """The newest one, and when it was first seen."""

    def chain_of(self, genesis: Genesis) -> Chain | None:
        """What is known of a network already."""
        if self._genesis is None or self._genesis.network_id() != genesis.network_id():
            return None
        return self._chain

    def owns(self, channel: Channel) -> bool:
        """Whether a stream is one of those."""
        return channel in self._by_channel

    def node(self, channel: Channel) -> NodeId:
        """Whose it is."""
        return self._by_channel[channel].node

    def tell(self, item: ChainWanted) -> list[object]:
        """Deliver something to whoever had them watched."""
        return [] if self._handle is None else [Deliver(self._handle, item)]

    def watch(self, event: WatchRouters, genesis: Genesis, chain: Chain, now_ms: int) -> list[object]:
        """Begin, or watch some more."""
        if self._genesis is not None and self._genesis.network_id() != genesis.network_id():
            return []
        if self._chain is None:
            self._genesis, self._chain, self._handle = genesis, chain, event.handle
            self._risen = (self._newest(), now_ms)
        for node in event.routers:
            if len(self._routers) < ROUTERS_MAX:
                self._routers.setdefault(node, Watched(node))
        known = [each for each in self._liars.items() if each[0] in self._routers]
        return [effect for node, why in known for effect in self.lied(node, why)] + self._round(now_ms)

    def _newest(self) -> tuple[int, int]:
        header = self._chain.header if self._chain is not None else None
        return (0, 0) if header is None else place(header)

    # Rounds

    def due(self, name: str, number: int, now_ms: int) -> list[object]:
        """A round begins, or a router has been silent for too long."""
        if name == "round":
            return self._round(now_ms)
        watched = self._by_channel.get(Channel(number))
        if watched is None:
            return []
        return self._silent(watched, f"no answer in {ANSWER_MS // 1_000} s", now_ms, close=True)

    def _round(self, now_ms: int) -> list[object]:
        floor, self._before = self._before, self._newest()
        self._rise(now_ms)
        effects: list[object] = []
        for watched in self._routers.values():
            watched.floor = max(watched.floor, floor)
            if watched.state is RouterState.LYING:
                continue
            if watched.ahead is not None and now_ms - watched.led_on_ms >= ANSWER_MS:
                note = f"it does not show who is in the committee of epoch {watched.ahead.certificate.epoch}"
                effects += self._silent(watched, note, now_ms, close=True)
            if watched.channel is None and now_ms >= watched.retry_ms:
                effects += self._reach(watched)
            if watched.channel is not None and not any(isinstance(each, HeadAsked) for each in watched.questions):
                effects += self._ask(watched, HeadAsked(now_ms), now_ms)
        if self._handle is not None:
            self._held.deadlines.set(("round", self._handle), now_ms + ROUND_MS)
        return effects

    def _reach(self, watched: Watched) -> list[object]:
        channel = watched.channel = self._held.numbers.take()
        self._by_channel[channel] = watched
        return [Open(channel, watched.node, "light")]

    def _ask(self, watched: Watched, question: Message, now_ms: int) -> list[object]:
        channel = watched.channel
        if channel is None or question in watched.questions or len(watched.questions) >= QUESTIONS_MAX:
            return []
        if not watched.questions:
            watched.asked_ms = now_ms
            self._held.deadlines.set(("light", int(channel)), now_ms + ANSWER_MS)
        watched.questions.append(question)
        watched.asked += isinstance(question, OutcomeAsked)
        return [Send(channel, question)]

    def ask(self, question: OutcomeAsked, now_ms: int) -> list[object]:
        """Ask every router that may know."""
        return [effect for watched in self._routers.values() for effect in self._ask(watched, question, now_ms)]

    def _rise(self, now_ms: int) -> None:
        if self._newest() > self._risen[0]:
            self._risen = (self._newest(), now_ms)

    def checkpoint(self, at: tuple[int, int], now_ms: int) -> list[object]:
        """The program saw on the chain that a header of this place was accepted: no router may be behind it.

        Spec: [LIGHT-WATCH.2]
        """
        effects: list[object] = []
        for watched in self._routers.values():
            watched.floor = max(watched.floor, at)
            if not any(isinstance(each, HeadAsked) for each in watched.questions):
                effects += self._ask(watched, HeadAsked(now_ms), now_ms)
        return effects

    # What a router says

    def received(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        """A router answers. What does not hold, or was not asked for, convicts it."""
        watched = self._by_channel[channel]
        try:
            match message:
                case Certified():
                    self._answered(watched, HeadAsked, now_ms)
                    return self._head(watched, message, now_ms)
                case HandOvers() | HandOversFound():
                    return self._handed_over(watched, channel, message, now_ms)
                case OutcomeNews() | SettledNews():
                    self._told(watched, message, now_ms)
                    return self._is(watched, RouterState.ALIVE, "") if watched.state is RouterState.UNKNOWN else []
                case LightRefused():
                    return self._refused(watched, now_ms)
            raise RemoteProtocolError(f"{type(message).__name__} is out of place")
        except RemoteProtocolError as error:
            return self.lied(watched.node, str(error))

    def _answered(self, watched: Watched, kind: type[Message], now_ms: int) -> Message:
        """Takes the question that an answer belongs to. Raises RemoteProtocolError if there is none."""
        question = next((each for each in watched.questions if isinstance(each, kind)), None)
        if question is None:
            raise RemoteProtocolError("an answer to no question")
        self._drop(watched, question, now_ms)
        return question

    def _drop(self, watched: Watched, question: Message, now_ms: int) -> None:
        watched.questions.remove(question)
        assert watched.channel is not None
        name = ("light", int(watched.channel))
        watched.answer_ms, watched.delay_ms = now_ms - watched.asked_ms, ROUND_MS
        if watched.questions:
            self._held.deadlines.set(name, now_ms + ANSWER_MS)
        else:
            self._held.deadlines.clear(name)

    def _head(self, watched: Watched, certified: Certified, now_ms: int, *, showed_all: bool = False) -> list[object]:
        """Raises RemoteProtocolError for what is no final header."""
        chain = self._chain
        assert chain is not None
        assert watched.channel is not None
        try:
            header = chain.trust.check(certified)
        except UnknownEpoch as error:
            if chain.untrusted:
                return self._is(watched, RouterState.STALE, str(error)[:NOTE_MAX])
            if showed_all:
                raise
            # Whoever knows such a header knows as well how its committee came about.
            asked, watched.ahead = watched.ahead is not None, certified
            if asked:
                return []
            watched.led_on_ms = now_ms
            return chain.ask(watched.channel, certified.certificate.epoch)
        except Untrusted as error:
            # It may be true, and is too old to be believed here, or of an epoch that was skipped.
            past = chain.header is not None and certified.certificate.epoch < chain.header.epoch
            return self._is(watched, RouterState.BEHIND if past else RouterState.STALE, str(error)[:NOTE_MAX])
        chain.follow(watched.channel, certified)
        watched.head, watched.ahead = place(header), None
        self._rise(now_ms)
        return self._judged(watched, now_ms)

    def _judged(self, watched: Watched, now_ms: int) -> list[object]:
        """What is to be thought of a router by the header that it shows. Spec: [LIGHT-WATCH.1]"""
        if watched.head < watched.floor:
            note = f"it shows {_named(watched.head)}, {_named(watched.floor)} is final for long"
            return self._is(watched, RouterState.BEHIND, note)
        assert self._genesis is not None
        still_ms = now_ms - self._risen[1]
        if still_ms > HEARTBEATS * self._genesis.params.heartbeat_ms and watched.head <= self._risen[0]:
            note = f"no later header than {_named(watched.head)} for {still_ms // 1_000} s"
            return self._is(watched, RouterState.STALE, note)
        if watched.withheld:
            note = f"it did not tell of {watched.withheld} answer(s) that others knew to be final"
            return self._is(watched, RouterState.WITHHOLDING, note)
        return self._is(watched, RouterState.ALIVE, "")

    def _handed_over(
        self, watched: Watched, channel: Channel, message: HandOvers | HandOversFound, now_ms: int
    ) -> list[object]:
        """Raises RemoteProtocolError for hand-overs that do not hold, or do not lead to what it showed."""
        chain, certified = self._chain, watched.ahead
        assert chain is not None
        asks, watched.led_on_ms = chain.took(channel, message), now_ms
        if asks or certified is None:
            return asks
        return self._head(watched, certified, now_ms, showed_all=True)

    def _told(self, watched: Watched, message: OutcomeTold, now_ms: int) -> None:
        """Raises RemoteProtocolError for what does not hold; of an epoch that is not known yet it is asked again."""
        chain = self._chain
        assert chain is not None
        question = OutcomeAsked(message.outcome.session, message.outcome.task)
        watched.told += 1
        if watched.told > 2 * watched.asked:
            raise RemoteProtocolError("an answer to no question")
        if question in watched.questions:
            self._drop(watched, question, now_ms)
        try:
            check_outcome(chain.trust, message)
        except Untrusted:
            return

    def _refused(self, watched: Watched, now_ms: int) -> list[object]:
        """It has no answer: not being able to is no lie, and it is alive."""
        if not watched.questions:
            raise RemoteProtocolError("a refusal of no question")
        question = watched.questions[0]
        self._drop(watched, question, now_ms)
        if not isinstance(question, HeadAsked):
            return []
        if watched.floor > (0, 0):
            note = f"it shows no header, {_named(watched.floor)} is final for long"
            return self._is(watched, RouterState.BEHIND, note)
        return self._is(watched, RouterState.ALIVE, "")

    # What becomes of it

    def closed(self, channel: Channel, reason: str, now_ms: int) -> list[object]:
        """A stream is gone, or never stood."""
        return self._silent(self._by_channel[channel], reason, now_ms, close=False)

    def _silent(self, watched: Watched, why: str, now_ms: int, *, close: bool) -> list[object]:
        """Spec: [LIGHT-WATCH.1]"""
        channel = self._let_go(watched)
        watched.retry_ms = now_ms + watched.delay_ms
        watched.delay_ms = min(2 * watched.delay_ms, RETRY_MS_MAX)
        effects = self._is(watched, RouterState.SILENT, why[:NOTE_MAX])
        return [Close(channel), *effects] if close and channel is not None else effects

    def _let_go(self, watched: Watched) -> Channel | None:
        channel, watched.channel, watched.ahead = watched.channel, None, None
        watched.questions.clear()
        if channel is not None:
            del self._by_channel[channel]
            self._held.deadlines.clear(("light", int(channel)))
            if self._chain is not None:
                self._chain.gone(channel)
        return channel

    def lied(self, node: NodeId, why: str) -> list[object]:
        """A router showed what does not hold: it is asked nothing more."""
        watched = self._routers.get(node)
        if watched is None:
            self._liars[node] = why
            if len(self._liars) > LIARS_MAX:
                self._liars.popitem(last=False)
        if watched is None or watched.state is RouterState.LYING:
            return []
        channel = self._let_go(watched)
        effects = self._is(watched, RouterState.LYING, why[:NOTE_MAX])
        return [Close(channel), *effects] if channel is not None else effects

    def withheld(self, node: NodeId, now_ms: int) -> list[object]:
        """Another router told that an answer is final, long after this one should have. Spec: [LIGHT-OMISSION.1]"""
        watched = self._routers.get(node)
        if watched is None or watched.state is RouterState.LYING:
            return []
        watched.withheld += 1
        return self._judged(watched, now_ms) if watched.channel is not None else []

    def told_in_time(self, node: NodeId) -> None:
        """It told what became of an answer: what it did not tell before is forgiven. Spec: [LIGHT-OMISSION.1]"""
        if node in self._routers:
            self._routers[node].withheld = 0

    def _is(self, watched: Watched, state: RouterState, note: str) -> list[object]:
        watched.state, watched.note = state, note
        if self._handle is None:
            return []
        seen = RouterSeen(watched.node, state, *watched.head, watched.answer_ms, note)
        return [Deliver(self._handle, seen)]


def _named(at: tuple[int, int]) -> str:
    return f"header {at[0]}/{at[1]}"
