"""The address of a router as people copy it: a multiaddr that names its key, and the network it serves.

    /ip4/203.0.113.7/tcp/4001/p2p/16Uiu2HA...?network=<64 hex digits>

Without ``network`` a client cannot tell whether the router speaks for the network it means, so the level of its
answers is capped; :attr:`RouterAddress.network` is None then. Checks are on the string alone: nothing is dialed.
"""

import ipaddress
import re
from dataclasses import dataclass

import base58

from protocol.core.errors import P2PNodeError
from protocol.core.ids import NetworkId

ADDRESS_CHARACTERS_MAX = 256
"""Of the multiaddr: as many as an advert carries."""

EXAMPLE = "/ip4/203.0.113.7/tcp/4001/p2p/16Uiu2HAkzjLLosHcV4LGvLY4vskdgvuQuyKwh59nsCyS2VUwvP9i?network=<64 hex digits>"

_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_NETWORK = re.compile(r"[0-9a-f]{64}")

_PEER_ID_PREFIX = bytes.fromhex("002508021221")
"""An identity multihash of libp2p's protobuf PublicKey{secp256k1, 33 bytes}: the only keys this network knows."""


class MalformedAddress(P2PNodeError):
    """Text that is no address; the message says which part, the hint shows a right one."""

    code = "address/malformed"
    hint = f"an address looks like {EXAMPLE}"


@dataclass(frozen=True, slots=True)
class Multiaddr:
    """A TCP or WebSocket multiaddr, taken apart."""

    host_kind: str
    """``ip4``, ``ip6``, ``dns``, ``dns4`` or ``dns6``."""
    host: str
    port: int
    """0 where a listener shall take any free port."""
    websocket: bool
    peer_id: str | None

    def __str__(self) -> str:
        text = f"/{self.host_kind}/{self.host}/tcp/{self.port}" + ("/ws" if self.websocket else "")
        return text if self.peer_id is None else f"{text}/p2p/{self.peer_id}"


@dataclass(frozen=True, slots=True)
class RouterAddress:
    """Where a router is, who it is, and which network it is asked for."""

    multiaddr: str
    """Ends in ``/p2p/<peer id>``."""
    network: NetworkId | None = None
    """None: not named, and the level of an answer is capped."""

    @property
    def peer_id(self) -> str:
        """The libp2p peer id in base58."""
        return self.multiaddr.rpartition("/")[2]

    def __str__(self) -> str:
        return self.multiaddr if self.network is None else f"{self.multiaddr}?network={self.network.hex()}"


def parse_router_address(text: str) -> RouterAddress:
    """Read an address as a person typed it. Raises MalformedAddress."""
    bare, question, query = text.strip().partition("?")
    parsed = parse_multiaddr(bare)
    if parsed.peer_id is None:
        raise MalformedAddress(f"the address {bare} does not say who answers there: it must end in /p2p/<peer id>")
    if parsed.port == 0:
        raise MalformedAddress(f"the address {bare} has port 0, which cannot be dialed")
    return RouterAddress(str(parsed), _network(query) if question else None)


def parse_listen_address(text: str) -> Multiaddr:
    """Read an address to listen on: an IP address of this machine, no peer id. Raises MalformedAddress."""
    parsed = parse_multiaddr(text)
    if parsed.host_kind not in ("ip4", "ip6") or parsed.peer_id is not None:
        raise MalformedAddress(
            f"{text} cannot be listened on: give an IP address and a port, without /p2p",
            hint="for example /ip4/0.0.0.0/tcp/4001 or /ip4/127.0.0.1/tcp/0/ws",
        )
    return parsed


def parse_multiaddr(text: str) -> Multiaddr:
    """Read ``/<host kind>/<host>/tcp/<port>[/ws][/p2p/<peer id>]``. Raises MalformedAddress."""
    if not text:
        raise MalformedAddress("the address is empty")
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise MalformedAddress(f"the address has {len(text)} characters, at most {ADDRESS_CHARACTERS_MAX} are allowed")
    if not text.startswith("/"):
        raise MalformedAddress(f"the address {_shown(text)} does not start with '/'")
    parts = text[1:].split("/")
    if parts[0] not in _HOSTS:
        raise MalformedAddress(f"the address starts with /{_shown(parts[0])}; known are /{', /'.join(_HOSTS)}")
    if len(parts) < 4 or parts[2] != "tcp":
        raise MalformedAddress(f"the address {_shown(text)} has no /tcp/<port> after the host")
    host, port, rest = _host(parts[0], parts[1]), _port(parts[3]), parts[4:]
    websocket = rest[:1] == ["ws"]
    rest = rest[1:] if websocket else rest
    peer_id = None
    if rest[:1] == ["p2p"]:
        peer_id = _peer_id(rest[1] if len(rest) > 1 else "")
        rest = rest[2:]
    if rest:
        raise MalformedAddress(
            f"the address has /{_shown('/'.join(rest))} where only /ws and then /p2p/<peer id> may stand"
        )
    return Multiaddr(parts[0], host, port, websocket, peer_id)


def _host(kind: str, host: str) -> str:
    if kind.startswith("dns"):
        if not _HOST_NAME.fullmatch(host):
            raise MalformedAddress(f"{_shown(host)!r} is no host name")
        return host.lower()
    version: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    version = ipaddress.IPv4Address if kind == "ip4" else ipaddress.IPv6Address
    try:
        if "%" in host:
            raise ValueError("zones name an interface of one machine")
        return str(version(host))
    except ValueError as error:
        raise MalformedAddress(f"{_shown(host)!r} is no IPv{kind[2]} address") from error


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65_535:
        raise MalformedAddress(f"{_shown(text)!r} is no port; ports are numbers up to 65535")
    return int(text)


def _peer_id(text: str) -> str:
    try:
        raw = base58.b58decode(text)
    except ValueError as error:
        raise MalformedAddress(f"the peer id {_shown(text)!r} is not base58; it may be cut off or mistyped") from error
    if len(raw) != len(_PEER_ID_PREFIX) + 33 or not raw.startswith(_PEER_ID_PREFIX) or raw[6] not in (2, 3):
        raise MalformedAddress(
            f"the peer id {_shown(text)!r} is not that of a secp256k1 key, which starts with 16Uiu2; "
            "it may be cut off or mistyped"
        )
    return text


def _network(query: str) -> NetworkId:
    key, _, value = query.partition("=")
    if key != "network":
        raise MalformedAddress(f"after '?' only network=<64 hex digits> may stand, not {_shown(query)!r}")
    if not _NETWORK.fullmatch(value.lower()):
        raise MalformedAddress(f"network has {len(value)} characters; a network id is 64 hex digits")
    return NetworkId(bytes.fromhex(value))


def _shown(text: str) -> str:
    """What a person typed, bounded, without control characters that would disturb a terminal."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= 60 else f"{printable[:57]}..."
