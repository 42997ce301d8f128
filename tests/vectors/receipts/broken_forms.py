"""Files that are no receipts, and receipts of no network."""

from typing import Any

import msgpack

from protocol.core.codec import fields_of, pack
from protocol.messages.receipts import Receipt
from tests.vectors.receipts.broken import RECEIPT, Named, other, with_
from tests.vectors.receipts.whole import EVERYTHING

_TEXT = EVERYTHING.genesis.to_json()
_MEMBERS = [member.hex() for member in EVERYTHING.genesis.committee]


def broken_forms() -> Named:
    """The bytes are no canonical receipt."""
    data, plain = pack(RECEIPT), fields_of(RECEIPT)
    assert data[:5] == bytes([0xDC, 0, len(Receipt.__struct_fields__), 1, 0xDA]), "the offsets below are of this head"
    yield "nothing", b""
    yield "one byte of an array", data[:1]
    yield "a map", b"\x80"
    yield "arrays in arrays", b"\x91" * 1_000
    yield "an array that says to be longer than all memory", b"\xdd\xff\xff\xff\xff" + data[3:]
    yield "a string that says to be longer than the file", data[:4] + b"\xdb\xff\xff\xff\xff" + data[7:]
    yield "an integer in two bytes where one does", data[:3] + b"\xcc" + data[3:]
    yield "an integer as a float", data[:3] + b"\xcb\x3f\xf0" + bytes(6) + data[4:]
    yield "true for an integer", data[:3] + b"\xc3" + data[4:]
    yield "an extension", data[:3] + b"\xd4\x01\x01" + data[4:]
    yield "an array's length in four bytes where two do", b"\xdd\x00\x00" + data[1:]
    yield "nil for a struct", _packed([*plain[:2], None, *plain[3:]])
    yield "a string for bytes", _packed([*plain[:4], "s" * 65, *plain[5:]])
    yield "bytes for a string", _packed([plain[0], b"{}", *plain[2:]])
    yield "a string that is no UTF-8", data.replace(b"Where does", b"\xff\xfere does")
    yield "a surrogate in UTF-8", data.replace(b"Where does", b"\xed\xa0\x80re does")
    yield "a role that is none", data.replace(b"\xa4user", b"\xa4User")
    yield "an end for no known reason", _fields("end.reason", 3)
    yield "without its last field", _packed(plain[:-1])
    yield "with a field more", _packed([*plain, None])
    yield "a byte behind it", data + b"\xc0"
    yield "a number of 2^63", _fields("order.cap_wei", 2**63)
    yield "a negative number", _fields("order.task", -1)
    yield "a token's text of 1,025 bytes", _fields("tokens.texts.0", b"x" * 1_025)
    yield "another format", with_("format", 2)
    yield "tokens without a prompt", with_("prompt", None)
    yield "a prompt without tokens", with_("tokens", None)
    yield "a settlement without an outcome", with_("final", None)


def _fields(path: str, new: Any) -> bytes:
    return _packed(fields_of(other(RECEIPT, path, new)))


def _packed(plain: list[Any]) -> bytes:
    data = msgpack.packb(plain, use_bin_type=True)
    assert isinstance(data, bytes)
    return data


def broken_networks() -> Named:
    """The genesis is none, or not in its one form."""
    for name, old, new in (
        ("no JSON", '{\n "allocation"', '{{\n "allocation"'),
        ("JSON behind JSON", "\n}\n", "\n}\n{}"),
        ("a genesis in another form", '{\n "allocation"', '{\n\n "allocation"'),
        ("a genesis without its last line's end", "\n}\n", "\n}"),
        ("a genesis of another format", '"format": 1', '"format": 2'),
        ("a field that is unknown", '"format": 1', '"former": 1,\n "format": 1'),
        ("a parameter that is unknown", '"bids_max": ', '"bids_min": 1,\n  "bids_max": '),
        ("a parameter outside its bounds", '"bid_target": 8', '"bid_target": 65'),
        ("parameters that do not go together", '"bids_good": 2', '"bids_good": 64'),
        ("a parameter with a fraction", '"bid_target": 8', '"bid_target": 8.0'),
        ("a network without a name", '"name": "made"', '"name": ""'),
        ("a name that cannot be printed", '"name": "made"', '"name": "ma\\u200bde"'),
        ("an address in capitals", f'"0x{_MEMBERS[0]}"', f'"0x{_MEMBERS[0].upper()}"'),
        ("an address of 19 bytes", f'"0x{_MEMBERS[0]}"', f'"0x{_MEMBERS[0][2:]}"'),
        ("a committee of three", f',\n  "0x{_MEMBERS[-1]}"', ""),
        ("a member twice", _MEMBERS[1], _MEMBERS[0]),
        ("contracts and no chain", '"chain_id": 31337', '"chain_id": 0'),
        ("founded after all time", '"founded_s": 1800000000', '"founded_s": 1099511627776'),
        ("another name", '"name": "made"', '"name": "mode"'),
    ):
        assert _TEXT.count(old) == 1, f"{old!r} is to stand once in a genesis"
        yield name, with_("genesis", _TEXT.replace(old, new))
