"""What a router holds of its clients, sessions and tasks. Data only; the rules are beside it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.core.ids import Generation, NodeId, SessionId, Signature
from protocol.core.machine import Channel
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import Assignment, Bid, CountersignedBid, SessionOpen
from protocol.messages.tasks import SEGMENTS_MAX, Continuation, FrameMessage, SegmentHead, SubmitTask
from protocol.session.lifecycle import (
    Lifecycle,
    SessionFact,
    SessionState,
    TaskFact,
    TaskState,
    session_lifecycle,
    task_lifecycle,
)
from protocol.session.transcript import LaneVerifier

TOKEN_OVERHEAD_BYTES = 8
"""What a token takes in a Continuation beside its text."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What distinguishes one router from another."""

    node: NodeId
    addresses: tuple[str, ...]
    genesis: str
    """The genesis file's text, shown to clients."""
    numbers: Mapping[SessionId, int] = field(default_factory=dict)
    """The highest assignment number signed for each session that has not expired, from the store."""
    rounds_max: int = 64
    """Sessions that are looking for miners at the same time; the others wait in the queue."""


@dataclass(slots=True)
class Task:
    """One order on its way through the router."""

    submit: SubmitTask
    life: Lifecycle[TaskState, TaskFact] = field(default_factory=task_lifecycle)
    verifier: LaneVerifier | None = None
    started_ms: int = 0
    first_ms: int | None = None
    cancelled: bool = False
    heads: list[SegmentHead] = field(default_factory=list)
    """Of the segments that hold tokens, and of the present one."""
    ids: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    """What was verified and relayed so far: a takeover goes on from here."""
    kept_bytes: int = 0
    resumable: bool = True
    """Whether all that was relayed is still held: what no StartTask could carry is not."""
    acked: int = 0
    awaited_ms: int = 0
    """Since when the next frame is the miner's to bring: the last frame, or the ack that gave it credit again."""
    fruitless: int = 0
    """Times it was handed over since the last token came, the present one included."""
    failures: int = 0
    """Times a miner said that it failed at it since the last token came."""

    @property
    def number(self) -> int:
        """Its number within the session."""
        return self.submit.order.task

    @property
    def index(self) -> int:
        """Tokens relayed so far."""
        return self.verifier.index if self.verifier is not None else 0

    @property
    def size(self) -> int:
        """How much there is to read before the next token comes: bytes of prompt and answer."""
        prompt = sum(len(turn.content.encode()) for turn in self.submit.prompt.messages)
        return max(1, prompt + sum(map(len, self.texts)))

    def keep(self, message: FrameMessage, size_max: int) -> None:
        """Hold what a takeover needs, as long as it can be passed on at all."""
        if not self.resumable:
            return
        self.ids.extend(message.ids)
        self.texts.extend(message.texts)
        self.kept_bytes += sum(TOKEN_OVERHEAD_BYTES + len(text) for text in message.texts)
        starts = {head.start_index for head in self.heads}
        if self.kept_bytes > size_max or len(starts) >= SEGMENTS_MAX:
            self.resumable = False
            self.ids.clear()
            self.texts.clear()

    def continuation(self) -> Continuation | None:
        """What the next miner needs to go on; None while nothing was signed."""
        if not self.ids:
            return None
        # A segment that brought no token leaves no trace in the chain.
        heads = {head.start_index: head for head in self.heads if head.start_index < len(self.ids)}
        return Continuation(tuple(heads[start] for start in sorted(heads)), tuple(self.ids), tuple(self.texts))


@dataclass(slots=True)
class Lease:
    """The slot a miner granted, and the assignment that names it."""

    miner: NodeId
    channel: Channel
    generation: Generation
    assignment: Assignment
    signature: Signature


@dataclass(slots=True)
class Round:
    """One auction: bids while it is open, then miners to ask, best first."""

    bids: dict[NodeId, tuple[Bid, CountersignedBid]] = field(default_factory=dict)
    candidates: list[NodeId] = field(default_factory=list)
    bid_set: Envelope | None = None
    asked: NodeId | None = None
    channel: Channel | None = None


@dataclass(slots=True)
class Session:
    """One session of one client."""

    id: SessionId
    opening: SessionOpen
    signature: Signature
    client: Channel
    peer: NodeId
    tokens: int
    deadline_ms: int
    life: Lifecycle[SessionState, SessionFact] = field(default_factory=session_lifecycle)
    widening: int = 0
    starved: int = 0
    round: Round | None = None
    lease: Lease | None = None
    spent: Round | None = None
    """The round that gave the lease; its remaining candidates are the standbys."""
    lost: Counter[NodeId] = field(default_factory=Counter)
    """How often miners failed this session: the oftener, the later they are asked again."""
    generations: set[Generation] = field(default_factory=set)
    """Of all its leases: a late ack may name an earlier one."""
    tasks: dict[int, Task] = field(default_factory=dict)
    last_task: int = 0

    @property
    def was_ready(self) -> bool:
        """Whether its client was told of a lease: it may order, even while another miner is looked for."""
        return self.spent is not None

    def leased_on(self, channel: Channel) -> bool:
        """Whether the channel carries the present lease."""
        return self.lease is not None and self.lease.channel == channel

    def running(self) -> Task | None:
        """The task the miner works on."""
        for task in self.tasks.values():
            if task.life.state in (TaskState.STARTED, TaskState.STREAMING):
                return task
        return None

    def waiting(self) -> Task | None:
        """The next task in line."""
        for task in self.tasks.values():
            if task.life.state is TaskState.QUEUED:
                return task
        return None


@dataclass(slots=True)
class Measured:
    """What this router saw of a miner: smoothed over tasks."""

    tasks: int = 0
    tokens_per_second: int = 0
    first_token_ms: int = 0
    success_bp: int = 10_000
    gap_ms: int = 0
    """The longest lately seen between two frames of a stream; fades. 0: none was seen."""
    begin_ms: int = 0
    """The longest lately seen before a first frame; fades. 0: none was seen."""
    begin_size: int = 1
    """What there was to read that time, in bytes."""

    def paused(self, gap_ms: int) -> None:
        """Two frames of one stream came so far apart."""
        self.gap_ms = max(1, gap_ms, self.gap_ms - self.gap_ms // 16)

    def began(self, after_ms: int, size: int) -> None:
        """A first frame came after so long, with so much to read before it."""
        self.begin_ms -= self.begin_ms // 16
        # Longer, or longer for its size.
        if after_ms >= self.begin_ms or after_ms * self.begin_size >= self.begin_ms * size:
            self.begin_ms, self.begin_size = max(1, after_ms), size

    def succeeded(self, tokens: int, first_token_ms: int, stream_ms: int) -> None:
        """A task that ended with a signed end."""
        self.tasks += 1
        self.first_token_ms = _smooth(self.first_token_ms, first_token_ms)
        if tokens >= 8 and stream_ms > 0:
            self.tokens_per_second = _smooth(self.tokens_per_second, (tokens - 1) * 1_000 // stream_ms)
        self.success_bp = (7 * self.success_bp + 10_000) // 8

    def failed(self) -> None:
        """A task the miner did not bring to an end."""
        self.tasks += 1
        self.success_bp = 7 * self.success_bp // 8


def _smooth(before: int, now: int) -> int:
    return (3 * before + now) // 4 if before else now
