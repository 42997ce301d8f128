"""What a dishonest router can do to a miner's stream, one way each, and the link by which it is found out.

A fraud is a function of one message at a time, so the same list is held against a lane's verifier alone, the
client's whole machine, and a client whose router tampers on a real connection.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from protocol.core.codec import Message
from protocol.core.ids import NetworkId, Signature
from protocol.core.signing import SECP256K1_N, Domain, Sign
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentStart
from protocol.session.transcript import SegmentWriter

Alter = Callable[[Message], list[Message]]
Change = Callable[[FrameMessage], list[Message]]


@dataclass(frozen=True)
class Powers:
    """What a dishonest router has at hand."""

    domain: Domain
    own_sign: Sign
    """Its own key, which is not the miner's."""
    miner_sign: Sign
    """The miner's key; an honest miner lends it to sign under another network only."""
    recorded: list[Message]
    """What the same miner streamed for another task of the session, or in another session."""


@dataclass(frozen=True)
class Fraud:
    """One way to cheat. ``link`` is what a verifier names; ``aside``: a client takes it for another task's."""

    name: str
    link: str
    make: Callable[[Powers], Alter]
    recorded: str = "task"
    aside: bool = False


def frames_of(messages: list[Message]) -> list[FrameMessage]:
    """The frames of a stream."""
    return [message for message in messages if isinstance(message, FrameMessage)]


def apply(alter: Alter, messages: list[Message]) -> list[Message]:
    """A whole stream, altered."""
    return [altered for message in messages for altered in alter(message)]


def at_frame(place: int, change: Change) -> Callable[[Powers], Alter]:
    """Change the frame at a place, counted from 0, or the end (-1)."""

    def make(_powers: Powers) -> Alter:
        seen = 0

        def alter(message: Message) -> list[Message]:
            nonlocal seen
            if not isinstance(message, FrameMessage):
                return [message]
            seen += 1
            hit = message.end is not None if place < 0 else seen - 1 == place
            return change(message) if hit else [message]

        return alter

    return make


def changed(**fields: Callable[[FrameMessage], object]) -> Change:
    """The frame with some fields computed anew."""
    return lambda frame: [msgspec.structs.replace(frame, **{name: compute(frame) for name, compute in fields.items()})]


def in_head(**fields: object) -> Callable[[Powers], Alter]:
    """Lie in the head. Whatever the frames say, it does not match the client's own order."""

    def make(_powers: Powers) -> Alter:
        def alter(message: Message) -> list[Message]:
            if isinstance(message, SegmentStart):
                return [SegmentStart(msgspec.structs.replace(message.head, **fields))]
            return [message]

        return alter

    return make


def signed_anew(who: Callable[[Powers], tuple[Domain, Sign]]) -> Callable[[Powers], Alter]:
    """The same tokens in the same chain, under another key or another network."""

    def make(powers: Powers) -> Alter:
        domain, sign = who(powers)
        writer: SegmentWriter | None = None

        def alter(message: Message) -> list[Message]:
            nonlocal writer
            if isinstance(message, SegmentStart):
                writer = SegmentWriter(domain, sign, message.head)
                return [message]
            assert isinstance(message, FrameMessage)
            assert writer is not None
            return [writer.frame(message.ids, message.texts, message.end)]

        return alter

    return make


def replayed(*, relabel: bool, head: bool) -> Callable[[Powers], Alter]:
    """What was recorded, from its head or behind the honest one; ``relabel`` makes it look like this task's."""

    def make(powers: Powers) -> Alter:
        recorded = list(powers.recorded)

        def alter(message: Message) -> list[Message]:
            if not isinstance(message, SegmentStart):
                return []
            names = {"session": message.head.session, "task": message.head.task} if relabel else {}
            stream: list[Message] = []
            for old in recorded:
                if isinstance(old, SegmentStart):
                    stream += [SegmentStart(msgspec.structs.replace(old.head, **names))] if head else [message]
                elif isinstance(old, FrameMessage):
                    stream.append(msgspec.structs.replace(old, **names))
            return stream

        return alter

    return make


def swapped(_powers: Powers) -> Alter:
    """The second frame after the third."""
    kept: list[Message] = []
    seen = 0

    def alter(message: Message) -> list[Message]:
        nonlocal seen
        if isinstance(message, FrameMessage):
            seen += 1
            if seen == 2:
                kept.append(message)
                return []
            if seen == 3:
                return [message, *kept]
        return [message]

    return alter


def without_head(_powers: Powers) -> Alter:
    """Frames only."""
    return lambda message: [] if isinstance(message, SegmentStart) else [message]


def renumbered(_powers: Powers) -> Alter:
    """A frame is left out and those after it are numbered as if it had never been."""
    missing = 0
    seen = 0

    def alter(message: Message) -> list[Message]:
        nonlocal missing, seen
        if not isinstance(message, FrameMessage):
            return [message]
        seen += 1
        if seen == 2:
            missing = len(message.ids)
            return []
        return [msgspec.structs.replace(message, first_index=message.first_index - missing)]

    return alter


def high_s(frame: FrameMessage) -> Signature:
    """The other valid signature of the same digest, which EIP-2 forbids."""
    s = SECP256K1_N - int.from_bytes(frame.signature[32:64], "big")
    return Signature(frame.signature[:32] + s.to_bytes(32, "big") + bytes([55 - frame.signature[64]]))


def ended_at(frame: FrameMessage) -> EndRecord:
    """An end record that would fit right here, which the miner did not sign."""
    return EndRecord(EndReason.LENGTH, 3, frame.first_index + len(frame.ids), 0)


def with_end(frame: FrameMessage, **fields: object) -> list[Message]:
    """The last frame with another end record."""
    assert frame.end is not None
    return [msgspec.structs.replace(frame, end=msgspec.structs.replace(frame.end, **fields))]


ELSEWHERE = Domain(NetworkId(b"\x0e" * 32))


def _own_key(powers: Powers) -> tuple[Domain, Sign]:
    return powers.domain, powers.own_sign


def _other_network(powers: Powers) -> tuple[Domain, Sign]:
    return ELSEWHERE, powers.miner_sign


FRAUDS = (
    Fraud("token id changed", "frame.signature", at_frame(1, changed(ids=lambda f: (f.ids[0] ^ 1, *f.ids[1:])))),
    Fraud("text changed", "frame.signature", at_frame(1, changed(texts=lambda f: (f.texts[0] + b"!", *f.texts[1:])))),
    Fraud("text of an id moved", "frame.signature", at_frame(1, changed(texts=lambda f: (b"", *f.texts[1:])))),
    Fraud("a text without its id", "frame.tokens", at_frame(1, changed(texts=lambda f: (*f.texts, b"more")))),
    Fraud("frame dropped", "frame.index", at_frame(1, lambda _frame: [])),
    Fraud("frame dropped, the rest renumbered", "frame.signature", renumbered),
    Fraud("frame repeated", "frame.index", at_frame(1, lambda frame: [frame, frame])),
    Fraud("first frame repeated", "frame.index", at_frame(0, lambda frame: [frame, frame])),
    Fraud("frames reordered", "frame.index", swapped),
    Fraud("head left out", "head", without_head),
    Fraud("cut at the end", "end", at_frame(-1, lambda _frame: [])),
    Fraud("end made up early", "frame.signature", at_frame(1, changed(end=ended_at))),
    Fraud("reason of the end changed", "frame.signature", at_frame(-1, lambda f: with_end(f, reason=EndReason.LENGTH))),
    Fraud("usage of the end changed", "end.usage", at_frame(-1, lambda f: with_end(f, completion_tokens=1))),
    Fraud("prompt of the end changed", "end.usage", at_frame(-1, lambda f: with_end(f, prompt_tokens=9_999))),
    Fraud("signed by another key", "frame.signature", signed_anew(_own_key)),
    Fraud("signature with a high s", "frame.signature", at_frame(1, changed(signature=high_s))),
    Fraud("signature garbled", "frame.signature", at_frame(1, changed(signature=lambda _f: bytes(64) + b"\x1b"))),
    Fraud("signed for another network", "frame.signature", signed_anew(_other_network)),
    Fraud("replayed from another task", "head.task", replayed(relabel=False, head=True), aside=True),
    Fraud("replayed from another task, relabelled", "head.order", replayed(relabel=True, head=True)),
    Fraud("another task's frames behind this head", "frame.task", replayed(relabel=False, head=False), aside=True),
    Fraud("another task's frames behind this head, relabelled", "frame.signature", replayed(relabel=True, head=False)),
    Fraud("replayed from another session", "head.session", replayed(relabel=False, head=True), "session", aside=True),
    Fraud("replayed from another session, relabelled", "head.generation", replayed(relabel=True, head=True), "session"),
    Fraud(
        "another session's frames behind this head, relabelled",
        "frame.signature",
        replayed(relabel=True, head=False),
        "session",
    ),
    Fraud("lane changed", "head.lane", in_head(lane=1)),
    Fraud("generation changed", "head.generation", in_head(generation=bytes(24))),
    Fraud("miner changed", "head.miner", in_head(miner=bytes(20))),
    Fraud("order changed", "head.order", in_head(order=bytes(32))),
    Fraud("prompt changed", "head.prompt", in_head(prompt=bytes(32))),
    Fraud("model changed", "head.model", in_head(model=bytes(32))),
    Fraud("sampling changed", "head.sampling", in_head(sampling=bytes(32))),
    Fraud("start changed", "head.start_index", in_head(start_index=1)),
    Fraud("a segment before made up", "head.previous_head", in_head(previous_head=b"\x01" * 32)),
    Fraud("rendered prompt changed", "frame.signature", in_head(prompt_tokens=bytes(32))),
)
