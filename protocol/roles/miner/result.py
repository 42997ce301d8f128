"""The result of one lane: what its miner commits to, what opens that, and why the lane was its own.

It is made once, when the lane's end is signed, and kept as it is until its outcome is final: only acks are added.
"""

from dataclasses import dataclass, field

import msgspec

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.machine import Channel
from protocol.core.signing import U64, Domain, Sign, keccak, typed_digest
from protocol.messages.results import (
    AckWord,
    Commit,
    CommitMessage,
    CommittedNews,
    Opening,
    Papers,
    Reveal,
    RevealMessage,
    Segment,
    SignedCommit,
    SignedReveal,
)
from protocol.messages.tasks import AckMessage
from protocol.results.commitment import chain_heads, commit_of, head_of, make_opening, result_root, segment_of
from protocol.roles.miner.lane import Lane
from protocol.session.transcript import segment_id

RESULT_RECORDS = b"result/"
"""What the names of kept results start with; session, task, lane and generation follow."""
RESULT_BYTES_MAX = 16_384

_SALT = b"p2pnode/salt/1"


class StoredResult(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a miner must not forget of a lane before its outcome is final."""

    made_ms: U64
    commit: SignedCommit
    reveal: SignedReveal
    papers: Papers
    opening: Opening
    asked: bool
    """It may be opened: the task has one lane, or f+1 oracles take no more commits of it."""


@dataclass(slots=True)
class Result:
    """A result on its way."""

    name: bytes
    """Of its record."""
    stored: StoredResult
    stream: Channel | None
    """Of the lane's lease: its router is told."""
    delay_ms: int
    """After which it is sent again."""
    waits: bool = False
    """The client may yet acknowledge more: so long nothing is opened."""
    committed: bool = False
    """The commit has left."""
    opened: bool = False
    """So has the opening."""
    raised: bool = False
    """And the client has acknowledged more since."""
    asked_by: set[NodeId] = field(default_factory=set)
    """The oracles that asked for the opening."""
    repeats: int | None = None
    """How often it is still said again, now that the outcome is final; None before."""

    @property
    def task(self) -> tuple[bytes, int]:
        """Of which session and task."""
        return self.stored.commit.commit.session, self.stored.commit.commit.task

    @property
    def home_epoch(self) -> int:
        """Whose committee observes it."""
        return self.stored.papers.order.home_epoch

    @property
    def alone(self) -> bool:
        """Whether the task has one lane: nobody could copy, so commit and opening leave together."""
        return self.stored.papers.session.opening.lanes == 1

    def commit(self) -> CommitMessage:
        """The commit, with its opening where that has left and there is one lane."""
        kept = self.stored
        if not (self.alone and self.opened):
            return CommitMessage(kept.commit, kept.papers)
        return CommitMessage(kept.commit, kept.papers, kept.reveal, kept.opening)

    def reveal(self) -> RevealMessage:
        """What opens it, with all acks there are."""
        return RevealMessage(self.stored.reveal, self.stored.opening)

    def messages(self) -> list[Message]:
        """All that an oracle may lack."""
        if self.repeats is not None:
            return [self.reveal()]
        apart = self.opened and (self.raised or not self.alone)
        return [self.commit(), *([self.reveal()] if apart else [])]

    def news(self) -> CommittedNews:
        """What the router and its client are told."""
        return CommittedNews(self.stored.commit, self.stored.reveal if self.alone else None)


def record_of(commit: Commit) -> bytes:
    """The name under which a result is kept."""
    place = commit.session + commit.task.to_bytes(4, "big") + bytes([commit.lane]) + commit.generation
    return RESULT_RECORDS + place


def make_result(domain: Domain, sign: Sign, salt_key: bytes, lane: Lane, now_ms: int) -> StoredResult:
    """The result of a lane whose end is signed.

    Spec: [RESULT-ROOT.1] [COMMIT-SALT.1] [RESULT-SECRET.1]
    """
    assert lane.writer is not None and lane.papers is not None
    papers, own = lane.papers, lane.writer.head
    order, heads = papers.order, (*lane.earlier, own)
    ended = lane.report()
    segments = [_segment(segment_of(head), lane.words.get(segment_id(domain, head))) for head in heads]
    count = ended.end.completion_tokens
    opening = make_opening(domain, order, papers.order_signature, heads, ended.chain, count, segments)
    digest = chain_heads(ZERO_DIGEST, (segment_id(domain, head) for head in heads))
    root = result_root(domain, order, own.model, digest, ended.chain, count)
    place = own.session + own.task.to_bytes(4, "big") + bytes([own.lane]) + own.generation
    salt = keccak(_SALT + salt_key + place)
    reveal = Reveal(own.session, own.task, own.lane, own.generation, own.miner, root, count, salt)
    commit = commit_of(domain, reveal)
    return StoredResult(
        now_ms,
        SignedCommit(commit, sign(typed_digest(domain, commit))),
        SignedReveal(reveal, sign(typed_digest(domain, reveal))),
        papers,
        opening,
        papers.session.opening.lanes == 1,
    )


def _segment(segment: Segment, word: AckWord | None) -> Segment:
    return segment if word is None else msgspec.structs.replace(segment, ack=word)


def with_ack(domain: Domain, opening: Opening, message: AckMessage) -> Opening | None:
    """An opening with a later ack of one of its segments; None if the ack is none. Who signed it is not checked."""
    ack = message.ack
    if opening.lane or (ack.session, ack.task, ack.lane) != (opening.order.session, opening.order.task, 0):
        return None
    for place, (segment, end) in enumerate(zip(opening.segments, _ends(opening), strict=True)):
        head = head_of(domain, opening, segment)
        if (segment.generation, segment_id(domain, head)) != (ack.generation, ack.segment):
            continue
        known = segment.start_index if segment.ack is None else segment.ack.index
        if not known < ack.index <= end:
            return None
        segments = list(opening.segments)
        segments[place] = _segment(segment, AckWord(ack.index, ack.chain, message.signature))
        return msgspec.structs.replace(opening, segments=tuple(segments))
    return None


def acknowledged(opening: Opening) -> bool:
    """Whether the client has acknowledged the lane's last token."""
    for segment, end in zip(reversed(opening.segments), reversed(_ends(opening)), strict=True):
        if segment.start_index < end:
            return segment.ack is not None and segment.ack.index == end
    return True


def _ends(opening: Opening) -> list[int]:
    return [*(segment.start_index for segment in opening.segments[1:]), opening.count]


def needs_ack(opening: Opening) -> bool:
    """Whether an ack is still to come that the lane's pay depends on."""
    return opening.lane == 0 and not acknowledged(opening)
