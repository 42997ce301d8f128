"""Keys from a seed, and two ways to sign with them: keyed hashes for speed, or what production does.

A keyed hash stands in for a signature because nobody in a simulation can learn another node's secret: it names its
signer, and over any other digest it names somebody who does not exist. One seed in fifty signs for real, so that
the stand-in hides nothing for long. Both are put in force with ``protocol.core.signing.scheme``.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from p2pnode.identity import NodeKey
from protocol.core.errors import SignatureError
from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.signing import Scheme, Secp256k1, Sign

REAL_ONE_IN = 50


@dataclass(frozen=True, slots=True)
class Key:
    """A node's identity in the simulation."""

    node_id: NodeId
    sign: Sign


class Keys(Scheme, Protocol):
    """Where the keys of a world come from, and how their signatures are checked."""

    def key(self, name: str) -> Key:
        """The key of a node by its name; the same for the same seed."""


class KeyedHashes:
    """Signatures that only look like some: ``node id || 12 zeros || keyed hash || 27``."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._secrets: dict[bytes, bytes] = {}

    def key(self, name: str) -> Key:
        """See Keys."""
        secret = _secret(self._seed, name)
        node_id = NodeId(hashlib.sha256(b"id" + secret).digest()[:20])
        self._secrets[node_id] = secret
        front = node_id + bytes(12)

        def sign(digest: Digest) -> Signature:
            return Signature(front + hashlib.sha256(secret + digest).digest() + b"\x1b")

        return Key(node_id, sign)

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """See protocol.core.signing.Scheme."""
        if len(signature) != 65 or signature[64] not in (27, 28):
            raise SignatureError("a signature is 65 bytes r || s || v with v 27 or 28")
        secret = self._secrets.get(signature[:20])
        if secret is not None and hashlib.sha256(secret + digest).digest() == signature[32:64]:
            return NodeId(signature[:20])
        return NodeId(hashlib.sha256(b"nobody" + digest + signature).digest()[:20])


class RealKeys:
    """secp256k1, as in production."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._scheme = Secp256k1()

    def key(self, name: str) -> Key:
        """See Keys."""
        key = NodeKey(_secret(self._seed, name))
        return Key(key.node_id, key.sign)

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """See protocol.core.signing.Scheme."""
        return self._scheme.recover(digest, signature)


def keys_of(seed: int) -> Keys:
    """What a seed signs with."""
    return RealKeys(seed) if seed % REAL_ONE_IN == REAL_ONE_IN - 1 else KeyedHashes(seed)


def _secret(seed: int, name: str) -> bytes:
    # Any 32 bytes but one in 2^128 are a secp256k1 key.
    return hashlib.sha256(f"p2pnode/sim/key/{seed}/{name}".encode()).digest()
