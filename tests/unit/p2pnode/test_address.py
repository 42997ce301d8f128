"""Router addresses: what is read, what is written back, and which part of a wrong one is named."""

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.address import (
    ADDRESS_CHARACTERS_MAX,
    EXAMPLE,
    MalformedAddress,
    RouterAddress,
    parse_listen_address,
    parse_multiaddr,
    parse_router_address,
)
from p2pnode.identity import NodeKey
from protocol.core.ids import NetworkId

PEER = NodeKey(bytes(range(1, 33))).peer_id
GOOD = f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"/ip6/2001:db8::1/tcp/4001/ws/p2p/{PEER}",
        f"/dns4/router.example.org/tcp/443/ws/p2p/{PEER}",
        f"/dns6/r/tcp/1/p2p/{PEER}",
        f"/dns/xn--bcher-kva.example/tcp/65535/p2p/{PEER}",
    ],
)
def test_an_address_is_read_and_written_back(text: str) -> None:
    network = NetworkId(bytes(range(32)))
    assert parse_router_address(text) == RouterAddress(text, None)
    assert parse_router_address(f" {text}?network={network.hex().upper()}\n") == RouterAddress(text, network)
    assert str(RouterAddress(text, network)) == f"{text}?network={network.hex()}"
    assert parse_router_address(text).peer_id == PEER


def test_the_example_in_the_hint_is_one() -> None:
    assert parse_router_address(EXAMPLE.replace("<64 hex digits>", "ab" * 32)).network == NetworkId(b"\xab" * 32)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("router.example.org:4001", "does not start with '/'"),
        ("/http/example.org", "/http"),
        ("/ip4/203.0.113.7", "no /tcp/<port>"),
        ("/ip4/203.0.113.7/udp/4001/quic-v1", "no /tcp/<port>"),
        (f"/ip4/203.0.113.256/tcp/4001/p2p/{PEER}", "'203.0.113.256' is no IPv4 address"),
        (f"/ip6/fe80::1%eth0/tcp/4001/p2p/{PEER}", "no IPv6 address"),
        (f"/dns4/-bad-/tcp/4001/p2p/{PEER}", "no host name"),
        (f"/ip4/1.2.3.4/tcp/70000/p2p/{PEER}", "'70000' is no port"),
        (f"/ip4/1.2.3.4/tcp/+80/p2p/{PEER}", "no port"),
        (f"/ip4/1.2.3.4/tcp/0/p2p/{PEER}", "port 0"),
        ("/ip4/1.2.3.4/tcp/80", "must end in /p2p/"),
        ("/ip4/1.2.3.4/tcp/80/p2p", "peer id ''"),
        (GOOD[:-1], "peer id"),
        (GOOD.replace("p2p/1", "p2p/0"), "not base58"),
        ("/ip4/1.2.3.4/tcp/80/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "secp256k1"),
        (f"{GOOD}/p2p-circuit", "/p2p-circuit"),
        (f"/ip4/1.2.3.4/tcp/80/quic/p2p/{PEER}", "/quic"),
        (f"{GOOD}?network=abc", "network has 3 characters"),
        (f"{GOOD}?net=1", "'net=1'"),
        (f"{GOOD}?network={'ab' * 32}&header=1", "64 hex digits"),
        ("/dns4/" + "a" * ADDRESS_CHARACTERS_MAX, "at most 256"),
    ],
)
def test_a_wrong_address_says_which_part_and_shows_a_right_one(text: str, named: str) -> None:
    with pytest.raises(MalformedAddress) as caught:
        parse_router_address(text)
    assert named in str(caught.value)
    assert caught.value.hint is not None
    assert "/ip4/" in caught.value.hint


def test_a_peer_id_that_is_no_compressed_point_is_refused() -> None:
    other = base58.b58encode(bytes.fromhex("002508021221") + b"\x04" + bytes(32)).decode()
    with pytest.raises(MalformedAddress, match="secp256k1"):
        parse_router_address(f"/ip4/1.2.3.4/tcp/80/p2p/{other}")


@pytest.mark.parametrize("text", ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/4001/ws"])
def test_listen_addresses(text: str) -> None:
    assert str(parse_listen_address(text)) == text


@pytest.mark.parametrize("text", [GOOD, "/dns4/example.org/tcp/80"])
def test_what_cannot_be_listened_on(text: str) -> None:
    with pytest.raises(MalformedAddress, match="cannot be listened on"):
        parse_listen_address(text)


@given(
    st.text(max_size=80)
    | st.text("/ip46tcdnsw2.:?=0123456789", max_size=60).map(lambda tail: f"/ip4/1.2.3.4/tcp/{tail}")
)
def test_any_text_is_an_address_or_malformed(text: str) -> None:
    for parse in (parse_router_address, parse_multiaddr, parse_listen_address):
        try:
            parsed = parse(text)
        except MalformedAddress as error:
            assert str(error).isprintable()
            assert len(str(error)) < 400
        else:
            assert parse(str(parsed)) == parsed
