"""An oracle's production machine at hand; the other members are puppets whose streams and words a test makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from p2pnode.sim.counter import CounterLedger
from protocol.committee.signer import PREFIXES, Signer
from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Note,
    Open,
    Persist,
    Publish,
    Received,
    Send,
    SendAll,
)
from protocol.core.params import Params
from protocol.messages.committee import Propose, Recalled, State, Statement, StatementKind, SyncRequest
from protocol.messages.envelope import Envelope, seal, unseal
from protocol.messages.evidence import CommitteeNews
from protocol.roles.oracle.machine import OracleMachine
from protocol.roles.oracle.settings import OracleSettings
from tests.unit.protocol.committee_at_hand import DOMAIN, KEYS, ME, PARAMS, SIZE, START_MS, members_of, others, store

ALL = others(3)
ANSWER = Recalled(1, 1, None, (), ())
"""Of a member that has just started as well."""


@dataclass
class Oracle:
    """One machine with its disk and its streams; ``did`` holds the effects of the last event."""

    place: int = ME
    params: Params = PARAMS
    log_lost: str | None = None
    disk: dict[bytes, bytes] = field(default_factory=dict)
    now_ms: int = START_MS
    did: list[object] = field(default_factory=list)
    out: dict[Channel, NodeId] = field(default_factory=dict)
    """Streams that the machine opened to members."""
    asked: dict[Channel, NodeId] = field(default_factory=dict)
    """Streams on which it asks for what is missing."""
    key: Any = None

    def __post_init__(self) -> None:
        self._inbound = count(1)
        self.restart(self.log_lost)

    def restart(self, log_lost: str | None = None) -> None:
        """Begin with what is on the disk."""
        key = self.key or KEYS[self.place]
        log = {name: value for name, value in self.disk.items() if name.startswith(PREFIXES)}
        signer = Signer(DOMAIN, key.node_id, key.sign, log)
        settings = OracleSettings(
            key.node_id, members_of(SIZE), CounterLedger(DOMAIN, self.params), signer, log_lost, self.load
        )
        self.machine = OracleMachine(settings, DOMAIN, self.params, key.sign, self.now_ms)
        self.into: dict[int, Channel] = {}
        self.out.clear()
        self.asked.clear()

    def load(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """The durable records whose key starts so."""
        return {name: value for name, value in self.disk.items() if name.startswith(prefix)}

    # Events

    def tell(self, event: object) -> list[object]:
        """The machine hears of something; its effects happen."""
        self.did = self.machine.handle(event, self.now_ms)
        for effect in self.did:
            match effect:
                case Persist():
                    store(self.disk, effect)
                case Open(protocol="member"):
                    self.out[effect.channel] = effect.peer
                case Open():
                    self.asked[effect.channel] = effect.peer
                case Close():
                    self.out.pop(effect.channel, None)
                    self.into = {place: at for place, at in self.into.items() if at != effect.channel}
        return self.did

    def wait(self, ms: int) -> list[object]:
        """Time passes; everything it did."""
        until, did = self.now_ms + ms, []
        while (at := self.machine.next_deadline()) is not None and at <= until:
            self.now_ms = max(self.now_ms, at)
            did += self.tell(DeadlineReached())
        self.now_ms = until
        self.did = did
        return did

    def join(self, *places: int) -> "Oracle":
        """Members open their links, and the machine its own to them."""
        self.tell(DeadlineReached())
        for place in places or ALL:
            self.open(place)
        return self

    def open(self, place: int, protocol: str = "member", node: NodeId | None = None) -> Channel:
        """A member opens a stream."""
        channel = Channel(next(self._inbound))
        if protocol == "member":
            self.into[place] = channel
        self.tell(ChannelOpened(channel, node or KEYS[place].node_id, protocol))
        return channel

    def say(self, place: int, message: Message | Statement) -> list[object]:
        """A member says something on its link."""
        message = State(message) if isinstance(message, Statement) else message
        return self.tell(Received(self.into[place], message))

    def started(self) -> "Oracle":
        """All links stand, and enough members have answered: it signs."""
        self.join()
        for place in ALL[:2]:
            self.say(place, ANSWER)
        assert self.machine.signing == "yes"
        return self

    def close(self, channel: Channel, reason: str = "reset") -> list[object]:
        """A stream is gone."""
        self.out.pop(channel, None)
        return self.tell(ChannelClosed(channel, reason))

    def gossip(self, place: int, news: CommitteeNews) -> list[object]:
        """A member's news come by gossip."""
        envelope = seal(DOMAIN, KEYS[place].sign, news)
        return self.tell(GossipReceived("committee", KEYS[place].node_id, news, envelope))

    # What it did

    def sent(self, to: int | None = None) -> list[Message]:
        """What it sent to one member, or to any."""
        messages: list[Message] = []
        for effect in self.did:
            channels = effect.channels if isinstance(effect, SendAll) else ()
            channels = (effect.channel,) if isinstance(effect, Send) else channels
            peers = [self.out[channel] for channel in channels if channel in self.out]
            if peers and (to is None or KEYS[to].node_id in peers):
                messages.append(effect.message)  # type: ignore[attr-defined]
        return messages

    def signed(self) -> list[tuple[StatementKind, int]]:
        """Its statements among what it sent, proposals too."""
        said = [message.statement for message in self.sent() if isinstance(message, State | Propose)]
        return [(statement.kind, statement.height) for statement in said]

    def published(self) -> list[CommitteeNews]:
        """What it told everybody."""
        sealed = [effect.message for effect in self.did if isinstance(effect, Publish)]
        return [unseal(DOMAIN, item, CommitteeNews)[0] for item in sealed if isinstance(item, Envelope)]

    def notes(self) -> list[str]:
        """What an operator sees."""
        return [effect.what for effect in self.did if isinstance(effect, Note)]

    def question(self) -> tuple[Channel, int, SyncRequest] | None:
        """What it asks now, on which stream and of whom."""
        for effect in self.did:
            if isinstance(effect, Send) and effect.channel in self.asked and isinstance(effect.message, SyncRequest):
                place = [key.node_id for key in KEYS].index(self.asked[effect.channel])
                return effect.channel, place, effect.message
        return None
