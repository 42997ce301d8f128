"""Which chain a testnet's folder goes on with, and what is said where it cannot."""

from pathlib import Path
from typing import Any

import pytest

from p2pnode import testnet_chain
from p2pnode.testnet_chain import CHAIN_FOLDER, STATES, ChainLost, ChainPlan, open_testnet_chain


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    kinds: list[str] = []

    def open_(_folder: Path, kind: str, **_: Any) -> Any:
        kinds.append(kind)
        return object()

    monkeypatch.setattr(testnet_chain, "open_local_chain", open_)
    return kinds


def leave(folder: Path, kind: Any) -> None:
    (folder / CHAIN_FOLDER).mkdir()
    (folder / CHAIN_FOLDER / STATES[kind]).touch()


def test_a_new_folder_has_whatever_is_installed(tmp_path: Path, opened: list[str]) -> None:
    open_testnet_chain(tmp_path, ChainPlan())
    open_testnet_chain(tmp_path, ChainPlan("embedded"))
    assert opened == ["auto", "embedded"]


@pytest.mark.parametrize(("left", "asked"), [("embedded", "auto"), ("embedded", "embedded"), ("anvil", "auto")])
def test_the_chain_that_is_there_goes_on(
    left: Any, asked: Any, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testnet_chain, "has_anvil", lambda: True)
    leave(tmp_path, left)
    open_testnet_chain(tmp_path, ChainPlan(asked))
    assert opened == [left]


def test_why_another_one_cannot_is_said(tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, "anvil")
    with pytest.raises(ChainLost, match="is one of anvil, and cannot go on as one of embedded") as caught:
        open_testnet_chain(tmp_path, ChainPlan("embedded"))
    assert caught.value.hint == "start it with --chain anvil, or in a new folder"
    monkeypatch.setattr(testnet_chain, "has_anvil", lambda: False)
    with pytest.raises(ChainLost, match="needs anvil") as caught:
        open_testnet_chain(tmp_path, ChainPlan())
    assert "npm" in (caught.value.hint or "")
    assert opened == []
