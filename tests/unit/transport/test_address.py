"""Multiaddrs, and the book that keeps them."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.identity import NodeKey
from p2pnode.transport.address import parse_address
from p2pnode.transport.address_book import ADDRESSES_PER_PEER_MAX, AddressBook


def key(n: int) -> NodeKey:
    return NodeKey(n.to_bytes(32, "big"))


PEER = key(1).peer_id


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/ip4/1.2.3.4/tcp/4001", None),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}", None),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/", f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}"),
        ("/ip6/::1/tcp/1", None),
        (f"/ip4/1.2.3.4/tcp/4001/ws/p2p/{PEER}", None),
        ("/dns4/node.example.org/tcp/443/wss", "/dns4/node.example.org/tcp/443/tls/ws"),
        ("/dns/node-1.example.org/tcp/443/tls/ws", None),
    ],
)
def test_addresses_that_are(text: str, canonical: str | None) -> None:
    assert str(parse_address(text)) == (canonical or text)
    assert parse_address(str(parse_address(text))) == parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "1.2.3.4:4001",
        "/ip4/1.2.3.4/udp/4001/quic-v1",
        "/ip4/1.2.3/tcp/4001",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/-1",
        "/ip4/1.2.3.4/tcp/٣",
        "/ip6/1.2.3.4/tcp/1",
        "/dns//tcp/1",
        "/dns/a b/tcp/1",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit",
        "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWGC6TvWhfajpgX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5",
        "/ip4/1.2.3.4/tcp/1/p2p",
        "/dns/" + "a" * 600 + "/tcp/1",
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@given(st.text(alphabet="/ip46dnstcpws.:0123456789abcXYZ-é\0", max_size=80))
def test_parsing_is_total(text: str) -> None:
    with suppress(ValueError):
        assert parse_address(str(parse_address(text))) == parse_address(text)


def _address(n: int, port: int = 4001) -> str:
    return f"/ip4/10.0.0.1/tcp/{port}/p2p/{key(n).peer_id}"


def test_the_book_keeps_what_names_the_peer() -> None:
    book = AddressBook()
    addresses = [
        "nonsense",
        _address(2),
        "/ip4/10.0.0.1/tcp/1",
        _address(1, 0),
        _address(1),
        _address(1),
        _address(1, 2),
    ]
    assert book.learn(key(1).node_id, addresses) == 2
    assert [str(address) for address in book.addresses(key(1).node_id)] == [_address(1), _address(1, 2)]
    assert book.learn(key(1).node_id, ["nonsense"]) == 0
    assert len(book.addresses(key(1).node_id)) == 2
    book.forget(key(1).node_id)
    assert book.addresses(key(1).node_id) == ()


def test_the_book_is_bounded() -> None:
    book = AddressBook(peers_max=3)
    for n in range(1, 6):
        book.learn(key(n).node_id, [_address(n, port) for port in range(1, 100)])
    assert len(book) == 3
    assert list(book) == [key(n).node_id for n in (3, 4, 5)]
    assert len(book.addresses(key(5).node_id)) == ADDRESSES_PER_PEER_MAX


def test_what_worked_comes_first_and_is_forgotten_last() -> None:
    book = AddressBook(peers_max=2)
    book.learn(key(1).node_id, [_address(1, 1), _address(1, 2)])
    book.learn(key(2).node_id, [_address(2)])
    book.worked(key(1).node_id, parse_address(_address(1, 2)))
    assert [address.port for address in book.addresses(key(1).node_id)] == [2, 1]
    book.learn(key(3).node_id, [_address(3)])
    assert list(book) == [key(1).node_id, key(3).node_id]


def test_the_book_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "book.json"
    book = AddressBook(path)
    book.learn(key(1).node_id, [_address(1)])
    book.save()
    stamp = path.stat().st_mtime_ns
    book.save()
    assert path.stat().st_mtime_ns == stamp
    again = AddressBook(path)
    assert again.addresses(key(1).node_id) == book.addresses(key(1).node_id)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"zz": []}', '{"00": "x"}', json.dumps({key(1).node_id.hex(): [3, None, "x"]})]
)
def test_a_damaged_book_starts_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "book.json"
    path.write_text(content)
    assert len(AddressBook(path)) == 0


def test_a_disk_that_fails_costs_only_the_book(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    book = AddressBook(tmp_path / "file" / "book.json")
    book.learn(key(1).node_id, [_address(1)])
    book.save()
    assert "not saved" in caplog.text
