"""Python's bound on nested calls, which a library behind the keystore raises beyond what the stack holds."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnode.http.server import open_server
from p2pnode.identity import NodeKey, read_keystore, write_keystore
from p2pnode.recursion import RECURSION_MAX

SCRYPT_N = 2


@pytest.fixture(autouse=True)
def raised() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as that library does at its import
    yield
    sys.setrecursionlimit(before)


def test_writing_and_reading_a_key_take_it_back(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    write_keystore(path, NodeKey.generate(), "", scrypt_n=SCRYPT_N)
    assert sys.getrecursionlimit() == RECURSION_MAX
    sys.setrecursionlimit(100_000)
    read_keystore(path, "")
    assert sys.getrecursionlimit() == RECURSION_MAX


async def test_serving_http_takes_it_back() -> None:
    async with open_server(lambda *_: None, ["127.0.0.1:0"]):  # type: ignore[arg-type,return-value]
        assert sys.getrecursionlimit() == RECURSION_MAX
