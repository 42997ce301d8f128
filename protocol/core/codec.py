"""The wire format: MessagePack arrays ``[kind, field, ...]`` of typed structs, one encoding each.

A message is a frozen :class:`Message` registered under a kind number with a size limit. Decoding checks the
length before it allocates, then the kind, the types and bounds of every field, and last that the bytes are
exactly what encoding the result gives: unknown kinds, trailing bytes, extra fields and non-minimal integers
are all refused, so whatever is hashed or signed has one encoding.

Rule: nothing but :class:`DecodeError` ever leaves :func:`decode`, whatever the bytes.

Spec: [CODEC-CANON.1] [CODEC-TOTAL.1]
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import msgpack
import msgspec

from protocol.core.errors import DecodeError, LocalProtocolError

U64_MAX = 2**64 - 1


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that crosses a wire. Subclasses are registered with :func:`message`."""

    KIND: ClassVar[int] = -1
    LIMIT_BYTES: ClassVar[int] = 0


M = TypeVar("M", bound=type[Message])
T = TypeVar("T", bound=msgspec.Struct)

_KINDS: dict[int, type[Message]] = {}


def message(*, kind: int, limit_bytes: int) -> Callable[[M], M]:
    """Register a message under its kind number (never reused) and the limit of its encoding in bytes."""

    def register(cls: M) -> M:
        if kind in _KINDS:
            raise LocalProtocolError(f"kind {kind} is already {_KINDS[kind].__name__}")
        cls.KIND = kind
        cls.LIMIT_BYTES = limit_bytes
        _KINDS[kind] = cls
        return cls

    return register


def registered() -> dict[int, type[Message]]:
    """All kinds, for tables and tests."""
    return dict(sorted(_KINDS.items()))


def fields_of(value: msgspec.Struct) -> list[Any]:
    """A struct as nested lists, the form that is packed."""
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    assert isinstance(plain, list)
    return plain


def pack(value: msgspec.Struct) -> bytes:
    """The canonical encoding of a struct that is no message of its own (a part of one, or a file)."""
    return _packed(fields_of(value))


def unpack(cls: type[T], data: bytes, *, limit_bytes: int) -> T:
    """Decode what :func:`pack` wrote. Raises DecodeError."""
    value = _convert(cls, _unpacked(data, limit_bytes))
    if pack(value) != data:
        raise DecodeError(f"{cls.__name__} is not in canonical form")
    return value


def encode(value: Message) -> bytes:
    """The canonical bytes of a message. Raises LocalProtocolError if it is larger than its kind may be."""
    data = _packed([value.KIND, *fields_of(value)])
    if len(data) > value.LIMIT_BYTES:
        raise LocalProtocolError(f"{type(value).__name__} of {len(data)} bytes, limit {value.LIMIT_BYTES}")
    return data


def decode(data: bytes, *, limit_bytes: int = 1 << 20) -> Message:
    """The message in ``data`` (untrusted). Raises DecodeError and nothing else."""
    array = _unpacked(data, limit_bytes)
    if not isinstance(array, list) or not array or type(array[0]) is not int:
        raise DecodeError("not an array that starts with a kind number")
    cls = _KINDS.get(array[0])
    if cls is None:
        raise DecodeError(f"unknown kind {array[0]}")
    if len(data) > cls.LIMIT_BYTES:
        raise DecodeError(f"{cls.__name__} of {len(data)} bytes, limit {cls.LIMIT_BYTES}")
    value = _convert(cls, array[1:])
    if _packed([value.KIND, *fields_of(value)]) != data:
        raise DecodeError(f"{cls.__name__} is not in canonical form")
    return value


def _packed(array: list[Any]) -> bytes:
    data = msgpack.packb(array, use_bin_type=True)
    assert isinstance(data, bytes)
    return data


def _unpacked(data: bytes, limit_bytes: int) -> Any:
    if len(data) > limit_bytes:
        raise DecodeError(f"{len(data)} bytes, limit {limit_bytes}")
    try:
        # msgpack caps every length in the data by the data's own, so a header cannot make it allocate more.
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:
        # msgpack raises a dozen types for bad input (ValueError, ExtraData, UnicodeDecodeError, RecursionError).
        raise DecodeError(f"not MessagePack: {type(error).__name__}") from error


def _convert(cls: type[T], array: Any) -> T:
    try:
        return msgspec.convert(array, cls, strict=True)
    except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"{cls.__name__}: {error}") from error
