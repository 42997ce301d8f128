"""One inference request and its answer: order, segment head, frames, acks, and the one terminal event."""

import hashlib
import struct
from enum import IntEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message, pack
from protocol.core.ids import Digest
from protocol.core.signing import U8, U32, U64, Bytes20, Bytes24, Bytes32, SignatureBytes, TypedStruct
from protocol.messages.logprobs import LogProbs
from protocol.messages.sampling import SamplingParams
from protocol.messages.sessions import Assignment

FRAME_TOKENS_MAX = 1_024
TASK_TOKENS_MAX = 1_000_000
SEGMENTS_MAX = 64
TOKEN_BYTES_MAX = 1_024
TOOLS_CHARACTERS_MAX = 65_536
CALL_ID_CHARACTERS_MAX = 64

_END = struct.Struct(">BIII")


class PromptMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant", "tool", "plain"]
    """``plain`` stands alone: a text to go on with, for which no chat template is filled."""
    content: Annotated[str, Meta(max_length=524_288)]
    calls: Annotated[str, Meta(max_length=TOOLS_CHARACTERS_MAX)] = ""
    """The tools that the assistant called in this turn, as the JSON list that chat templates take; empty: none."""
    call_id: Annotated[str, Meta(max_length=CALL_ID_CHARACTERS_MAX)] = ""
    """Of the call that a turn of role ``tool`` answers."""


class Prompt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the client asks, with a nonce that keeps its commitment from being guessed."""

    nonce: Bytes32
    messages: Annotated[tuple[PromptMessage, ...], Meta(min_length=1, max_length=4_096)]
    sampling: SamplingParams
    tools: Annotated[str, Meta(max_length=TOOLS_CHARACTERS_MAX)] = ""
    """The tools that the assistant may call, as the JSON list that chat templates take; empty: none."""

    def commitment(self) -> Digest:
        """sha256 over the canonical encoding, nonce first. Spec: [ORDER-PROMPT.1]"""
        return Digest(hashlib.sha256(b"p2pnode/prompt/1" + pack(self)).digest())


class TaskOrder(TypedStruct, frozen=True):
    """The client's signed order; without it nothing is run, observed or paid."""

    session: Bytes32
    task: U32
    home_epoch: U64
    prompt: Bytes32
    sampling: Bytes32
    seed: Bytes32
    max_tokens: U32
    cap_wei: U64


class SegmentHead(TypedStruct, frozen=True):
    """What a miner binds before its first token; its typed digest is the segment's id and its chain's start."""

    session: Bytes32
    task: U32
    lane: U8
    generation: Bytes24
    miner: Bytes20
    order: Bytes32
    prompt: Bytes32
    """The order's prompt commitment."""
    router: Bytes20
    """By whose assignment."""
    price_wei: U64
    """Of a token, as the miner bid it."""
    prompt_tokens: Bytes32
    """sha256 of the prompt's nonce and the rendered prompt's token ids: heads become public, prompts do not."""
    prompt_token_count: U32
    model: Bytes32
    sampling: Bytes32
    start_index: U64
    """Tokens of the lane that earlier segments hold."""
    previous_head: Bytes32
    """The last signed chain value of the segment before, zero for the first."""


class Frame(TypedStruct, frozen=True):
    """What the signature of a frame covers: the chain up to and including its last token."""

    segment: Bytes32
    index: U64
    """Tokens of the lane up to here."""
    chain: Bytes32
    end: bool


class Ack(TypedStruct, frozen=True):
    """The client has seen and verified the lane up to ``index``: flow control and proof of delivery."""

    session: Bytes32
    task: U32
    lane: U8
    generation: Bytes24
    segment: Bytes32
    """The digest of the segment's head: what the client accepts is paid at the price that stands there."""
    index: U64
    chain: Bytes32


class EndReason(IntEnum):
    """Why a lane ended."""

    STOP = 0
    LENGTH = 1
    CANCELLED = 2


class EndRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last thing a lane's miner signs: why it ended, and the usage."""

    reason: EndReason
    prompt_tokens: U32
    completion_tokens: U32
    cached_tokens: U32

    def close(self, chain: bytes) -> Digest:
        """The chain after the end record; only an end frame signs such a value. Spec: [CHAIN-END.1]"""
        packed = _END.pack(self.reason, self.prompt_tokens, self.completion_tokens, self.cached_tokens)
        return Digest(hashlib.sha256(b"\x02" + chain + packed).digest())


class Continuation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What miners signed of a lane so far: enough to compute their chain again, and to go on."""

    heads: Annotated[tuple[SegmentHead, ...], Meta(min_length=1, max_length=SEGMENTS_MAX)]
    """The segments that hold tokens, in order."""
    ids: Annotated[tuple[U32, ...], Meta(min_length=1, max_length=TASK_TOKENS_MAX)]
    texts: Annotated[tuple[Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)], ...], Meta(max_length=TASK_TOKENS_MAX)]


class Delivery(IntEnum):
    """Where a lane's frames go."""

    RELAYED = 0
    """To the router, which passes them on."""
    DIRECT = 1
    """To the client, on a stream of its own; the router hears of the end."""
    WITHHELD = 2
    """Nowhere: the miner keeps them, and the router hears of the end."""


@message(kind=16, limit_bytes=1 << 20)
class SubmitTask(Message, frozen=True):
    """The client's order with what it commits to; sent again to go on with an order at another router, or by relay."""

    order: TaskOrder
    signature: SignatureBytes
    prompt: Prompt
    timeout_ms: U32
    """The request ends in one terminal event within this time."""
    direct: bool = False
    """The client holds a stream to the miner and takes the frames there."""
    resume: Continuation | None = None
    """What the client has verified of lane 0 already."""


@message(kind=17, limit_bytes=128)
class CancelTask(Message, frozen=True):
    """Stop a task; the miner answers with a signed end."""

    session: Bytes32
    task: U32


@message(kind=18, limit_bytes=512)
class AckMessage(Message, frozen=True):
    """A signed acknowledgement on its way to the miner."""

    ack: Ack
    signature: SignatureBytes


@message(kind=19, limit_bytes=2_048)
class TaskFailed(Message, frozen=True):
    """The terminal event of a task that has no signed end; ``code`` as in SessionEnded."""

    session: Bytes32
    task: U32
    code: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=1_024)]
    retry_after_ms: U32


@message(kind=34, limit_bytes=1 << 20)
class StartTask(Message, frozen=True):
    """A router hands a leased miner an order, under the assignment that names it."""

    assignment: Assignment
    assignment_signature: SignatureBytes
    order: TaskOrder
    signature: SignatureBytes
    prompt: Prompt
    lane: U8
    timeout_ms: U32
    delivery: Delivery = Delivery.RELAYED
    resume: Continuation | None = None
    """Set when the lane goes on after its last signed token."""


@message(kind=35, limit_bytes=1_024)
class SegmentStart(Message, frozen=True):
    """The head of a segment, sent ahead of its first frame, whose signature covers it."""

    head: SegmentHead


@message(kind=36, limit_bytes=1 << 20)
class FrameMessage(Message, frozen=True):
    """Consecutive tokens and the signature over the chain that ends with them."""

    session: Bytes32
    task: U32
    lane: U8
    first_index: U64
    """Tokens of the lane before this frame."""
    ids: Annotated[tuple[U32, ...], Meta(max_length=FRAME_TOKENS_MAX)]
    texts: Annotated[tuple[Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)], ...], Meta(max_length=FRAME_TOKENS_MAX)]
    """Each token's share of the visible text."""
    end: EndRecord | None
    signature: SignatureBytes
    logprobs: LogProbs | None = None
    """If they were ordered, and there are tokens; no part of the chain."""


@message(kind=37, limit_bytes=1_024)
class LaneEnded(Message, frozen=True):
    """The signed end of a lane whose frames did not pass through the router."""

    head: SegmentHead
    end: EndRecord
    chain: Bytes32
    """The chain value after the end record, as the last frame signs it."""
    signature: SignatureBytes
    """Of that Frame."""


@message(kind=38, limit_bytes=128)
class RelayTask(Message, frozen=True):
    """The client's direct stream is lost: send the lane's frames after ``index`` through the router, as they were."""

    session: Bytes32
    task: U32
    index: U64
    chain: Bytes32
    """The chain value there, as it follows from what the client says it has."""


# Between client and miner, protocol ``task``


@message(kind=39, limit_bytes=2_048)
class AttachDirect(Message, frozen=True):
    """The session's client wants lane 0's frames on this stream; the signed assignment is its token of the lease."""

    assignment: Assignment
    signature: SignatureBytes


@message(kind=42, limit_bytes=128)
class DirectReady(Message, frozen=True):
    """Orders marked direct will be streamed here."""

    session: Bytes32
