"""Identifiers and units, one type each, so that the type checker keeps them apart.

Units go last in a name: ``_ms``, ``_bytes``, ``_bp`` (basis points: 10,000 are one), ``_wei``.
"""

from typing import NewType

NodeId = NewType("NodeId", bytes)
"""The EVM address of a node key: 20 bytes. The libp2p peer id is derived from the same key."""

Digest = NewType("Digest", bytes)
"""32 bytes of sha256 or keccak-256; the name of the field says of what."""

SessionId = NewType("SessionId", Digest)
"""The EIP-712 digest of a SessionOpen: 32 bytes, chosen by nobody but the client's signature."""

NetworkId = NewType("NetworkId", bytes)
"""The hash of the genesis file: 32 bytes, the salt of the signing domain."""

ModelDigest = NewType("ModelDigest", bytes)
"""The digest of a model's manifest: 32 bytes."""

Generation = NewType("Generation", bytes)
"""24 bytes: 16 random ones drawn at process start, then a counter. One generation is one segment."""

Signature = NewType("Signature", bytes)
"""65 bytes ``r || s || v`` with low ``s`` and ``v`` in {27, 28}."""

ZERO_DIGEST = Digest(bytes(32))

NOBODY = NodeId(bytes(20))
"""Stands in an assignment where a lane has no miner."""

NO_GENERATION = Generation(bytes(24))
"""Stands in an assignment where a lane has no lease."""


def short(value: bytes) -> str:
    """The first four bytes in hex, for logs and tables."""
    return value[:4].hex()
