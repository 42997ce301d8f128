"""What a router holds of its clients, sessions and tasks. Data only; the rules are beside it."""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.core.codec import Message
from protocol.core.ids import Generation, NodeId, SessionId, Signature
from protocol.core.machine import Channel, Send
from protocol.light.handovers import HandOverBook
from protocol.light.lane_papers import LanePapers
from protocol.light.shelf import ReceiptShelf
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import (
    Announcement,
    Assignment,
    Bid,
    CountersignedBid,
    SessionOpen,
    SessionReady,
    SignedTerm,
)
from protocol.messages.tasks import (
    SEGMENTS_MAX,
    Continuation,
    FrameMessage,
    SegmentHead,
    SegmentStart,
    SubmitTask,
)
from protocol.session.lifecycle import (
    Lifecycle,
    SessionFact,
    SessionState,
    TaskFact,
    TaskState,
    session_lifecycle,
    task_lifecycle,
)
from protocol.session.prompts import prompt_bytes
from protocol.session.transcript import LaneVerifier, continuation_bytes

DOUBT_MS_MIN, DOUBT_MS_MAX = 15_000, 900_000
"""How long a miner that did not keep its bid is asked last."""
KEPT_MESSAGES_MAX = 1_024
KEPT_BYTES_MAX = 262_144
"""Both above what an honest miner sends without an ack, so only a client that lags behind loses the right to resume."""
MEASURED_MAX = 10_000
LIKELY_BYTES = 12
"""What a token that was likely takes beside its text."""
MESSAGE_BYTES = 1_024
"""What a message takes beside its longest field, about; that of a frame is smaller, but comes with tokens."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What distinguishes one router from another."""

    node: NodeId
    addresses: tuple[str, ...]
    genesis: str
    """The genesis file's text, shown to clients."""
    numbers: Mapping[SessionId, int] = field(default_factory=dict)
    """The highest assignment number signed for each session that has not expired, from the store."""
    followed: HandOverBook | None = None
    """The committees as far as they are known here: the node pool says who may bid. None: everybody may."""
    shelf: ReceiptShelf | None = None
    """Where the receipts of relayed answers are kept. None: nowhere."""
    hedge_bp: int = 500
    """Share of orders that may be started at a second miner when the first is late; 0: none."""
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
    direct: bool = False
    """Whether its frames go from miner to client, past this router, which knows none of its tokens."""
    reported: bool = False
    """Whether its miner has reported its end and works on the next; the client may still ask for frames it missed."""
    generation: Generation | None = None
    """The lease under which it was last handed over."""
    papers: LanePapers = field(default_factory=LanePapers)
    """Of lane 0, for its receipt."""

    @property
    def number(self) -> int:
        """Its number within the session."""
        return self.submit.order.task

    @property
    def logprobs(self) -> int:
        """Which its frames have to bring, as ordered."""
        return self.submit.prompt.sampling.logprobs

    @property
    def settled(self) -> bool:
        """Whether its client has all of it, as far as is known here."""
        return self.reported and self.direct

    @property
    def started(self) -> bool:
        """Whether it was handed over, and did not end."""
        return self.life.state in (TaskState.STARTED, TaskState.STREAMING)

    @property
    def index(self) -> int:
        """Tokens relayed so far."""
        return self.verifier.index if self.verifier is not None else len(self.ids)

    @property
    def size(self) -> int:
        """How much there is to read before the next token comes: bytes of prompt and answer."""
        return max(1, prompt_bytes(self.submit.prompt) + sum(map(len, self.texts)))

    def adopt(self, resume: Continuation) -> None:
        """Go on from what the client has: it was relayed by another router, or not at all."""
        self.heads, self.ids, self.texts = list(resume.heads), list(resume.ids), list(resume.texts)
        self.kept_bytes = continuation_bytes(resume.texts)
        self.verifier, self.resumable = None, True

    def keep(self, message: FrameMessage, size_max: int) -> None:
        """Hold what a takeover needs, as long as it can be passed on at all."""
        if not self.resumable:
            return
        self.ids.extend(message.ids)
        self.texts.extend(message.texts)
        self.kept_bytes += continuation_bytes(message.texts)
        starts = {head.start_index for head in self.heads}
        if self.kept_bytes > size_max or len(starts) >= SEGMENTS_MAX:
            self.resumable = False
            self.ids.clear()
            self.texts.clear()

    def segments(self) -> list[SegmentHead]:
        """The heads of the segments that hold tokens: one that brought none leaves no trace in the chain."""
        heads = {head.start_index: head for head in self.heads if head.start_index < self.index}
        return [heads[start] for start in sorted(heads)]

    def continuation(self) -> Continuation | None:
        """What the next miner needs to go on; None while nothing was signed."""
        if not self.ids:
            return None
        heads = [head for head in self.segments() if head.start_index < len(self.ids)]
        return Continuation(tuple(heads), tuple(self.ids), tuple(self.texts))


@dataclass(slots=True)
class Lease:
    """The slot a miner granted."""

    miner: NodeId
    channel: Channel
    generation: Generation
    price_wei: int
    """Of a token, as its miner bid it: every head under this lease has to name that."""
    orders: int = 1
    """So many its miner runs at once, if it has the slots."""
    full: bool = False
    """Whether its miner had no slot to spare for one more order; until one of this lease ends."""
    first: "Assigned | None" = None
    """The first assignment that names it for lane 0; a later one may rest on bids of another round."""
    explained: bool = False
    """Whether its miner was shown that."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment as it was signed, with the bid set it names."""

    assignment: Assignment
    signature: Signature
    bid_set: Envelope


@dataclass(slots=True)
class Round:
    """One auction: bids while it is open, then miners to ask, best first."""

    announcement: Announcement
    announced: Envelope
    """The announcement as it was published."""
    bids: dict[NodeId, tuple[Bid, CountersignedBid]] = field(default_factory=dict)
    candidates: list[NodeId] = field(default_factory=list)
    bid_set: Envelope | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A miner that was asked for a lease and has not answered."""

    miner: NodeId
    lane: int
    price_wei: int
    hedge: int = 0
    """The order to be started a second time, while the lane's own miner is still waited for; 0: none."""


@dataclass(slots=True)
class Hedge:
    """A second start of the running order, before its first token: who brings one first goes on."""

    task: int
    lease: Lease
    assigned: Assigned
    verifier: LaneVerifier
    started_ms: int
    head: SegmentStart | None = None


@dataclass(slots=True)
class Withheld:
    """What the miner of a lane above 0 works on, and the orders that wait for it."""

    running: Task | None = None
    waiting: deque[Task] = field(default_factory=deque)


@dataclass(slots=True)
class Session:
    """One session of one client."""

    id: SessionId
    opening: SessionOpen
    signature: Signature
    client: Channel | None
    """None while the client's stream is lost."""
    peer: NodeId
    tokens: int
    deadline_ms: int
    term: SignedTerm | None = None
    life: Lifecycle[SessionState, SessionFact] = field(default_factory=session_lifecycle)
    widening: int = 0
    starved: int = 0
    bidless: int = 0
    """Rounds in a row in which nobody bid until the window closed."""
    round: Round | None = None
    """The auction that is open, or the one that gave the leases: its remaining candidates are the standbys."""
    asks: dict[Channel, Ask] = field(default_factory=dict)
    granted: dict[int, Lease] = field(default_factory=dict)
    """By lane: granted, and not assigned yet."""
    leases: dict[int, Lease] = field(default_factory=dict)
    """By lane: assigned."""
    assigned: Assigned | None = None
    """The latest assignment."""
    hedge: Hedge | None = None
    withheld: dict[int, Withheld] = field(default_factory=dict)
    """By lane, from 1 on."""
    tried: set[NodeId] = field(default_factory=set)
    """Miners of other lanes that were asked to take over lane 0 since it last had a miner."""
    lost: Counter[NodeId] = field(default_factory=Counter)
    """How often miners failed this session: the oftener, the later they are asked again."""
    tasks: dict[int, Task] = field(default_factory=dict)
    last_task: int = 0
    direct: set[int] = field(default_factory=set)
    """Orders that were to be streamed directly: the client may send each again, to have it relayed."""
    told: int = 0
    """Messages to the client so far."""
    kept: deque[Message] = field(default_factory=deque)
    """The latest of them: those after the last frame that the client acknowledged."""
    kept_bytes: int = 0
    reserved: bool = True
    """Whether the ledger holds what it may cost; where it does not yet, miners give credit, and may wait beyond."""
    had: int = 0
    """Tokens of orders that ended."""

    @property
    def was_ready(self) -> bool:
        """Whether its client was told of a lease: it may order, even while another miner is looked for."""
        return self.assigned is not None

    @property
    def lease(self) -> Lease | None:
        """Of lane 0, the one that is streamed."""
        return self.leases.get(0)

    @property
    def unfinished(self) -> bool:
        """Whether its client, should it come back, has something to come back for."""
        ends = (message for message in self.kept if isinstance(message, FrameMessage) and message.end)
        return self.was_ready and (bool(self.tasks) or any(ends))

    def strains(self, task: Task, credit_wei: int) -> bool:
        """Whether lane 0's miner may wait for the reservation before it begins, as far as is known here."""
        bid = self.round.bids.get(self.lease.miner) if self.round is not None and self.lease is not None else None
        price_wei = bid[0].price_wei if bid is not None else 0
        at_work = sum(each.submit.order.max_tokens for each in self.at_work() if each is not task)
        return not self.reserved and price_wei * (self.had + at_work + task.submit.order.max_tokens) > credit_wei

    def lane_on(self, channel: Channel) -> int | None:
        """The lane whose present lease a channel carries."""
        return next((lane for lane, lease in self.leases.items() if lease.channel == channel), None)

    def tell(self, message: Message) -> list[object]:
        """Send the client a message, and keep it until the client is known to have it. Spec: [RESUME-REPLAY.1]"""
        self.told += 1
        self.kept.append(message)
        self.kept_bytes += _bytes_of(message)
        while len(self.kept) > KEPT_MESSAGES_MAX or self.kept_bytes > KEPT_BYTES_MAX:
            self._forget_oldest()
        return [] if self.client is None else [Send(self.client, message, key=self.id)]

    def acked(self, task: int, index: int) -> None:
        """The client has the frame of a task that ends at ``index``, and all that was sent before it."""
        for place, message in enumerate(self.kept):
            if (
                isinstance(message, FrameMessage)
                and message.task == task
                and message.first_index + len(message.ids) == index
            ):
                for _ in range(place + 1):
                    self._forget_oldest()
                return

    def _forget_oldest(self) -> None:
        self.kept_bytes -= _bytes_of(self.kept.popleft())

    def at_work(self) -> list[Task]:
        """The tasks that lane 0's miner works on."""
        return [task for task in self._started() if self.lease is not None and task.generation == self.lease.generation]

    def running(self) -> Task | None:
        """The first task that lane 0's miner works on, or that the next goes on with."""
        return next(iter(self.at_work() or self._started()), None)

    def in_line(self) -> list[Task]:
        """The tasks that lane 0's miner is to be handed next: what another one began first."""
        generation = self.lease.generation if self.lease is not None else None
        begun = [task for task in self._started() if task.generation != generation or generation is None]
        return begun + [task for task in self.tasks.values() if task.life.state is TaskState.QUEUED]

    def _started(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.started and not task.reported]


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
    doubts: int = 0
    """In a row, up to now: leases that it did not answer in time, and orders that it did not bring to an end."""
    doubted_until_ms: int = 0
    """Until then it is asked last."""

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
        self.doubts = self.doubted_until_ms = 0

    def reported(self) -> None:
        """A task that ended with a signed end, and whose frames did not pass here."""
        self.tasks += 1
        self.success_bp = (7 * self.success_bp + 10_000) // 8

    def failed(self, now_ms: int) -> None:
        """A task the miner did not bring to an end."""
        self.tasks += 1
        self.success_bp = 7 * self.success_bp // 8
        self.doubt(now_ms)

    def doubt(self, now_ms: int) -> None:
        """It bid and did not keep it: it is asked last for a while, twice as long each time in a row."""
        self.doubted_until_ms = now_ms + min(DOUBT_MS_MIN << min(self.doubts, 16), DOUBT_MS_MAX)
        self.doubts += 1


class Measurements(OrderedDict[NodeId, Measured]):
    """What this router saw of miners, the latest ``MEASURED_MAX`` that it had to do with."""

    def of(self, miner: NodeId) -> Measured:
        """One miner's, to be added to."""
        measured = self.get(miner)
        if measured is None:
            measured = self[miner] = Measured()
            while len(self) > MEASURED_MAX:
                self.popitem(last=False)
        return measured


def _smooth(before: int, now: int) -> int:
    return (3 * before + now) // 4 if before else now


def _logprobs_bytes(message: FrameMessage) -> int:
    if message.logprobs is None:
        return 0
    likely = (each for token in message.logprobs.tokens for each in (token.drawn, *token.top))
    return sum(LIKELY_BYTES + len(each.text) for each in likely)


def _bytes_of(message: Message) -> int:
    """What it takes to keep a message, about."""
    match message:
        case FrameMessage():
            return 2 * len(message.signature) + continuation_bytes(message.texts) + _logprobs_bytes(message)
        case SessionReady():
            return MESSAGE_BYTES + len(message.bid_set.payload)
    return MESSAGE_BYTES
