"""What passes between the client's machine and the program that uses it. Entropy comes in with the wishes."""

from dataclasses import dataclass
from enum import StrEnum

from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, ModelDigest, NetworkId, NodeId, SessionId
from protocol.core.machine import NO_KEY, Key
from protocol.light.levels import Checkpoint, Final, Level
from protocol.light.trust_book import KeptTrust
from protocol.messages.embeddings import Embedded
from protocol.messages.evidence import ConflictingValues
from protocol.messages.greeting import RouterHello
from protocol.messages.logprobs import TokenLogProbs
from protocol.messages.receipts import Receipt
from protocol.messages.sampling import SamplingParams
from protocol.messages.sessions import (
    Assignment,
    SessionOpen,
    SessionReady,
)
from protocol.messages.tasks import EndRecord, LaneEnded, Prompt, PromptMessage, SegmentHead, TaskOrder
from protocol.session.auction import VerifiedAuction

Handle = int
"""Chosen by the program: names one wish and everything delivered for it."""
NOBODY: Handle = 0
"""Of what no wish asked for."""


@dataclass(frozen=True, slots=True)
class ConnectRouter:
    """Greet a router. Delivered: RouterReady, later RouterGone; or RouterGone at once."""

    handle: Handle
    router: NodeId
    network: NetworkId | None
    """The network the address names; a router of another one is refused."""


@dataclass(frozen=True, slots=True)
class OpenAsked:
    """Open a session at a greeted router. Delivered: SessionAssigned, then SessionOver; or SessionOver at once."""

    handle: Handle
    router: NodeId
    model: ModelDigest
    nonce: bytes
    price_cap_wei: int
    tokens: int
    timeout_ms: int
    lifetime_ms: int
    tasks_max: int = 1_000
    others: tuple[NodeId, ...] = ()
    """Routers that may serve the session when the first is lost; the driver knows where to dial them."""
    lanes: int = 1
    direct: bool = False
    """Take the answer from the miner itself where it can be dialed."""
    cap_wei: int = 0
    """The most the whole session may cost: so much the ledger reserves; 0: nothing, so miners give credit only."""
    audits: bool = False
    """Oracles may open its tasks to score them."""


@dataclass(frozen=True, slots=True)
class AskTask:
    """Order an answer in a session. Delivered: TaskHead, TaskText…, exactly one TaskOver, and after a signed end
    TaskLevels as long as the session stands."""

    handle: Handle
    session: Handle
    messages: tuple[PromptMessage, ...]
    sampling: SamplingParams
    nonce: bytes
    seed: bytes
    max_tokens: int
    timeout_ms: int
    transcript: bool = False
    """Deliver a TaskTranscript as well, just before the TaskOver of a signed end."""
    tools: str = ""
    """As the prompt carries them."""


@dataclass(frozen=True, slots=True)
class EmbedWanted:
    """Ask for the vectors of texts in a session. Delivered: exactly one EmbedOver."""

    handle: Handle
    session: Handle
    texts: tuple[str, ...]
    nonce: bytes
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class CancelAsk:
    """Stop an answer; its TaskOver follows."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class CloseAsked:
    """Close a session; its SessionOver follows."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class HeaderAccepted:
    """The program's own look at the chain: the contract accepted a header, in a final block."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class WatchRouters:
    """Ask each of these routers, again and again, how far it is; their network is that of the greeted router ``at``.
    Delivered: RouterSeen, as often as one answers or fails to; ChainWanted."""

    handle: Handle
    at: NodeId
    routers: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """The program's own look at the chain: the newest header that the contract has accepted."""

    epoch: int
    height: int


class RouterState(StrEnum):
    """What a client thinks of a router that it watches."""

    UNKNOWN = "unknown"
    """It has not answered yet."""
    ALIVE = "alive"
    BEHIND = "behind"
    """Its newest header is one that others have left behind."""
    STALE = "stale"
    """Neither it nor another router has shown a later header for long: the committee stands still, or they hide it."""
    WITHHOLDING = "withholding"
    """It did not tell what others knew of an answer."""
    SILENT = "silent"
    LYING = "lying"
    """It showed what does not hold, and is asked nothing more."""


@dataclass(frozen=True, slots=True)
class RouterSeen:
    """What a router has shown of itself."""

    router: NodeId
    state: RouterState
    epoch: int
    """Of the last header that it showed, as is ``height``; 0 before."""
    height: int
    answer_ms: int | None
    """How long its last answer took."""
    note: str
    """Why it is thought of like this, in words; empty where it is only alive."""


@dataclass(frozen=True, slots=True)
class ChainWanted:
    """No router shows a final header for an answer that is overdue: whoever can ask the chain which header the contract
    accepted last, does, and tells the machine by CheckpointSeen."""


@dataclass(frozen=True, slots=True)
class RouterReady:
    """The router answered: its network and the models it knows miners for."""

    hello: RouterHello
    genesis: Genesis
    oracles: int = 0
    """In the present committee; 0 where there is none."""
    untrusted: str = ""
    """Why nothing that this network's committee signs is believed here; empty where it is."""


@dataclass(frozen=True, slots=True)
class TrustMoved:
    """More is known of a network's committees than before: what to begin with next time."""

    network: NetworkId
    kept: KeptTrust


@dataclass(frozen=True, slots=True)
class RouterGone:
    """No router there, or none that may be used; ``code`` is a terminal code."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class SessionAssigned:
    """Miners are leased; the pick was recomputed from the signed bids, ``auction.ranks`` are the miners' places."""

    session: SessionId
    assignment: Assignment
    auction: VerifiedAuction
    opening: SessionOpen
    signature: bytes
    """The client's own, of ``opening``."""
    ready: SessionReady
    """As the router signed it, for the session's record."""


@dataclass(frozen=True, slots=True)
class RouterSought:
    """The session's router is lost; it, or another one that the session names, is looked for."""

    detail: str


@dataclass(frozen=True, slots=True)
class RouterFound:
    """A router serves the session again."""

    router: NodeId


@dataclass(frozen=True, slots=True)
class LaneReported:
    """The miner of a lane above 0 signed its end; nothing of its text was streamed."""

    ended: LaneEnded


@dataclass(frozen=True, slots=True)
class SessionOver:
    """The session ended."""

    code: str
    detail: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class TaskHead:
    """The miner bound the task; the first tokens follow."""

    head: SegmentHead


@dataclass(frozen=True, slots=True)
class TaskText:
    """Verified tokens and their text."""

    first_index: int
    ids: tuple[int, ...]
    text: bytes
    logprobs: tuple[TokenLogProbs, ...] = ()
    """One for each of ``ids``, if they were ordered."""


@dataclass(frozen=True, slots=True)
class TaskTranscript:
    """All that an answer's result root is computed from: for whoever has to prove it to others."""

    order: TaskOrder
    prompt: Prompt
    heads: tuple[SegmentHead, ...]
    ids: tuple[int, ...]
    texts: tuple[bytes, ...]
    """Each token's share of the text."""
    end: EndRecord


@dataclass(frozen=True, slots=True)
class TaskReceipt:
    """All that is needed to verify an answer: just before the TaskOver of a signed end, and again as it rises."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class TaskOver:
    """The one terminal event of a task: a signed end, or a code that says why there is none."""

    end: EndRecord | None
    code: str
    """Empty with a signed end."""
    detail: str
    retry_after_ms: int
    tokens: int
    frames: int


@dataclass(frozen=True, slots=True)
class EmbedOver:
    """The one terminal event of a request for vectors: what the miner signed, or a code that says why there is none."""

    embedded: Embedded | None
    miner: NodeId | None
    code: str
    """Empty with vectors."""
    detail: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class TaskLevel:
    """After a task's signed end: how certain its answer has become. Levels of one task only rise."""

    level: Level
    proved: tuple[Level, ...]
    """This and others whose proof is here; one above may have come before one below."""
    after_ms: int
    """Since the signed end."""
    agreeing: int
    """Oracles that signed that this is the result, of ``members``."""
    members: int
    final: Final | None
    """Where its verdict stands, once it is finalized."""
    against: str
    """Why it will not rise, in a word or two, such as ``late`` or ``another result``; empty as long as it may."""
    evidence: int
    """Oracles that signed two values for it."""
    settled: Checkpoint | None = None
    """What settled it."""
    overdue: bool = False
    """Whether it should have been final by now, and is not: other routers are asked for it."""
    convicting: tuple[ConflictingValues, ...] = ()
    """What convicts these oracles."""


@dataclass(frozen=True, slots=True)
class CheckpointClaimed:
    """An oracle says that the contract accepted a header that holds the verdict: whoever can ask the chain, does, and
    tells the machine by HeaderAccepted."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class SessionReserved:
    """What the ledger holds for the session, as proved by a final header."""

    cap_wei: int
    spent_wei: int
    epoch: int
    height: int


Item = (
    RouterReady
    | RouterGone
    | SessionAssigned
    | RouterSought
    | RouterFound
    | LaneReported
    | SessionReserved
    | SessionOver
    | TaskHead
    | TaskText
    | TaskTranscript
    | TaskReceipt
    | TaskOver
    | EmbedOver
    | TaskLevel
    | CheckpointClaimed
    | RouterSeen
    | TrustMoved
    | ChainWanted
)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand an item to the program."""

    handle: Handle
    item: Item
    key: Key = NO_KEY
