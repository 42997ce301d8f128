"""A miner of a network with a committee: its disk, what its oracles were told, and lanes that come to an end."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from protocol.core.codec import Message, decode, encode, unpack
from protocol.core.genesis import Genesis
from protocol.core.ids import Generation, NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    Close,
    DeadlineReached,
    Open,
    PeerConnected,
    Persist,
    Publish,
    Received,
    Send,
    SendAll,
)
from protocol.core.params import Params
from protocol.messages.handover import HandOvers, HandOversAsked
from protocol.messages.results import CommitMessage, CommittedNews, RevealAsked, RevealMessage, Submit
from protocol.messages.sessions import SessionOpen
from protocol.messages.tasks import Delivery, EndReason
from protocol.roles.miner import Generated, MinerMachine, MinerSettings, Produced, Rendered
from protocol.roles.miner.result import RESULT_BYTES_MAX, RESULT_RECORDS, StoredResult
from tests.unit.protocol.light_at_hand import EPOCH, known_book
from tests.unit.protocol.machines import (
    DOMAIN,
    GENESIS,
    MINER,
    MINERS,
    MODEL,
    OFFER,
    ORACLES,
    PARAMS,
    PROMPT_TOKENS,
    Hand,
    assignment_of,
    id_of,
    opening_of,
    order_of,
    start_of,
)
from tests.unit.protocol.miner_at_hand import Mine, Run

SALT_KEY = b"\x51" * 32
OTHER = Generation(b"\x09" * 24)
"""The lease of a lane that another miner has."""
LISTED = replace(GENESIS, miners=(MINER.node,))
"""A network that lists the miner: it need not enlist."""


def stored_of(disk: Mapping[bytes, bytes]) -> dict[bytes, StoredResult]:
    """The results on a disk."""
    kept = {name: unpack(StoredResult, value, limit_bytes=RESULT_BYTES_MAX) for name, value in disk.items()}
    return dict(sorted(kept.items(), key=lambda item: item[1].made_ms))


class Bound(Mine):
    """A miner whose results are committed to. What it wants durable is so at once."""

    def __init__(
        self,
        params: Params = PARAMS,
        genesis: Genesis = GENESIS,
        price_wei: int = 0,
        disk: dict[bytes, bytes] | None = None,
        boot: bytes = b"\x44" * 16,
        **settings: Any,
    ) -> None:
        self.disk = {} if disk is None else disk
        results = stored_of({name: at for name, at in self.disk.items() if name.startswith(RESULT_RECORDS)})
        offer = type(OFFER)(OFFER.manifest, 8, OFFER.context_tokens, price_wei)
        settings = {"hand_overs": known_book() if genesis is GENESIS else None, **settings}
        made = MinerSettings(
            MINER.node, {MODEL: offer}, boot, genesis=genesis, salt_key=SALT_KEY, results=results, **settings
        )
        Hand.__init__(self, MinerMachine(made, DOMAIN, params, MINER.sign))
        self.links: dict[NodeId, Channel] = {}
        self.told: list[tuple[NodeId, Message]] = []
        """What oracles were sent of results, in order."""
        self.asks: list[tuple[NodeId, HandOversAsked]] = []
        self.answers = True
        """Whether oracles have no more hand-overs as soon as they are asked; else the questions wait in ``asks``."""
        self.submits: list[Submit] = []
        self.gossip: list[Publish] = []
        self.news: list[CommittedNews] = []

    def tell(self, event: object) -> list[object]:
        effects = super().tell(event)
        for effect in effects:
            self.perform(effect)
        while self.asks and self.answers:
            oracle, _ = self.asks.pop(0)
            effects += self.tell(Received(self.links[oracle], HandOvers(())))
        return effects

    def perform(self, effect: object) -> None:
        """What the node would do."""
        oracles = {channel: oracle for oracle, channel in self.links.items()}
        match effect:
            case Open(protocol="results"):
                self.links[effect.peer] = effect.channel
            case Close() if effect.channel in oracles:
                del self.links[oracles[effect.channel]]
            case Send(message=Submit() as asked) | SendAll(message=Submit() as asked):
                self.submits.append(asked)
            case Send(message=HandOversAsked() as asks) if effect.channel in oracles:
                self.asks.append((oracles[effect.channel], asks))
            case Send() if effect.channel in oracles:
                self.told.append((oracles[effect.channel], decode(encode(effect.message))))
            case SendAll():
                for channel in [channel for channel in effect.channels if channel in oracles]:
                    self.told.append((oracles[channel], decode(encode(effect.message))))
            case Send(message=CommittedNews() as news):
                self.news.append(news)
            case Publish(topic="results"):
                self.gossip.append(effect)
            case Persist():
                for name, value in effect.records:
                    if value is None:
                        self.disk.pop(name, None)
                    else:
                        self.disk[name] = value

    def heard(self, place: int = 0) -> list[Message]:
        """What an oracle was told since the last time."""
        said = [message for oracle, message in self.told if oracle == ORACLES[place].node]
        self.told = [(oracle, message) for oracle, message in self.told if oracle != ORACLES[place].node]
        return said

    def commits(self, place: int = 0) -> list[CommitMessage]:
        return [message for message in self.heard(place) if isinstance(message, CommitMessage)]

    def reveals(self, place: int = 0) -> list[RevealMessage]:
        return [message for message in self.heard(place) if isinstance(message, RevealMessage)]

    def say(self, place: int, message: Message) -> list[object]:
        """An oracle speaks on its link."""
        return self.tell(Received(self.links[ORACLES[place].node], decode(encode(message))))

    def ask(self, *places: int, opening: SessionOpen | None = None, task: int = 1) -> list[object]:
        """These oracles take no more commits of a task."""
        asked = RevealAsked(id_of(opening or opening_of(lanes=2)), task)
        return [effect for place in places for effect in self.say(place, asked)]

    def cut(self, place: int) -> None:
        """An oracle's link breaks."""
        self.tell(ChannelClosed(self.links.pop(ORACLES[place].node), "gone"))

    def again(self, place: int) -> None:
        """An oracle can be reached again."""
        self.tell(PeerConnected(ORACLES[place].node))

    def tell_closed(self, channel: Channel) -> None:
        """A router's stream is gone."""
        self.tell(ChannelClosed(channel, "gone"))

    def tell_deadline(self) -> None:
        """What is due now happens."""
        self.tell(DeadlineReached())

    def tell_next(self) -> list[CommitMessage]:
        """The next thing that falls due happens; what the first oracle is told then."""
        at = self.machine.next_deadline()
        assert at is not None
        self.now_ms = max(at, self.now_ms)
        self.tell_deadline()
        return self.commits()

    def told_results(self) -> list[Message]:
        """What any oracle was told of results."""
        return [message for _, message in self.told if isinstance(message, CommitMessage | RevealMessage)]

    def restart(self, boot: bytes = b"\x45" * 16, **settings: Any) -> "Bound":
        """The next life, on the same disk."""
        reborn = Bound(disk=self.disk, boot=boot, **settings)
        reborn.now_ms = self.now_ms
        reborn.tell(DeadlineReached())
        return reborn


class Streamed(Run):
    """An order of lane 0 that comes to its end."""

    def __init__(self, mine: Bound, opening: SessionOpen | None = None, task: int = 1, **fields: Any) -> None:
        super().__init__(mine, opening or opening_of(), task, **{"cap_wei": 10_000, "home_epoch": EPOCH, **fields})

    def end(self, tokens: int = 3) -> list[object]:
        """All of it, up to the signed end; nothing is acknowledged."""
        self.render()
        effects = self.produce(tokens)
        effects += self.report()
        return effects + self.finish() + self.report()

    def done(self, tokens: int = 3) -> None:
        """And the client acknowledges it all."""
        self.end(tokens)
        self.ack()


class Withheld:
    """An order of lane 1, which is streamed to nobody."""

    def __init__(
        self,
        mine: Bound,
        opening: SessionOpen | None = None,
        task: int = 1,
        leased: tuple[Channel, Generation] | None = None,
    ) -> None:
        self.mine = mine
        self.session = opening or opening_of(lanes=2)
        self.channel, self.generation = leased or mine.lease(self.session)
        self.order = order_of(self.session, task, cap_wei=10_000, home_epoch=EPOCH)
        self.name = (bytes(id_of(self.session)), task, 1)
        assignment = assignment_of(
            self.session, miners=(MINERS[1].node, MINER.node), generations=(OTHER, self.generation)
        )
        self.begun = mine.receive(self.channel, start_of(assignment, self.order, lane=1, delivery=Delivery.WITHHELD))

    def end(self, tokens: int = 3) -> list[object]:
        """Up to its signed end."""
        self.mine.tell(Rendered(self.name, PROMPT_TOKENS))
        self.mine.tell(Produced(self.name, tuple(range(tokens)), tuple(b"%d " % i for i in range(tokens))))
        return self.mine.tell(Generated(self.name, EndReason.STOP, 0))
