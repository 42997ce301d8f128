"""Node keys for tests: the same number is always the same key."""

import hashlib
from dataclasses import dataclass

import coincurve

from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.signing import node_id_of_public_key


@dataclass(frozen=True)
class Key:
    """A private key that signs as a node does."""

    secret: bytes
    node: NodeId

    def sign(self, digest: Digest) -> Signature:
        """65 bytes ``r || s || v``, deterministic."""
        raw = coincurve.PrivateKey(self.secret).sign_recoverable(digest, hasher=None)
        return Signature(raw[:64] + bytes([raw[64] + 27]))


def key(number: int) -> Key:
    """The key of a number."""
    secret = hashlib.sha256(b"test key" + number.to_bytes(8, "big")).digest()
    public = coincurve.PrivateKey(secret).public_key.format(compressed=False)
    return Key(secret, node_id_of_public_key(public[1:]))
