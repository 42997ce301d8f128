"""The wire format: one encoding for every value, and nothing but DecodeError for everything else."""

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message, decode, encode, fields_of, message, pack, registered, unpack
from protocol.core.errors import DecodeError, LocalProtocolError
from protocol.messages.adverts import Advert, ModelManifest, ModelOffer
from protocol.messages.envelope import Envelope
from protocol.messages.greeting import ClientHello
from protocol.messages.sessions import LeaseRelease
from protocol.messages.tasks import AckMessage, CancelTask, EndRecord, FrameMessage
from tests.unit.protocol.strategies import build, every_message

SESSION = bytes(range(32))
CANCEL = encode(CancelTask(SESSION, 5))

any_message = st.one_of([build(cls) for cls in every_message()])


@pytest.mark.spec("CODEC-CANON.1")
@pytest.mark.parametrize("cls", every_message(), ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_message_survives_the_wire(cls: type[Message], data: st.DataObject) -> None:
    value = data.draw(build(cls))
    assert decode(encode(value)) == value


@pytest.mark.spec("CODEC-TOTAL.1")
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_fail_cleanly(data: bytes) -> None:
    _decode_or_fail(data)


@pytest.mark.spec("CODEC-TOTAL.1", "CODEC-CANON.1")
@given(any_message, st.data())
def test_a_damaged_message_is_itself_canonical_or_fails(value: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not encoded:
            break
    _decode_or_fail(bytes(encoded))


@pytest.mark.spec("CODEC-TOTAL.1")
@given(
    st.sampled_from(sorted(registered())),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | st.text(),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
def test_any_msgpack_value_decodes_or_fails_cleanly(kind: int, fields: Any) -> None:
    _decode_or_fail(msgpack.packb([kind, *fields] if isinstance(fields, list) else fields))


def _decode_or_fail(data: bytes) -> None:
    try:
        value = decode(data)
    except DecodeError:
        return
    assert encode(value) == data


@pytest.mark.spec("CODEC-CANON.1")
@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("an integer is not minimal", CANCEL[:-1] + b"\xcc\x05"),
        ("the kind is not minimal", CANCEL[:1] + b"\xcc\x11" + CANCEL[2:]),
        ("the array header is not minimal", b"\xdc\x00\x03" + CANCEL[1:]),
        ("the bin header is not minimal", CANCEL[:2] + b"\xc5\x00\x20" + SESSION + CANCEL[-1:]),
        ("bytes after the end", CANCEL + b"\x00"),
        ("a second message after the end", CANCEL + CANCEL),
        ("a field too many", b"\x94" + CANCEL[1:] + b"\x00"),
        ("a field too few", b"\x92" + CANCEL[1:-1]),
        ("cut off", CANCEL[:-1]),
        ("str where bin belongs", msgpack.packb([17, "a" * 32, 5])),
        ("a float where an integer belongs", msgpack.packb([17, SESSION, 5.0])),
        ("a bool where an integer belongs", msgpack.packb([17, SESSION, True])),
        ("nil where an integer belongs", msgpack.packb([17, SESSION, None])),
        ("a negative integer", msgpack.packb([17, SESSION, -1])),
        ("an integer above its bound", msgpack.packb([17, SESSION, 2**32])),
        ("bytes below their length", msgpack.packb([17, SESSION[:-1], 5])),
        ("bytes above their length", msgpack.packb([17, SESSION + b"\0", 5])),
        ("an extension type", msgpack.packb([17, msgpack.ExtType(1, SESSION), 5])),
        ("a timestamp", msgpack.packb([17, msgpack.Timestamp(1, 0), 5])),
        ("a map", msgpack.packb({0: 17})),
        ("a map of fields", msgpack.packb([17, {"session": SESSION, "task": 5}])),
        ("an unknown kind", msgpack.packb([250, SESSION, 5])),
        ("a kind that is no integer", msgpack.packb([17.0, SESSION, 5])),
        ("a kind that is a bool", msgpack.packb([True, SESSION, 5])),
        ("no array", msgpack.packb(17)),
        ("a header that claims four thousand million items", b"\xdd\xff\xff\xff\xff"),
        ("a header that claims four thousand million bytes", b"\x93\x11\xc6\xff\xff\xff\xff"),
        ("a missing field that has a default", msgpack.packb([ClientHello.KIND])),
        ("invalid UTF-8", msgpack.packb([14, SESSION, "a", "b", 0]).replace(b"\xa1a", b"\xa1\xff")),
    ],
)
def test_another_encoding_is_refused(why: str, data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@pytest.mark.spec("CODEC-TOTAL.1")
@pytest.mark.parametrize("header", [b"\x91", b"\x81\x00", b"\xdc\x00\x01"])
def test_nesting_ends_in_an_error_however_deep(header: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(header * 100_000)


@pytest.mark.spec("CODEC-CANON.1")
def test_a_message_is_held_to_the_limit_of_its_kind_both_ways() -> None:
    large = FrameMessage(SESSION, 1, 0, 0, (7,) * 1_024, (b"x" * 1_024,) * 1_024, None, bytes(65))
    with pytest.raises(LocalProtocolError, match="limit"):
        encode(large)
    release = msgpack.packb([LeaseRelease.KIND, bytes(LeaseRelease.LIMIT_BYTES)])
    with pytest.raises(DecodeError, match="limit"):
        decode(release)
    with pytest.raises(DecodeError, match="limit"):
        decode(CANCEL, limit_bytes=len(CANCEL) - 1)


@pytest.mark.spec("CODEC-CANON.1")
def test_a_kind_number_is_given_once() -> None:
    with pytest.raises(LocalProtocolError, match="already"):
        message(kind=1, limit_bytes=10)(Envelope)
    assert len({cls.__name__ for cls in registered().values()}) == len(registered())


@pytest.mark.spec("CODEC-CANON.1")
@given(build(EndRecord))
def test_a_part_packs_and_unpacks(value: EndRecord) -> None:
    assert unpack(EndRecord, pack(value), limit_bytes=64) == value
    with pytest.raises(DecodeError):
        unpack(EndRecord, pack(value) + b"\0", limit_bytes=64)


@pytest.mark.spec("CODEC-CANON.1")
def test_names_hold_no_line_break() -> None:
    manifest = ModelManifest("name", bytes(32), 1, "llama", "Q8_0", 128)
    offer = ModelOffer(msgspec.structs.replace(manifest, name="name\n"), 1, 128, 1)
    advert = Advert(bytes(20), 1, ("miner",), (), (offer,), "build")
    with pytest.raises(DecodeError):
        decode(encode(advert))


@given(build(AckMessage))
def test_a_struct_inside_a_message_keeps_its_fields_in_order(value: AckMessage) -> None:
    assert fields_of(value) == [fields_of(value.ack), value.signature]
