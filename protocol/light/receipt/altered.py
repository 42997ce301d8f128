"""Every way to change one thing in a receipt, to see that each is noticed.

Left out are the ways to claim less: whoever has a receipt may leave out what proves a higher level, an ack, or prompt
and tokens together, and hand-overs that its reader does not need.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgpack
import msgspec

from protocol.core.codec import decode, fields_of
from protocol.core.errors import DecodeError
from protocol.core.signing import SECP256K1_N
from protocol.light.receipt.verdict import Invalid, Verdict
from protocol.messages.envelope import Envelope
from protocol.messages.receipts import Receipt

_MAY_BE_FEWER = ("hand_overs", "committees")
_NEVER_ALONE = ("prompt", "tokens")

Altered = tuple[str, bytes]
"""What was changed, as a path of fields, and the file with it."""


def alterations(receipt: Receipt) -> Iterator[Altered]:
    """The receipt with every field changed, one at a time: each number one more and one less, each text and each
    bytes at both ends, each list one shorter and one longer; of what is signed as bytes also each field inside."""
    for path, fields in _struct(receipt):
        yield path, msgpack.packb(fields, use_bin_type=True)
    plain = fields_of(receipt)
    for name in _NEVER_ALONE:
        place = receipt.__struct_fields__.index(name)
        if plain[place] is not None:
            yield f"{name} left out", msgpack.packb([*plain[:place], None, *plain[place + 1 :]], use_bin_type=True)
    data = msgpack.packb(plain, use_bin_type=True)
    yield from (("a byte behind it", data + b"\0"), ("its last byte left out", data[:-1]))


def flipped(data: bytes, bit: int) -> bytes:
    """A file with one bit changed."""
    at = bit // 8
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


def flips(data: bytes, count: int | None = None) -> Iterator[Altered]:
    """A file with one bit changed: each of them, or so many that are spread over all of it."""
    total = len(data) * 8
    wanted = total if count is None else min(count, total)
    for number in range(wanted):
        bit = number * total // wanted
        yield f"bit {bit}", flipped(data, bit)


def refused(before: Verdict, after: Verdict) -> bool:
    """Whether a reader who came to one verdict on a receipt is warned by the other one on an altered one."""
    return isinstance(after, Invalid) or isinstance(before, Invalid) or after.level < before.level


def _altered(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A value changed in one place, in the form that is packed, and which place that is."""
    match value:
        case Envelope():
            yield from _envelope(value)
        case msgspec.Struct():
            yield from _struct(value)
        case tuple():
            yield from _tuple(value, name)
        case bool():
            yield "", not value
        case IntEnum() | int():
            yield " + 1", value + 1
            if value > 0:
                yield " - 1", value - 1
        case str():
            yield from _text(value)
        case bytes():
            yield from _bytes(value, name)


def _struct(value: msgspec.Struct) -> Iterator[tuple[str, list[Any]]]:
    plain = fields_of(value)
    for place, name in enumerate(value.__struct_fields__):
        for path, changed in _altered(getattr(value, name), name):
            yield f".{name}{path}", [*plain[:place], changed, *plain[place + 1 :]]


def _envelope(value: Envelope) -> Iterator[tuple[str, list[Any]]]:
    yield from _struct(value)
    try:
        inner = decode(value.payload, limit_bytes=len(value.payload))
    except DecodeError:
        return
    for path, fields in _struct(inner):
        payload = msgpack.packb([inner.KIND, *fields], use_bin_type=True)
        yield f".payload{path}", [payload, value.signature]


def _tuple(value: tuple[Any, ...], name: str) -> Iterator[tuple[str, list[Any]]]:
    plain = [fields_of(item) if isinstance(item, msgspec.Struct) else item for item in value]
    for place, item in enumerate(value):
        for path, changed in _altered(item, name):
            yield f"[{place}]{path}", [*plain[:place], changed, *plain[place + 1 :]]
    if plain:
        yield " with the last one twice", [*plain, plain[-1]]
        if name not in _MAY_BE_FEWER:
            yield " without the last one", plain[:-1]
        if len(plain) > 1 and plain[0] != plain[-1]:
            yield " turned round", plain[::-1]


def _text(value: str) -> Iterator[tuple[str, str]]:
    yield " with one more", value + "x"
    if value:
        yield " at its start", chr(ord(value[0]) ^ 1) + value[1:]
        middle = len(value) // 2
        yield " in the middle", value[:middle] + chr(ord(value[middle]) ^ 1) + value[middle + 1 :]


def _bytes(value: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    yield " with one more", value + b"\1"
    if value:
        yield " at its start", bytes([value[0] ^ 1]) + value[1:]
        yield " at its end", value[:-1] + bytes([value[-1] ^ 1])
        yield " with one less", value[:-1]
    if name.endswith("signature") and len(value) == 65:
        s = (SECP256K1_N - int.from_bytes(value[32:64], "big")) % (1 << 256)
        yield " with its high s", value[:32] + s.to_bytes(32, "big") + bytes([(55 - value[64]) % 256])
