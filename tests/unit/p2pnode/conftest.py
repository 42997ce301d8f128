"""What the tests of the runtime's files start from."""

from pathlib import Path

import pytest

from p2pnode.signer_log import create_signer_log
from tests.unit.p2pnode.signer_key import NODE


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    """The file of a key that has a signer log."""
    path = tmp_path / "node" / "node-key.json"
    path.parent.mkdir()
    path.touch()
    create_signer_log(path, NODE)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands keep what belongs to their user: not in the home of whoever runs the tests."""
    folder = tmp_path / "home"
    monkeypatch.setenv("P2PNODE_HOME", str(folder))
    return folder
