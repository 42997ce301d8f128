"""Questions for outcomes that a router cannot answer itself, passed on to oracles.

So every router can say what became of an answer, whoever's session it was, and no client depends on one of them.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelNumbers, Close, Open, Send
from protocol.light.headers import HeaderTrust
from protocol.light.news import check_outcome
from protocol.messages.receipts import LightRefused, OutcomeAsked
from protocol.messages.results import OutcomeNews, SettledNews

FORWARD_MS = 1_500
"""Oracles answer within this, or whoever asked is told to ask again."""
ORACLES_ASKED = 2
QUESTIONS_MAX = 256
"""Under way at once, and of one oracle."""
ASKERS_MAX = 16
"""Of one question, and questions of one asker."""

Place = tuple[bytes, int]
"""Session and number of an order."""
Told = OutcomeNews | SettledNews


@dataclass(slots=True)
class _Question:
    """One order's outcome, under way."""

    askers: dict[Channel, None]
    awaited: int
    """Oracles that have not answered."""
    told: dict[type[Message], Told] = field(default_factory=dict)
    """What was passed on: one of each kind."""
    not_final: bool = False
    """Whether it is a matter of time."""


class Forwarding:
    """See the module. Oracles are believed as little as anybody: what does not hold is not passed on.

    Spec: [OUTCOME-FORWARDED.1]
    """

    def __init__(self, trust: HeaderTrust) -> None:
        self._trust = trust
        self._numbers = ChannelNumbers()
        self._questions: OrderedDict[Place, _Question] = OrderedDict()
        self._until: Deadlines[Place] = Deadlines()
        self._channels: dict[NodeId, Channel] = {}
        self._oracles: dict[Channel, NodeId] = {}
        self._asked: dict[Channel, deque[Place]] = {}
        """What each stream has yet to answer, in order."""
        self._turn = 0

    def owns(self, channel: Channel) -> bool:
        """Whether a stream leads to an oracle."""
        return channel in self._oracles

    def next_deadline(self) -> int | None:
        """When the first question is given up."""
        return self._until.next()

    def ask(self, asker: Channel, asked: OutcomeAsked, now_ms: int, *, known: bool = False) -> list[object]:
        """Pass a question on; the answer goes to its asker. An order that is known here is a matter of time."""
        place: Place = (asked.session, asked.task)
        held = self._questions.get(place)
        if held is not None and len(held.askers) < ASKERS_MAX:
            held.askers[asker] = None
            return [Send(asker, message) for message in held.told.values()]
        oracles, of_asker = self._next_oracles(), sum(asker in each.askers for each in self._questions.values())
        full = len(self._questions) >= QUESTIONS_MAX or of_asker >= ASKERS_MAX
        if held is not None or not oracles or full:
            code: Literal["busy", "not_held"] = "busy" if oracles else "not_held"
            return [Send(asker, LightRefused(code, "the oracles cannot be asked for it now"))]
        self._questions[place] = _Question({asker: None}, len(oracles), not_final=known)
        self._until.set(place, now_ms + FORWARD_MS)
        return [effect for oracle in oracles for effect in self._send(oracle, asked, place)]

    def _next_oracles(self) -> list[NodeId]:
        """Members take turns, so that one that says nothing is soon not asked."""
        # The next committee is known as soon as an epoch has begun.
        members = self._trust.members_of(self._trust.epoch - 1) or self._trust.members
        self._turn += 1
        found = [members[(self._turn + place) % len(members)] for place in range(min(ORACLES_ASKED, len(members)))]
        return [
            oracle
            for oracle in found
            if len(self._asked.get(self._channels.get(oracle, Channel(0)), ())) < QUESTIONS_MAX
        ]

    def _send(self, oracle: NodeId, asked: OutcomeAsked, place: Place) -> Iterable[object]:
        if oracle not in self._channels:
            channel = self._channels[oracle] = self._numbers.take()
            self._oracles[channel], self._asked[channel] = oracle, deque()
            yield Open(channel, oracle, "light")
        channel = self._channels[oracle]
        self._asked[channel].append(place)
        yield Send(channel, asked)

    # Answers

    def received(self, channel: Channel, message: Message) -> list[object]:
        """An oracle answers."""
        match message:
            case OutcomeNews() | SettledNews():
                place: Place = (message.outcome.session, message.outcome.task)
                awaited = place in self._asked[channel]
                if awaited:
                    self._asked[channel].remove(place)
                return self._told(place, message, awaited=awaited)
            case LightRefused() if self._asked[channel]:
                return self._refused(self._asked[channel].popleft(), not_final=message.code == "not_final")
        return [Close(channel), *self.closed(channel)]

    def _told(self, place: Place, message: Told, *, awaited: bool) -> list[object]:
        question = self._questions.get(place)
        if question is None or message.outcome.lane or type(message) in question.told:
            return self._refused(place, not_final=False) if awaited else []
        try:
            check_outcome(self._trust, message)
        except RemoteProtocolError:
            return self._refused(place, not_final=False) if awaited else []
        question.told[type(message)] = message
        question.awaited -= awaited
        return [Send(asker, message) for asker in question.askers]

    def _refused(self, place: Place, *, not_final: bool) -> list[object]:
        question = self._questions.get(place)
        if question is None:
            return []
        question.awaited -= 1
        question.not_final |= not_final
        if question.awaited > 0 or question.told:
            return []
        return self._over(place, "not_final" if question.not_final else "not_held")

    def _over(self, place: Place, code: Literal["busy", "not_final", "not_held"]) -> list[object]:
        question = self._questions.pop(place)
        self._until.clear(place)
        if question.told:
            return []
        refused = LightRefused(code, "the oracles that were asked do not tell it")
        return [Send(asker, refused) for asker in question.askers]

    def expire(self, now_ms: int) -> list[object]:
        """Give up what no oracle answers."""
        return [effect for place in list(self._until.due(now_ms)) for effect in self._over(place, "busy")]

    def closed(self, channel: Channel) -> list[object]:
        """The stream to an oracle is gone."""
        del self._channels[self._oracles.pop(channel)]
        asked = self._asked.pop(channel)
        return [effect for place in asked for effect in self._refused(place, not_final=False)]

    def left(self, asker: Channel) -> None:
        """Whoever asked is gone."""
        for question in self._questions.values():
            question.askers.pop(asker, None)
