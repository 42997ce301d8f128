"""``p2pnode verify`` as a person uses it: a tick for each link, the first that fails, an exit status for scripts."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from chain.api import AcceptedHeader
from chain.errors import ChainUnreachable
from p2pnode.cli import entry
from p2pnode.trust_store import FOLDER, TrustStore
from protocol.core.codec import pack
from protocol.core.ids import Digest
from protocol.light.levels import Level
from protocol.light.receipt import Link
from protocol.light.trust import show_trust
from protocol.messages.committee import header_digest
from tests.receipts_made import NOW_MS, Maker

MAKER = Maker(home=2, final_epoch=3, shift=1)
SETTLED = Maker(level=Level.SETTLED, settling=True, final_epoch=2, shift=1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some receipts and their genesis; nothing is known of any network."""
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    receipt = MAKER.receipt()
    assert receipt.tokens is not None
    forged = msgspec.structs.replace(receipt.tokens, texts=(b"Out ", *receipt.tokens.texts[1:]))
    for name, content in {
        "whole": receipt,
        "redacted": MAKER.receipt(redacted=True),
        "forged": msgspec.structs.replace(receipt, tokens=forged),
        "settled": SETTLED.receipt(),
    }.items():
        (tmp_path / name).write_bytes(pack(content))
    (tmp_path / "nothing").write_bytes(b"nothing of ours")
    (tmp_path / "genesis.json").write_text(MAKER.genesis.to_json())
    (tmp_path / "settled.json").write_text(SETTLED.genesis.to_json())
    return tmp_path


def trust_string(maker: Maker, epoch: int) -> str:
    point = maker.trust(epoch).point(epoch)
    assert point is not None
    return show_trust(point)


def test_a_line_for_each_link_and_what_holds_for_a_stranger(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["verify", str(place / "whole")]) == 3
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert [line.split()[1] for line in lines[: len(Link)]] == [str(link) for link in Link]
    assert {line[0] for line in lines[: len(Link)]} == {"✓", "?", "-"}
    assert "not enough trust: committed is all" in said
    assert "p2pnode trust add" in said


@pytest.mark.parametrize("name", ["whole", "redacted"])
def test_offline_with_the_genesis_or_a_trust_string(place: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for options in (["--genesis", str(place / "genesis.json")], ["--trust", trust_string(MAKER, 2).lower()]):
        assert entry.main(["verify", str(place / name), *options]) == 0
        said = capsys.readouterr().out
        assert "verified: the answer is finalized" in said
        assert "what no receipt shows" in said


def test_what_was_left_by_earlier_answers_is_enough(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TrustStore(place / "home" / FOLDER).add_genesis(MAKER.genesis)
    assert entry.main(["verify", str(place / "whole"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["level"]) == ("verified", "finalized")
    assert [row["link"] for row in said["links"]] == [str(link) for link in Link]


def test_a_forged_one_is_told_with_expected_and_actual(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["verify", str(place / "forged")]) == 1
    said = capsys.readouterr().out
    assert "✗ tokens" in said
    assert "✗" not in said.replace("✗ tokens", "", 1)
    assert "invalid at link tokens: the tokens lead to another chain" in said
    assert "expected: 0x" in said
    assert "actual:   0x" in said
    assert "believe nothing in it" in said
    assert entry.main(["verify", str(place / "forged"), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["verdict"], shown["link"]) == ("invalid", "tokens")
    assert shown["expected"] != shown["actual"]


def test_another_network_than_the_one_that_is_meant(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--genesis", str(place / "settled.json")], ["--trust", trust_string(SETTLED, 1)]):
        assert entry.main(["verify", str(place / "whole"), *options, "--json"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert said["link"] == "network"
        assert said["expected"] == f"0x{SETTLED.genesis.network_id().hex()}"


def test_files_and_strings_that_are_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["verify", str(place / "missing")]) == 1
    assert "chat --receipt" in capsys.readouterr().err
    assert entry.main(["verify", str(place / "nothing")]) == 1
    assert "invalid at link format" in capsys.readouterr().out
    assert entry.main(["verify", str(place / "whole"), "--trust", "P2PNODE-TRUST:1:AAAA"]) == 1
    assert "error:" in capsys.readouterr().err
    one = MAKER.trust(2).point(2)
    assert one is not None
    other = replace(one, committee_root=Digest(bytes(32)))
    assert entry.main(["verify", str(place / "whole"), "--trust", show_trust(one), "--trust", show_trust(other)]) == 1
    assert "error:" in capsys.readouterr().err


class Chain:
    """A chain that accepted the one header."""

    def __init__(self) -> None:
        self.asked: list[Digest] = []

    def accepted(self, digest: Digest) -> AcceptedHeader | None:
        self.asked.append(digest)
        header = SETTLED.settled_header()
        if digest != header_digest(SETTLED.domain, header):
            return None
        return AcceptedHeader(digest, header.epoch, header.height, NOW_MS // 1_000, 1)


def test_with_an_endpoint_the_chain_is_asked(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain()
    monkeypatch.setattr("p2pnode.chain_access.open_reading", lambda _genesis, _urls: chain)
    settled, genesis = str(place / "settled"), ["--genesis", str(place / "settled.json")]
    assert entry.main(["verify", settled, *genesis]) == 3
    assert "--rpc" in capsys.readouterr().out
    assert entry.main(["verify", settled, *genesis, "--rpc", "http://made"]) == 0
    assert "verified: the answer is settled" in capsys.readouterr().out
    assert len(chain.asked) == 1
    assert entry.main(["verify", settled, "--rpc", "http://made"]) == 3, "whose contracts it asks nobody said"
    assert len(chain.asked) == 1

    def away(_digest: Digest) -> None:
        raise ChainUnreachable("no endpoint answers", hint="check --rpc")

    chain.accepted = away  # type: ignore[method-assign]
    capsys.readouterr()
    assert entry.main(["verify", settled, *genesis, "--rpc", "http://made"]) == 1
    assert "no endpoint answers" in capsys.readouterr().err


def test_every_change_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pnode.cli.verify.FLIPS_SAMPLED", 50)
    small = Maker(tokens=1, acks=False, level=Level.COMMITTED)
    (place / "small").write_bytes(pack(small.receipt(redacted=True)))
    assert entry.main(["verify", str(place / "small"), "--tamper"]) == 0
    said = capsys.readouterr().out
    assert "and 50 bits, one at a time" in said
    assert "were refused" in said
    assert entry.main(["verify", str(place / "small"), "--tamper", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["tampered"]
    assert shown["not_refused"] == []
    assert shown["changed"]["fields"] > 500
    assert sum(shown["refused_by"].values()) == sum(shown["changed"].values())
    assert entry.main(["verify", str(place / "forged"), "--tamper"]) == 1
    assert "invalid as it is" in capsys.readouterr().err


def test_a_change_that_passes_is_told(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pnode.cli.verify.FLIPS_SAMPLED", 1)
    data = (place / "whole").read_bytes()
    monkeypatch.setattr("protocol.light.receipt.altered.alterations", lambda _receipt: [("nothing", data)])
    assert entry.main(["verify", str(place / "whole"), "--tamper"]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 were not refused" in said
    assert "- nothing" in said
