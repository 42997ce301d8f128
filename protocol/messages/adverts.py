"""Who is there and what it offers: model manifests, adverts on topic ``nodes``, and peer exchange on ``probe``."""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message, pack
from protocol.core.ids import ModelDigest
from protocol.core.signing import U32, U64, Bytes20, Bytes32
from protocol.messages.envelope import Envelope

ADDRESSES_MAX = 8
MODELS_MAX = 16

Address = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+ -]*\Z")]
Role = Literal["router", "miner", "oracle"]


class ModelManifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a model is. Its digest is *the* model digest; it names the weights by the sha256 of their file."""

    name: Name
    file_sha256: Bytes32
    file_bytes: U64
    architecture: Name
    quantization: Name
    context_tokens: U32

    def digest(self) -> ModelDigest:
        """sha256 of the canonical encoding."""
        return ModelDigest(hashlib.sha256(b"p2pnode/model/1" + pack(self)).digest())


class ModelOffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A model a miner serves and on what terms."""

    manifest: ModelManifest
    slots: U32
    context_tokens: U32
    """Of one slot: prompt and answer together."""
    price_wei: U64
    """Per token of the answer."""


@message(kind=2, limit_bytes=12_288)
class Advert(Message, frozen=True):
    """What a node says of itself. The newest ``issued_ms`` of a node counts; sent on change and periodically."""

    node: Bytes20
    issued_ms: U64
    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=3)]
    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES_MAX)]
    models: Annotated[tuple[ModelOffer, ...], Meta(max_length=MODELS_MAX)]
    build: Annotated[str, Meta(max_length=128)]
    """Engine build and CPU features: within one build tokens are reproducible bit for bit."""


PROBE_ADVERTS_MAX = 64


@message(kind=40, limit_bytes=16_384)
class ProbeRequest(Message, frozen=True):
    """Asks a peer for adverts it knows (peer exchange) and tells it ours."""

    network_id: Bytes32
    after: Annotated[bytes, Meta(max_length=20)]
    """Adverts come in the order of node ids; this is the last one seen, empty at first."""
    mine: Envelope | None = None


@message(kind=41, limit_bytes=1 << 20)
class ProbeResponse(Message, frozen=True):
    """Adverts the peer knows, each as it was signed; fewer than 64 of them end the exchange."""

    network_id: Bytes32
    adverts: Annotated[tuple[Envelope, ...], Meta(max_length=PROBE_ADVERTS_MAX)]
