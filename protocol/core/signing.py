"""EIP-712 in one domain: what is signed, by whom, and how a signature is checked.

Everything a node or client signs is a struct of this module's kind, hashed by EIP-712 under a domain whose
salt is the network id, so a signature of one network, chain or kind is none in another. Structs whose fields a
contract, a receipt or evidence reads are hashed field by field (:class:`TypedStruct`); every other message is
``Kind(bytes payload)`` over the bytes as they were received.

The private key is handed in as a :data:`Sign` function; recovery is pure and lives here. A simulation of many
nodes may put another :class:`Scheme` in the place of secp256k1; what is signed stays what it is.
Source: EIP-712, EIP-2 (low s), EIP-2098 is not used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

import coincurve
import msgspec
import sha3
from msgspec import Meta

from protocol.core.errors import LocalProtocolError, SignatureError
from protocol.core.ids import Digest, NetworkId, NodeId, Signature

NAME = "p2pnode"
VERSION = "1"

SECP256K1_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_N = SECP256K1_N // 2

Sign = Callable[[Digest], Signature]
"""Signs a 32-byte digest with the node key: 65 bytes ``r || s || v``, low s."""

Bytes20 = Annotated[bytes, Meta(min_length=20, max_length=20, extra={"eip712": "address"})]
Bytes24 = Annotated[bytes, Meta(min_length=24, max_length=24, extra={"eip712": "bytes24"})]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32, extra={"eip712": "bytes32"})]
SignatureBytes = Annotated[bytes, Meta(min_length=65, max_length=65)]
# MessagePack integers end at 2^64 - 1; msgspec bounds at 2^63 - 1, which is as far as any count here goes.
U8 = Annotated[int, Meta(ge=0, le=255, extra={"eip712": "uint8"})]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1, extra={"eip712": "uint32"})]
U64 = Annotated[int, Meta(ge=0, le=2**63 - 1, extra={"eip712": "uint64"})]


def keccak(data: bytes) -> bytes:
    """keccak-256 as Ethereum uses it: 32 bytes. The one place that names a library for it."""
    # safe-pysha3 takes 1 µs a call where eth_hash over pycryptodome takes 8, and a frame needs two.
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


class TypedStruct(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A struct that is signed field by field. Every field carries its EIP-712 type in its annotation."""

    PRIMARY_TYPE: ClassVar[str] = ""
    """The type's name in EIP-712; the class name when empty."""


@dataclass(frozen=True, slots=True)
class Domain:
    """The one signing domain of a network. ``chain_id`` is 0 where there is no chain."""

    network_id: NetworkId
    chain_id: int = 0

    def separator(self) -> bytes:
        """The EIP-712 domain separator."""
        return _domain_separator(self.network_id, self.chain_id)


@cache
def _domain_separator(network_id: bytes, chain_id: int) -> bytes:
    type_hash = keccak(b"EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)")
    return keccak(
        type_hash + keccak(NAME.encode()) + keccak(VERSION.encode()) + chain_id.to_bytes(32, "big") + network_id
    )


@cache
def typed_fields(cls: type[TypedStruct]) -> tuple[tuple[str, str], ...]:
    """``(name, EIP-712 type)`` of each field, in order."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple((name, _solidity_type(cls, name, hints[name])) for name in cls.__struct_fields__)


def _solidity_type(cls: type, name: str, annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        return _solidity_type(cls, name, get_args(annotation)[0]) + "[]"
    for meta in get_args(annotation):
        if isinstance(meta, Meta) and meta.extra and "eip712" in meta.extra:
            return str(meta.extra["eip712"])
        if get_origin(meta) is tuple:
            return _solidity_type(cls, name, meta)
    if annotation is bool:
        return "bool"
    raise LocalProtocolError(f"{cls.__name__}.{name} has no EIP-712 type")


@cache
def _type_hash(cls: type[TypedStruct]) -> bytes:
    return keccak(type_string(cls).encode())


def type_string(cls: type[TypedStruct]) -> str:
    """EIP-712's ``encodeType``: what a wallet, a contract and this code must agree on."""
    primary = cls.PRIMARY_TYPE or cls.__name__
    return f"{primary}({','.join(f'{kind} {name}' for name, kind in typed_fields(cls))})"


def struct_hash(value: TypedStruct) -> bytes:
    """EIP-712's ``hashStruct``."""
    cls = type(value)
    words = [encode(getattr(value, name)) for name, encode in _word_encoders(cls)]
    return keccak(_type_hash(cls) + b"".join(words))


@cache
def _word_encoders(cls: type[TypedStruct]) -> tuple[tuple[str, Callable[[Any], bytes]], ...]:
    return tuple((name, _word_encoder(kind)) for name, kind in typed_fields(cls))


def _word_encoder(kind: str) -> Callable[[Any], bytes]:
    if kind.endswith("[]"):
        encode = _word_encoder(kind[:-2])
        return lambda items: keccak(b"".join([encode(item) for item in items]))
    if kind == "string":
        return lambda value: keccak(value.encode())
    if kind.startswith("bytes"):
        return lambda value: bytes(value).ljust(32, b"\0")
    if kind == "address":
        return lambda value: bytes(value).rjust(32, b"\0")
    return lambda value: int(value).to_bytes(32, "big")


def typed_digest(domain: Domain, value: TypedStruct) -> Digest:
    """What is signed for a struct with explicit fields. Spec: [SIGN-DOMAIN.1]"""
    return Digest(keccak(b"\x19\x01" + domain.separator() + struct_hash(value)))


def payload_digest(domain: Domain, kind: str, payload: bytes) -> Digest:
    """What is signed for ``Kind(bytes payload)``; the name of the kind is part of the type. Spec: [SIGN-PAYLOAD.1]"""
    hashed = keccak(_payload_type_hash(kind) + keccak(payload))
    return Digest(keccak(b"\x19\x01" + domain.separator() + hashed))


@cache
def _payload_type_hash(kind: str) -> bytes:
    return keccak(f"{kind}(bytes payload)".encode())


def node_id_of_public_key(public_key: bytes) -> NodeId:
    """The EVM address of a public key given as 64 bytes ``x || y``."""
    return NodeId(keccak(public_key)[12:])


class Scheme(Protocol):
    """How a signature names its signer. Its other half is the :data:`Sign` of each key."""

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """Who signed. Raises SignatureError."""


class Secp256k1:
    """The scheme of every node."""

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """Who signed. Raises SignatureError for anything but 65 bytes with low s and v in {27, 28}.

        Spec: [SIGN-LOW-S.1]
        """
        if len(signature) != 65 or signature[64] not in (27, 28):
            raise SignatureError("a signature is 65 bytes r || s || v with v 27 or 28")
        s = int.from_bytes(signature[32:64], "big")
        if not 0 < s <= HALF_N:
            raise SignatureError("the signature's s is not in the lower half")
        try:
            key = coincurve.PublicKey.from_signature_and_message(
                signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
            )
        except Exception as error:
            # coincurve raises bare Exceptions for points that are not on the curve.
            raise SignatureError("the signature recovers to no key") from error
        return node_id_of_public_key(key.format(compressed=False)[1:])


_scheme: Scheme = Secp256k1()


@contextmanager
def scheme(other: Scheme) -> Iterator[None]:
    """Inside, all signatures of the process are of ``other``: for simulations, where secp256k1 takes most of the time.

    Never in a node: there the scheme is part of the protocol. Not thread-safe: what other threads check meanwhile
    is checked by ``other`` too.
    """
    global _scheme
    before, _scheme = _scheme, other
    try:
        yield
    finally:
        _scheme = before


def recover(digest: Digest, signature: bytes) -> NodeId:
    """Who signed, by the scheme in force: :class:`Secp256k1`, but in a simulation. Raises SignatureError."""
    return _scheme.recover(digest, signature)


def verify(digest: Digest, signature: bytes, expected: bytes, what: str) -> None:
    """Check that ``expected`` signed. Raises SignatureError naming ``what``."""
    signer = recover(digest, signature)
    if signer != expected:
        raise SignatureError(f"{what} is signed by {signer.hex()}, expected {expected.hex()}")
