"""Sealed to one reader: questions and answers of the inbox, which everybody sees and nobody else can read.

X25519, HKDF-SHA256 and AES-256-GCM. Each message has an ephemeral key of its own, so the nonce can be fixed, and two
seals of the same text have nothing in common. A context says for whom and what a message is; in any other it does not
open. So a question cannot be asked again by somebody who wants its answer for a key of his own.

The writer is not named: who asks and who answers is known by the transaction. Spec: [INBOX-SEAL.1]
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chain.errors import ChainError
from protocol.core.signing import Domain

KEY_BYTES = 32
OVERHEAD_BYTES = 1 + KEY_BYTES + 16
"""What a sealed message has more than its text: a version, the ephemeral key, and the tag."""
PLAIN_BYTES_MAX = 1 << 20

_VERSION = b"\x01"
_NONCE = bytes(12)
_NODE_KEY = b"p2pnode/inbox-key/1"
_MESSAGE = b"p2pnode/sealed/1"
_QUESTION = b"p2pnode/question/1"
_ANSWER = b"p2pnode/answer/1"


class SealedNonsense(ChainError):
    """A sealed message that does not open: cut, altered, for another reader, or copied out of its place."""

    code = "chain/sealed"
    hint = "ask the writer to seal it anew, to the key and for the place that are named now"


class KeyNonsense(ChainError):
    """A key that nothing can be sealed to, or that no X25519 key can be made of."""

    code = "chain/seal-key"
    hint = "an X25519 key is 32 bytes, as its owner announced them"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A reader's X25519 key."""

    _private: X25519PrivateKey = field(repr=False)

    @staticmethod
    def generate() -> "SealingKey":
        """A new key: an asker takes one for each question."""
        return SealingKey(X25519PrivateKey.generate())

    @staticmethod
    def of_node(secret: bytes) -> "SealingKey":
        """A node's key, which follows from its node key: there is nothing more to keep, and it never changes."""
        if len(secret) != KEY_BYTES:
            raise KeyNonsense(f"a node key has 32 bytes, not {len(secret)}")
        return SealingKey.read(_derived(secret, b"", _NODE_KEY))

    @staticmethod
    def read(data: bytes) -> "SealingKey":
        """The key that :meth:`packed` wrote. Raises KeyNonsense."""
        if len(data) != KEY_BYTES:
            raise KeyNonsense(f"a private key has 32 bytes, not {len(data)}")
        return SealingKey(X25519PrivateKey.from_private_bytes(data))

    def packed(self) -> bytes:
        """32 secret bytes, for a file."""
        return self._private.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """32 bytes: what others seal to."""
        return self._private.public_key().public_bytes_raw()

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The text of a message (untrusted). Raises SealedNonsense. Spec: [INBOX-SEAL.1]"""
        if not OVERHEAD_BYTES <= len(sealed) <= PLAIN_BYTES_MAX + OVERHEAD_BYTES:
            raise SealedNonsense(f"a sealed message has {OVERHEAD_BYTES} bytes and more, this one {len(sealed)}")
        if sealed[:1] != _VERSION:
            raise SealedNonsense(f"sealed in form {sealed[0]}; this build opens {_VERSION[0]}")
        ephemeral, body = sealed[1 : 1 + KEY_BYTES], sealed[1 + KEY_BYTES :]
        try:
            key = _message_key(self._private, ephemeral, ephemeral, self.public)
            return AESGCM(key).decrypt(_NONCE, body, context)
        except (InvalidTag, KeyNonsense) as error:
            raise SealedNonsense("the message does not open: it is for another key or place, or was altered") from error


def seal(public: bytes, plain: bytes, context: bytes) -> bytes:
    """Seal a text to a reader's key: 49 bytes longer. Raises KeyNonsense for what is no key. Spec: [INBOX-SEAL.1]"""
    if len(plain) > PLAIN_BYTES_MAX:
        raise SealedNonsense(f"{len(plain)} bytes are too many to seal", hint="send a content id instead")
    private = X25519PrivateKey.generate()
    ephemeral = private.public_key().public_bytes_raw()
    key = _message_key(private, public, ephemeral, public)
    return _VERSION + ephemeral + AESGCM(key).encrypt(_NONCE, plain, context)


def question_context(domain: Domain, router: bytes, asker: bytes, reply_key: bytes, prompt: bytes) -> bytes:
    """The place of a question: whose it is, for whom, and where its answer goes. Spec: [INBOX-SEAL.2]"""
    return _QUESTION + domain.separator() + router + asker + reply_key + prompt


def answer_context(domain: Domain, number: int, reply_key: bytes) -> bytes:
    """The place of an answer: of which question. Spec: [INBOX-SEAL.2]"""
    return _ANSWER + domain.separator() + number.to_bytes(32, "big") + reply_key


def _message_key(private: X25519PrivateKey, other: bytes, ephemeral: bytes, reader: bytes) -> bytes:
    if len(other) != KEY_BYTES:
        raise KeyNonsense(f"a public key has 32 bytes, not {len(other)}")
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise KeyNonsense("the key is one of the few that give everybody the same secret") from error
    return _derived(shared, ephemeral + reader, _MESSAGE)


def _derived(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=purpose).derive(secret)
