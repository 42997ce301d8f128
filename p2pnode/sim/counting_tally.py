"""What is counted of a world: messages and bytes on streams, signatures, and when each client had what it asked for."""

from collections import Counter
from dataclasses import dataclass, field

from p2pnode.sim.checkers import Checker
from p2pnode.sim.crypto import Key, Keys
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from protocol.core.codec import Message, decode
from protocol.core.ids import Digest, NodeId, Signature
from protocol.light.levels import Level
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import Bid, OpenSession
from protocol.messages.tasks import SubmitTask
from protocol.roles.client import Deliver, SessionAssigned, SessionOver, TaskLevel, TaskOver, TaskText


class CountingKeys:
    """Keys that count what is signed and what is checked."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.signed = 0
        self.checked = 0

    def key(self, name: str) -> Key:
        """See p2pnode.sim.crypto.Keys."""
        key = self._keys.key(name)

        def sign(digest: Digest) -> Signature:
            self.signed += 1
            return key.sign(digest)

        return Key(key.node_id, sign)

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """See protocol.core.signing.Scheme."""
        self.checked += 1
        return self._keys.recover(digest, signature)


@dataclass
class StreamCounts:
    """What crossed streams of one protocol."""

    messages: int = 0
    message_bytes: int = 0

    def since(self, before: "StreamCounts") -> "StreamCounts":
        """What came after an earlier count."""
        return StreamCounts(self.messages - before.messages, self.message_bytes - before.message_bytes)


@dataclass
class Tally(Checker):
    """Counts all that leaves on streams, by protocol; what a node tells itself is not counted."""

    streams: dict[str, StreamCounts] = field(default_factory=dict)
    bids: Counter[bytes] = field(default_factory=Counter)
    """Bids that left their miners, by session."""
    waits_us: dict[str, list[int]] = field(default_factory=dict)
    """By what clients waited for: from asking to getting it, one for each time."""
    ends: Counter[str] = field(default_factory=Counter)
    """How tasks and sessions ended, by code; a signed end has an empty one."""
    tokens: int = 0
    _opened_us: dict[str, int] = field(default_factory=dict)
    _ordered_us: dict[str, int] = field(default_factory=dict)
    _waiting: set[str] = field(default_factory=set)
    """Clients whose task has brought no token yet."""
    _shown: dict[tuple[str, int], int] = field(default_factory=dict)
    """The level of each client's answers, by handle."""

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """See Checker."""
        if sender is receiver:
            return
        counts = self.streams.get(protocol)
        if counts is None:
            counts = self.streams[protocol] = StreamCounts()
        counts.messages += 1
        counts.message_bytes += len(self.world.network.encoded(message))
        if protocol == "bid" and isinstance(message, Envelope):
            # What a router answers on the same stream is a receipt.
            content = decode(message.payload)
            if isinstance(content, Bid):
                self.bids[content.session] += 1
        elif isinstance(message, OpenSession):
            self._opened_us[sender.name] = self.world.now_us
        elif isinstance(message, SubmitTask):
            self._ordered_us[sender.name] = self.world.now_us
            self._waiting.add(sender.name)

    def effect(self, drive: Drive, effect: object) -> None:
        """See Checker."""
        if isinstance(effect, Deliver):
            self._delivered(drive.host.name, effect.handle, effect.item)

    def _delivered(self, name: str, handle: int, item: object) -> None:
        match item:
            case SessionAssigned() if name in self._opened_us:
                self._waited("assigned", self._opened_us.pop(name))
            case TaskText() if name in self._waiting:
                self._waiting.discard(name)
                self._waited("first token", self._ordered_us[name])
            case TaskOver():
                self._waiting.discard(name)
                self._waited("streamed", self._ordered_us[name])
                self.ends[f"task {item.code}".rstrip()] += 1
                self.tokens += item.tokens
            case TaskLevel():
                self._risen((name, handle), item.level, item.after_ms)
                if item.against:
                    self.ends[f"result {item.against}"] += 1
            case SessionOver():
                self.ends[f"session {item.code}".rstrip()] += 1

    def _risen(self, answer: tuple[str, int], level: Level, after_ms: int) -> None:
        for reached in range(self._shown.get(answer, 0) + 1, level + 1):
            self.waits_us.setdefault(Level(reached).name.lower(), []).append(after_ms * 1_000)
        self._shown[answer] = level

    def _waited(self, what: str, since_us: int) -> None:
        self.waits_us.setdefault(what, []).append(self.world.now_us - since_us)

    def streams_now(self) -> dict[str, StreamCounts]:
        """A copy of the counts of streams."""
        return {name: StreamCounts(counts.messages, counts.message_bytes) for name, counts in self.streams.items()}


def percentile(values: list[int], percent: int) -> int | None:
    """The value that so many percent of them do not exceed; None of none."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)] if ranked else None
