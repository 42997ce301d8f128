"""The envelope of every signed message that is not a struct with explicit fields: ``Kind(bytes payload)``.

The signature covers the payload bytes as they were received, under the payload's kind; nothing is re-encoded
before it is checked.
"""

from typing import Annotated, TypeVar

from msgspec import Meta

from protocol.core.codec import Message, decode, encode, message
from protocol.core.errors import DecodeError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, Sign, SignatureBytes, payload_digest, recover

PAYLOAD_BYTES_MAX = 65_536

M = TypeVar("M", bound=Message)


@message(kind=1, limit_bytes=PAYLOAD_BYTES_MAX + 128)
class Envelope(Message, frozen=True):
    """A message's bytes and the signature over them."""

    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES_MAX)]
    signature: SignatureBytes


def seal(domain: Domain, sign: Sign, inner: Message) -> Envelope:
    """Sign a message. Spec: [SIGN-PAYLOAD.1]"""
    payload = encode(inner)
    return Envelope(payload, sign(payload_digest(domain, type(inner).__name__, payload)))


def unseal(domain: Domain, envelope: Envelope, expected: type[M]) -> tuple[M, NodeId]:
    """The inner message and who signed it. Raises DecodeError, SignatureError."""
    inner = decode(envelope.payload, limit_bytes=PAYLOAD_BYTES_MAX)
    if not isinstance(inner, expected):
        raise DecodeError(f"expected {expected.__name__}, got {type(inner).__name__}")
    return inner, recover(payload_digest(domain, type(inner).__name__, envelope.payload), envelope.signature)


def envelope_digest(domain: Domain, envelope: Envelope, expected: type[Message]) -> Digest:
    """What an envelope's signature covers; names the message in receipts and countersignatures."""
    return payload_digest(domain, expected.__name__, envelope.payload)
