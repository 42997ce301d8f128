"""Texts to vectors, beside a session's orders: asked of lane 0's miner, answered under its signature.

Nothing of it is observed, certified or paid, and no receipt holds it: what a client has is the miner's word.
"""

import hashlib
import struct
from typing import Annotated

from msgspec import Meta, Struct

from protocol.core.codec import Message, message, pack
from protocol.core.ids import Digest
from protocol.core.signing import U32, Bytes20, Bytes24, Bytes32, SignatureBytes, TypedStruct

EMBED_TEXTS_MAX = 16
"""Of one request: with vectors of the greatest length the answer still fits its message."""
EMBED_CHARACTERS_MAX = 262_144
VECTOR_BYTES_MAX = 32_768

_LENGTH = struct.Struct(">I")


class EmbedTexts(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the client wants the vectors of, with a nonce that keeps the commitment from being guessed."""

    nonce: Bytes32
    texts: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=EMBED_CHARACTERS_MAX)], ...],
        Meta(min_length=1, max_length=EMBED_TEXTS_MAX),
    ]

    def commitment(self) -> Digest:
        """sha256 over the canonical encoding, nonce first. Spec: [EMBED-SIGNED.1]"""
        return Digest(hashlib.sha256(b"p2pnode/embed/1" + pack(self)).digest())

    def size_bytes(self) -> int:
        """Of the texts."""
        return sum(len(text.encode()) for text in self.texts)


class EmbedOrder(TypedStruct, frozen=True):
    """What the client signs."""

    session: Bytes32
    number: U32
    """Of the session's requests for vectors, which are counted by themselves."""
    texts: Bytes32
    """The commitment to what is to be embedded."""


class EmbedResult(TypedStruct, frozen=True):
    """What the miner signs."""

    order: Bytes32
    """Typed digest of the client's."""
    generation: Bytes24
    miner: Bytes20
    model: Bytes32
    tokens: U32
    vectors: Bytes32
    """Digest of the vectors."""


@message(kind=22, limit_bytes=1 << 20)
class EmbedAsked(Message, frozen=True):
    """The client's request, which the router hands on as it is."""

    order: EmbedOrder
    signature: SignatureBytes
    asked: EmbedTexts
    timeout_ms: U32


@message(kind=23, limit_bytes=1 << 20)
class Embedded(Message, frozen=True):
    """The vectors, in the order of the texts."""

    session: Bytes32
    number: U32
    generation: Bytes24
    """The lease under which they were made."""
    tokens: U32
    """Of all texts, as the model reads them."""
    vectors: Annotated[
        tuple[Annotated[bytes, Meta(min_length=4, max_length=VECTOR_BYTES_MAX)], ...],
        Meta(min_length=1, max_length=EMBED_TEXTS_MAX),
    ]
    """float32 each, little-endian."""
    signature: SignatureBytes
    """The miner's, of the EmbedResult."""


@message(kind=24, limit_bytes=2_048)
class EmbedFailed(Message, frozen=True):
    """There are no vectors; ``code`` as in TaskFailed."""

    session: Bytes32
    number: U32
    code: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=1_024)]
    retry_after_ms: U32


def vectors_digest(vectors: tuple[bytes, ...]) -> Digest:
    """sha256 over the vectors, each behind its length as a big-endian 32-bit word. Spec: [EMBED-SIGNED.1]"""
    digest = hashlib.sha256(b"p2pnode/embed-vectors/1")
    for vector in vectors:
        digest.update(_LENGTH.pack(len(vector)) + vector)
    return Digest(digest.digest())
