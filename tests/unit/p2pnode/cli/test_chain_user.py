"""``p2pnode wallet`` and ``p2pnode inbox`` before they reach a chain: what is missing is named, with a next step."""

from pathlib import Path

import pytest

from p2pnode.cli import entry
from p2pnode.cli.output import WaitLine
from p2pnode.identity import SCRYPT_N_TESTNET, NodeKey, write_keystore
from protocol.core.genesis import Genesis

ADDRESS = "0x" + "0a" * 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    write_keystore(tmp_path / "key.json", NodeKey(b"\x07" * 32), "", scrypt_n=SCRYPT_N_TESTNET)
    (tmp_path / "genesis.json").write_text(Genesis("no chain").to_json(), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("wallet deposit 5", "needs a key"),
        ("wallet withdraw 5", "needs a key"),
        ("wallet exit", "needs a key"),
        ("wallet balance", "no account is named"),
        ("wallet balance --account 0x12", "'0x12' is no account"),
        ("wallet balance --account GENESIS", "is no account"),
        ("wallet balance --account ADDRESS", "this network has no contracts"),
        (
            "wallet balance --account ADDRESS --genesis GENESIS --rpc http://127.0.0.1:1",
            "this network has no contracts",
        ),
        ("inbox ask hi --router ADDRESS --key KEY", "this network has no contracts"),
        ("inbox show 1 --key nothing.json", "no key file"),
    ],
)
def test_what_is_missing_is_named(place: Path, capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    names = {"ADDRESS": ADDRESS, "KEY": str(place / "key.json"), "GENESIS": str(place / "genesis.json")}
    assert entry.main([names.get(word, word) for word in command.split()]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    error, following = printed.err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert following.startswith("next: ")


def test_nothing_is_drawn_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    with WaitLine() as line:
        line("waiting for a block")
    assert capsys.readouterr().err == ""
