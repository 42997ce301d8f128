"""``p2pnode evidence`` as a person uses it: found in files, checked, and what is missing is named with a next step."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pnode.answer import Answer
from p2pnode.cli import entry
from p2pnode.cli.chat_evidence import keep_evidence
from p2pnode.evidence_papers import PAPERS_MAX, write_evidence
from p2pnode.identity import SCRYPT_N_TESTNET, NodeKey, write_keystore
from p2pnode.oracle_records import claim_store
from p2pnode.store import open_store
from protocol.committee import storage
from protocol.committee.cut import Cut
from protocol.core.codec import pack
from protocol.light.levels import Level
from protocol.messages.committee import Block
from protocol.messages.evidence import ConflictingValues
from protocol.messages.receipts import Receipt, Tokens
from protocol.messages.results import Verdict
from protocol.results.contradictions import Statements
from protocol.results.convictions import make_file, pack_piece, unpack_file
from protocol.roles.client import TaskLevel
from protocol.session.record import SessionRecord
from protocol.settlement.docket import EVIDENCE
from tests.receipts_made import MINERS, ORACLES, Maker


@dataclass(frozen=True)
class Lying(Maker):
    """Another answer to the same order, signed by the same miner and oracles."""

    @cached_property
    def shown(self) -> Tokens:
        """Other words."""
        return Tokens(super().shown.ids, tuple(text.upper() for text in super().shown.texts))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two receipts, and other papers."""
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    honest, other = Maker(), Maker(founded_s=5)
    record = SessionRecord(honest.genesis.to_json(), honest.opening, honest.receipt().session.signature, (), ())
    for name, paper in {
        "honest": honest.receipt(),
        "lying": Lying().receipt(redacted=True),
        "streamed": Lying(level=Level.STREAMED).receipt(),
        "elsewhere": other.receipt(),
        "record": record,
    }.items():
        (tmp_path / name).write_bytes(pack(paper))
    (tmp_path / "nothing").write_bytes(b"nothing of ours")
    (tmp_path / "empty").mkdir()
    write_keystore(tmp_path / "key.json", NodeKey(b"\x07" * 32), "", scrypt_n=SCRYPT_N_TESTNET)
    (tmp_path / "genesis.json").write_text(honest.genesis.to_json(), encoding="utf-8")
    write_evidence(tmp_path / "harmless", make_file(honest.genesis, ()))
    write_evidence(tmp_path / "guilty", make_file(honest.genesis, _found(honest.receipt(), Lying().receipt())))
    return tmp_path


def _found(*receipts: Receipt) -> Any:
    statements = Statements(Maker().domain)
    for receipt in receipts:
        statements.receipt(receipt)
    return statements.find().evidence


def run(place: Path, *words: str) -> int:
    """Run a command whose words that are files of the place are found there."""
    return entry.main(["evidence", *(str(place / word) if (place / word).exists() else word for word in words)])


@pytest.mark.spec("EVIDENCE-FILE.1")
def test_two_receipts_make_a_file_that_convicts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "found"
    assert run(place, "make", "honest", "record", "lying", "-o", str(out)) == 0
    printed = capsys.readouterr().out
    guilty = [f"0x{key.node.hex()}" for key in (MINERS[0], *ORACLES[:3])]
    for node in guilty:
        assert f"{node} is convicted of" in printed
    assert "two frames that end at one token" in printed
    assert "no kind of evidence speaks" in printed
    assert f"p2pnode evidence submit {out}" in printed
    assert unpack_file(out.read_bytes()).genesis == Maker().genesis.to_json()
    assert run(place, "verify", "found") == 0
    verified = capsys.readouterr().out
    assert verified.startswith(f"network made, {Maker().genesis.network_id().hex()}")
    assert "✗" not in verified
    assert verified.count("✓") == 2 * verified.count(" is convicted of ")
    assert run(place, "verify", "found", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {item["convicted"] for item in told["evidence"]} == set(guilty)
    assert all(half["signer"] == item["convicted"] for item in told["evidence"] for half in item["signed"])


@pytest.fixture
def oracle(place: Path) -> Path:
    """The folder of an oracle in whose chain the other answer was decided."""
    folder, lying = place / "oracle", Lying()
    certified, header = lying.certify(lying.header(1)), lying.header(1)
    block = Block(header, pack(Cut(lying.batches()[:1])), certified.certificate)
    later = lying.certify(lying.header(1, 42)).certificate
    piece = _found(Maker().receipt(), Lying(level=Level.STREAMED).receipt())[0]

    async def write() -> None:
        with open_store(folder) as store:
            await claim_store(store, lying.genesis)
            records = [
                (storage.chain_key(1, header.height), pack(block)),
                (storage.open_certificate_key(later), pack(later)),
                (EVIDENCE + MINERS[0].node, pack_piece(piece)),
            ]
            await store.persist(records)

    trio.run(write)
    return folder


def test_an_oracles_folder_is_a_paper_too(place: Path, oracle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "make", "oracle", "--json") == 0
    kept = json.loads(capsys.readouterr().out)
    assert [item["what"] for item in kept["evidence"]] == ["two frames that end at one token"], (
        "what it has found itself"
    )
    assert kept["papers"] == ["an oracle's chain: 1 blocks, 1 pieces of evidence"]
    assert run(place, "make", "oracle", "honest", "--json") == 0
    found = json.loads(capsys.readouterr().out)["evidence"]
    said = [(item["what"], item["convicted"]) for item in found]
    nodes = [f"0x{oracle.node.hex()}" for oracle in ORACLES[:3]]
    assert sorted(node for what, node in said if what == "two finalizes in one slot") == sorted(nodes)
    assert [node for what, node in said if what == "two batches with one number"] == nodes[:1]


def test_a_folder_that_cannot_be_read_is_named(place: Path, oracle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def spoil() -> None:
        with open_store(oracle) as store:
            await store.persist([(storage.OPEN_CERTIFICATE + b"x", b"nothing")])

    trio.run(spoil)
    assert run(place, "make", "oracle", "honest") == 1
    assert f"the chain in {oracle} cannot be read" in capsys.readouterr().err


async def test_a_chat_keeps_what_convicts_an_oracle(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker, oracle = Maker(), ORACLES[1]
    first, second = maker.batch(oracle), maker.batch(oracle, verdict=Verdict.LATE, root=bytes(32), count=0)
    pair = ConflictingValues(maker.session, 1, 0, first, second)
    answer = Answer(lambda: None, trio.open_memory_channel[Any](1)[1])
    keep_evidence(maker.genesis, answer)
    assert not (place / "home" / "evidence").exists()
    answer.rise(TaskLevel(Level.STREAMED, (), 5, 0, 4, None, "", 1, convicting=(pair,)))
    keep_evidence(maker.genesis, answer)
    (kept,) = (place / "home" / "evidence").iterdir()
    assert f"p2pnode evidence submit {kept}" in capsys.readouterr().err
    assert run(place, "verify", str(kept)) == 0
    assert f"0x{oracle.node.hex()} is convicted of two values for one lane" in capsys.readouterr().out


def test_evidence_and_a_receipt_together_find_what_neither_holds(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "make", "guilty", "--json") == 0
    alone = json.loads(capsys.readouterr().out)
    assert run(place, "make", "guilty", "streamed", "--json") == 0
    more = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in more["evidence"]] == [item["id"] for item in alone["evidence"]], "the same frames"
    assert (more["more"], more["looked_at"]["frames"]) == (False, 2)


def test_a_changed_signature_convicts_nobody_and_is_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = unpack_file((place / "guilty").read_bytes())
    piece = file.commits[0]
    forged = msgspec.structs.replace(
        piece, second=msgspec.structs.replace(piece.second, signature=piece.first.signature)
    )
    write_evidence(place / "forged", make_file(Maker().genesis, (forged,)))
    assert run(place, "verify", "forged") == 1
    printed = capsys.readouterr().out
    assert "convicts nobody" in printed
    assert "signature: " in printed
    assert run(place, "submit", "forged") == 1
    assert "convicts nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("make honest", "nothing in these papers contradicts"),
        ("make record", "nothing in these papers contradicts"),
        ("make honest elsewhere", "is of the network"),
        ("make nothing", "is no receipt, evidence file or session record"),
        ("make empty", "no oracle has worked in"),
        ("make absent", "No such file"),
        ("verify honest", "is no evidence file"),
        ("verify nothing", "is no evidence file"),
        ("submit harmless", "convicts nobody"),
        ("submit guilty", "no node is running"),
        ("submit guilty --rpc http://127.0.0.1:1", "whoever sends a transaction pays for it"),
        ("submit guilty --rpc http://127.0.0.1:1 --key key.json", "this network has no contracts"),
        ("submit guilty --rpc http://127.0.0.1:1 --key key.json --genesis genesis.json", "has no contracts"),
    ],
)
def test_what_is_missing_is_named(place: Path, capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    assert run(place, *command.split()) == 1
    printed = capsys.readouterr()
    error, following = [line for line in printed.err.splitlines() if line]
    assert error.startswith("error: ")
    assert message in error
    assert following.startswith("next: ")


def test_there_is_a_bound_on_papers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "make", *["honest"] * (PAPERS_MAX + 1)) == 1
    assert "at most" in capsys.readouterr().err


def test_one_file_is_not_read_without_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["evidence", "make", "/dev/zero"]) == 1
    assert "is no receipt" in capsys.readouterr().err
