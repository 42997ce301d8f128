"""The verifier in JavaScript comes to the verdicts of the vectors, and to Python's on whatever is made of a receipt."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from protocol.core.codec import pack
from protocol.light.receipt import Link
from protocol.light.receipt.altered import flipped
from protocol.messages.receipts import Receipt
from tests.browser.node import FOLDER, missing, question, verdicts
from tests.browser.tables import TABLES, tables
from tests.receipts_made import NOW_MS, Maker
from tests.vectors.receipts.__main__ import told
from tests.vectors.receipts.reading import Vector, fields, manifest
from tests.vectors.receipts.whole import CARRIED, EVERYTHING, SKIPPING, Reader, knowing, shown, without_batches

needs_node = pytest.mark.skipif(bool(missing()), reason=missing())

FLIPS = 250


def test_its_tables_are_those_of_the_code() -> None:
    assert TABLES.read_text() == tables(), "if the change is meant: python -m tests.browser.tables"


@needs_node
@pytest.mark.spec("RECEIPT-LINKS.1", "RECEIPT-VERDICT.1")
def test_it_comes_to_the_verdicts_of_the_manifest() -> None:
    assert _differences(manifest()) == []


@needs_node
@pytest.mark.spec("RECEIPT-LINKS.1")
def test_it_refuses_every_field_that_is_altered() -> None:
    assert _differences(fields()) == []


@needs_node
@pytest.mark.parametrize(
    ("maker", "receipt", "reader"),
    [
        (EVERYTHING, EVERYTHING.receipt(), knowing(EVERYTHING)),
        (CARRIED, CARRIED.receipt(redacted=True), shown(CARRIED, 3)),
        (SKIPPING, without_batches(SKIPPING.receipt()), knowing(SKIPPING)),
    ],
    ids=["everything", "carried, redacted", "skipped"],
)
@pytest.mark.spec("RECEIPT-LINKS.1", "RECEIPT-VERDICT.1")
def test_both_refuse_a_bit_turned_over_at_the_same_link(maker: Maker, receipt: Receipt, reader: Reader) -> None:
    data = pack(receipt)
    _compare_bits(maker, reader, data, [number * len(data) * 8 // FLIPS for number in range(FLIPS)])


@needs_node
@pytest.mark.long
@pytest.mark.spec("RECEIPT-LINKS.1")
def test_both_refuse_every_bit_turned_over() -> None:
    data = pack(EVERYTHING.receipt())
    for first in range(0, len(data) * 8, 10_000):
        bits = range(first, min(first + 10_000, len(data) * 8))
        _compare_bits(EVERYTHING, knowing(EVERYTHING), data, bits)


def _compare_bits(maker: Maker, reader: Reader, data: bytes, bits: Sequence[int]) -> None:
    believed = {"trust": reader.trust, "network": reader.network}
    answers = verdicts([question(data, believed), *(question(None, believed, flip=bit) for bit in bits)])
    assert answers[0]["verdict"] == "verified"
    said = {bit: _as_told(answer) for bit, answer in zip(bits, answers[1:], strict=True)}
    expected = {bit: told(reader.verdict(maker.genesis, flipped(data, bit))) for bit in bits}
    assert said == expected
    assert {each["verdict"] for each in said.values()} == {"invalid"}


def _differences(vectors: Sequence[Vector]) -> list[tuple[str, Any, Any]]:
    """The vectors of which the verifier says something else: by name, what is expected, and what it says."""
    answers = verdicts(question(vector.data, vector.reader) for vector in vectors)
    pairs = zip(vectors, map(_as_told, answers), strict=True)
    return [(vector.name, vector.expected, said) for vector, said in pairs if said != vector.expected]


def _as_told(answer: dict[str, Any]) -> dict[str, Any]:
    """A verdict of the verifier's as a manifest has it."""
    names = ("verdict", "level", "link")
    marks = ("skipped", "untrusted") if answer["verdict"] != "invalid" else ()
    links = {mark: [each["link"] for each in answer["links"] if each["mark"] == mark] for mark in marks}
    return {**{name: answer[name] for name in names if name in answer}, **links}


@needs_node
def test_it_needs_nothing_of_node() -> None:
    receipt, network = pack(EVERYTHING.receipt()), EVERYTHING.genesis.network_id().hex()
    command = ["node", "--no-warnings", "--experimental-vm-modules", str(FOLDER / "alone.js"), network]
    done = subprocess.run(command, input=receipt, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    assert json.loads(done.stdout)["level"] == "settled"


@needs_node
@pytest.mark.parametrize(
    ("reader", "status", "last"),
    [
        (["--network", EVERYTHING.genesis.network_id().hex()], 0, "verified: settled"),
        ([], 3, "not enough trust: committed; observations: nobody said which network is meant"),
        (["--network", "55" * 32], 1, "invalid at network: it is of another network"),
    ],
)
def test_it_can_be_called_by_hand(tmp_path: Path, reader: list[str], status: int, last: str) -> None:
    file = tmp_path / "answer.receipt"
    file.write_bytes(pack(EVERYTHING.receipt()))
    done = subprocess.run(
        ["node", str(FOLDER / "check.js"), str(file), "--now-ms", str(NOW_MS), *reader],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert last in done.stdout
    assert len([line for line in done.stdout.splitlines() if line[0] in "✓✗?-"]) == len(Link)
