"""How likely each token of a frame was, as its miner tells on request: beside the chain, under a signature of its own.

Nothing proves the figures: a signature names who said them. No receipt holds them.
"""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import pack
from protocol.core.ids import Digest
from protocol.core.signing import U32, U64, Bytes32, SignatureBytes, TypedStruct
from protocol.messages.sampling import TOP_LOGPROBS_MAX

FRAME_LOGPROBS_MAX = 256
"""Tokens of a frame that has them: it stays within what a frame may be."""
LIKELY_TEXT_BYTES_MAX = 64
MINUS_LOG_BP_MAX = 100_000_000


class Likely(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A token, and how likely it was where it stands."""

    id: U32
    text: Annotated[bytes, Meta(max_length=LIKELY_TEXT_BYTES_MAX)]
    """The token's own bytes, as far as there is room for them."""
    minus_log_bp: Annotated[int, Meta(ge=0, le=MINUS_LOG_BP_MAX)]
    """Minus the natural logarithm of its probability at temperature 1, × 10,000."""


class TokenLogProbs(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The token that was drawn, and the likeliest ones in its place."""

    drawn: Likely
    top: Annotated[tuple[Likely, ...], Meta(max_length=TOP_LOGPROBS_MAX)] = ()
    """The likeliest first."""


class FrameLogProbs(TypedStruct, frozen=True):
    """What the signature of a frame's log probabilities covers."""

    segment: Bytes32
    first_index: U64
    """Tokens of the lane before the frame."""
    digest: Bytes32
    """Of the tokens' log probabilities."""


class LogProbs(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The log probabilities of a frame's tokens, in their order."""

    tokens: Annotated[tuple[TokenLogProbs, ...], Meta(min_length=1, max_length=FRAME_LOGPROBS_MAX)]
    signature: SignatureBytes


def logprobs_digest(tokens: tuple[TokenLogProbs, ...]) -> Digest:
    """sha256 over the canonical encoding of each token's, in order. Spec: [LOGPROBS-SIGNED.1]"""
    digest = hashlib.sha256(b"p2pnode/logprobs/1")
    for token in tokens:
        digest.update(pack(token))
    return Digest(digest.digest())
