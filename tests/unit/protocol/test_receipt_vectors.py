"""The vectors of receipts: they are what is written today, Python comes to their verdicts, and nothing is left out."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from protocol.core.codec import decode
from protocol.light.levels import Level
from protocol.light.receipt import Link
from protocol.light.trust import parse_trust
from protocol.messages.envelope import Envelope
from tests.receipts_made import Maker
from tests.vectors.receipts.__main__ import told, vectors
from tests.vectors.receipts.edits import applied, edits_between
from tests.vectors.receipts.reading import FOLDER, Vector, fields, manifest
from tests.vectors.receipts.whole import CARRIED, DATED, EVERYTHING, FAR, Reader

ADDED_TO_ONLY = {".prompt.sampling.stop", ".bid_sets[].payload.announcement.payload.addresses"}
"""Empty in every receipt that is made here: the manifest has one with an item more."""
NOT_INVALID = ("verified", "not enough trust")
GENESES = {maker.genesis.network_id(): maker.genesis for maker in (Maker(), CARRIED, DATED, FAR)}
"""Of the networks of which there are trust strings."""


@pytest.mark.spec("RECEIPT-LINKS.1", "RECEIPT-VERDICT.1")
def test_they_are_what_is_written_today() -> None:
    stored = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in (".json", ".receipt")}
    assert stored == vectors(), "if the change is meant: python -m tests.vectors.receipts"


@pytest.mark.spec("RECEIPT-LINKS.1", "RECEIPT-VERDICT.1")
def test_python_comes_to_their_verdicts() -> None:
    different = [vector.name for vector in [*manifest(), *fields()] if _told(vector) != vector.expected]
    assert different == []


def _told(vector: Vector) -> dict[str, Any]:
    reader = Reader(**{**vector.reader, "trust": tuple(vector.reader["trust"])})
    shown = [parse_trust(text).network_id for text in reader.trust]
    return told(reader.verdict(GENESES[shown[0]] if shown else EVERYTHING.genesis, vector.data))


def test_each_link_fails_and_each_level_is_reached() -> None:
    expected = [vector.expected for vector in manifest()]
    assert {each["link"] for each in expected if each["verdict"] == "invalid"} == set(Link)
    assert {each["level"] for each in expected if each["verdict"] == "verified"} == {
        each.name.lower() for each in Level
    }
    assert {each["level"] for each in expected if each["verdict"] == "not enough trust"} >= {"committed", "finalized"}


def test_no_field_is_left_out() -> None:
    altered = {re.sub(r"\[\d+\]", "[]", vector.name.split(" ")[0]) for vector in fields()}
    there = {*_leaves(EVERYTHING.receipt()), *_leaves(CARRIED.receipt())}
    assert there - altered == ADDED_TO_ONLY


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all that is not made of something else; of lists without an item, their own."""
    match value:
        case Envelope():
            yield f"{path}.signature"
            yield from _leaves(decode(value.payload), f"{path}.payload")
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from _leaves(getattr(value, name), f"{path}.{name}")
        case tuple() if value:
            for item in value:
                yield from _leaves(item, f"{path}[]")
        case None:
            return
        case ():
            if path not in (".batches", ".hand_overs", ".committees"):
                yield path
        case _:
            yield path


@pytest.mark.parametrize("second", [b"", b"abcdef" * 9, b"x" + bytes(range(256)) * 4, bytes(range(256))[::-1]])
def test_edits_make_one_file_of_another(second: bytes) -> None:
    first = bytes(range(256)) * 3
    assert applied(first, edits_between(first, second)) == second
    assert applied(second, edits_between(second, first)) == first


def test_a_small_change_is_a_small_edit() -> None:
    first = bytes(range(256)) * 3
    changed = first[:100] + b"!" + first[101:]
    assert edits_between(first, changed) == [(100, 1, "21")]
    assert edits_between(first, first) == []
