"""What a client holds of its routers, sessions and tasks. Data only; the rules are beside it."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from protocol.core.deadlines import Deadlines
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId, SessionId
from protocol.core.machine import Channel, ChannelNumbers
from protocol.core.signing import Domain, Sign
from protocol.light.lane_papers import LanePapers, Lent
from protocol.light.levels import CheckedBatch, LaneLevels
from protocol.messages.embeddings import EmbedAsked
from protocol.messages.greeting import RouterHello
from protocol.messages.receipts import Receipt
from protocol.messages.results import CommittedNews, OutcomeNews, SettledNews
from protocol.messages.sessions import Assignment, SessionOpen, SignedTerm
from protocol.messages.tasks import AckMessage, Continuation, Prompt, SegmentHead, TaskOrder
from protocol.roles.client.chain import Chain, Trusted
from protocol.roles.client.events import Handle
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

OVER_DIRECTLY_MAX = 64
"""At least as many orders as a session may have open at once."""


Checked = CommittedNews | OutcomeNews | SettledNews | CheckedBatch
"""News as they are kept: a batch speaks of many answers, and its signature is checked once."""

EARLY_MAX = 64
"""News of answers that have not ended here: where frames come directly they may be later than the news."""


@dataclass(slots=True)
class Settling:
    """An answer that has ended, and may rise."""

    handle: Handle
    ended_ms: int
    lane: LaneLevels
    asked: set[Digest] = field(default_factory=set)
    """Headers of which an oracle says that the contract accepted them, and that the program was told to look for."""
    overdue: int = 0
    """How often other routers were asked for it, since it should have been final."""
    receipt: Receipt | None = None
    """As it was when the answer ended."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a router said of itself, while it has yet to show how the committee of its header came about."""

    hello: RouterHello
    genesis: Genesis
    chain: Chain


@dataclass(slots=True)
class Router:
    """A router that was greeted, or is being."""

    handle: Handle
    """Negative for a router that no program asked for: a session looks for it."""
    node: NodeId
    channel: Channel
    expected_network: bytes | None
    greeting: Greeting | None = None
    genesis: Genesis | None = None
    chain: Chain | None = None
    sessions: dict[SessionId, "Session"] = field(default_factory=dict)
    awaited_by: dict[Handle, None] = field(default_factory=dict)
    """Sessions that go on here once it answers."""

    @property
    def known(self) -> Genesis:
        """Its network; only once it was greeted."""
        assert self.genesis is not None
        return self.genesis

    @property
    def followed(self) -> Chain:
        """What is known of its network's committee; only once it was greeted."""
        assert self.chain is not None
        return self.chain


@dataclass(slots=True)
class Direct:
    """A stream of the client's own to the miner of lane 0."""

    channel: Channel
    ready: bool = False


@dataclass(slots=True)
class Seek:
    """A session without a router."""

    until_ms: int
    routers: list[NodeId]
    """Not tried yet in this turn."""
    resumable: bool = True
    """Whether the router that served it last may still hold it."""
    refusal: str = ""
    """What the last one that did not want it said."""


@dataclass(slots=True)
class Withheld:
    """An order as its other lanes run it."""

    order: TaskOrder
    ended: set[bytes] = field(default_factory=set)
    """Leases whose miners signed their end of it."""


@dataclass(slots=True)
class Session:
    """A session that was asked for, or stands."""

    handle: Handle
    id: SessionId
    opening: SessionOpen
    router: Router
    """That serves it, or did last."""
    tokens: int
    timeout_ms: int
    wants_direct: bool
    network_named: bool
    """Whether the program named the network. If not, its committee is the first router's word, and proves nothing."""
    life: Lifecycle[SessionState, SessionFact] = field(default_factory=session_lifecycle)
    assignment: Assignment | None = None
    lent: "OrderedDict[bytes, Lent]" = field(default_factory=OrderedDict)
    """By generation: the assignments that named the latest leases of lane 0."""
    prices_wei: dict[NodeId, int] = field(default_factory=dict)
    """Of a token, as miners bid it in this session's rounds."""
    term: SignedTerm | None = None
    received: int = 0
    """Messages about it from its router."""
    seek: Seek | None = None
    direct: Direct | None = None
    orders: int = 0
    tasks: dict[int, "Task"] = field(default_factory=dict)
    embeds: dict[int, tuple[Handle, EmbedAsked]] = field(default_factory=dict)
    """Requests for vectors that are not answered, by number."""
    embeds_asked: int = 0
    over_directly: deque[int] = field(default_factory=lambda: deque(maxlen=OVER_DIRECTLY_MAX))
    """Orders whose end came directly under the present lease; whether the router heard of it is not known here."""
    withheld: "OrderedDict[int, Withheld]" = field(default_factory=OrderedDict)
    """Orders whose other lanes may still end."""
    settling: "OrderedDict[int, Settling]" = field(default_factory=OrderedDict)
    """Answers that have ended, by order."""
    as_of: tuple[int, int] = (0, 0)
    """Epoch and height of the latest header that told what is reserved."""
    early: deque[Checked] = field(default_factory=lambda: deque(maxlen=EARLY_MAX))
    """News of answers that have not."""

    @property
    def domain(self) -> Domain:
        """What is signed here is signed for this network."""
        return self.router.known.domain()


@dataclass(slots=True)
class Task:
    """An order that has not come to its end."""

    handle: Handle
    order: TaskOrder
    signature: bytes
    prompt: Prompt
    until_ms: int
    session: Session
    verifier: LaneVerifier
    direct: bool
    """Whether its frames are expected on the session's direct stream."""
    fell_back: bool = False
    """Whether they were, and the router has to know that they are not."""
    life: Lifecycle[TaskState, TaskFact] = field(default_factory=task_lifecycle)
    acked: int = 0
    frames: int = 0
    cancelled: bool = False
    heads: list[SegmentHead] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    """What was verified: enough to go on elsewhere."""
    last_acks: "OrderedDict[bytes, AckMessage]" = field(default_factory=OrderedDict)
    """By generation: of the segments whose miners were lost, to the last token that was verified."""
    framed_ms: int | None = None
    """When the last frame came on the direct stream."""
    gap_ms: int = 0
    """The longest time between two of them."""
    transcript: bool = False
    """Whether the program wants it."""
    papers: LanePapers = field(default_factory=LanePapers)
    receipt: Receipt | None = None
    """Once it has ended, if all of it was here."""

    def segments(self) -> list[SegmentHead]:
        """The heads that the answer is made of: one that brought no token leaves no trace, unless it is the last."""
        heads = {head.start_index: head for head in self.heads}
        return [heads[start] for start in sorted(heads)]

    def continuation(self) -> Continuation | None:
        """What the next router or miner needs to go on; None while nothing was signed."""
        if not self.ids:
            return None
        heads = [head for head in self.segments() if head.start_index < len(self.ids)]
        return Continuation(tuple(heads), tuple(self.ids), tuple(self.texts))


@dataclass(slots=True)
class Held:
    """Everything the machine holds; its parts share it."""

    client: NodeId
    sign: Sign
    numbers: ChannelNumbers = field(default_factory=ChannelNumbers)
    routers: dict[NodeId, Router] = field(default_factory=dict)
    by_channel: dict[Channel, Router] = field(default_factory=dict)
    direct: dict[Channel, Session] = field(default_factory=dict)
    sessions: dict[Handle, Session] = field(default_factory=dict)
    tasks: dict[Handle, Task] = field(default_factory=dict)
    deadlines: Deadlines[tuple[str, Handle]] = field(default_factory=Deadlines)
    trusted: Trusted = field(default_factory=Trusted)
