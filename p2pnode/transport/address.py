"""Multiaddrs as this network uses them: ``/ip4|ip6|dns…/HOST/tcp/PORT[/ws|/wss|/tls/ws][/p2p/PEER_ID]``."""

import ipaddress
from dataclasses import dataclass

from p2pnode.identity import node_id_of_peer_id
from protocol.core.ids import NodeId

ADDRESS_CHARS_MAX = 512

_HOSTS = frozenset({"ip4", "ip6", "dns", "dns4", "dns6"})
_SUFFIXES = {(): (False, False), ("ws",): (True, False), ("wss",): (True, True), ("tls", "ws"): (True, True)}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial, and, with ``peer_id``, who must answer."""

    host_kind: str
    host: str
    port: int
    websocket: bool = False
    tls: bool = False
    peer_id: str | None = None

    @property
    def node_id(self) -> NodeId:
        """The node that the address names. Raises ValueError if it names none."""
        if self.peer_id is None:
            raise ValueError("the address names no peer; it must end in /p2p/<peer id>")
        return node_id_of_peer_id(self.peer_id)

    def __str__(self) -> str:
        suffix = "/tls/ws" if self.tls else "/ws" if self.websocket else ""
        peer = f"/p2p/{self.peer_id}" if self.peer_id is not None else ""
        return f"/{self.host_kind}/{self.host}/tcp/{self.port}{suffix}{peer}"


def parse_address(text: str) -> Address:
    """Parse a multiaddr. Raises ValueError that says what is wrong with it."""
    if len(text) > ADDRESS_CHARS_MAX:
        raise ValueError(f"an address has at most {ADDRESS_CHARS_MAX} characters")
    empty, *parts = text.rstrip("/").split("/")
    if empty or len(parts) < 4:
        raise ValueError(f"{text!r} is no multiaddr like /ip4/1.2.3.4/tcp/4001/p2p/16Uiu2…")
    host_kind, host, transport, port, *rest = parts
    if host_kind not in _HOSTS or transport != "tcp":
        raise ValueError(f"{text!r} is not of the form /ip4|ip6|dns/HOST/tcp/PORT; other transports are not spoken")
    if host_kind == "ip4":
        ipaddress.IPv4Address(host)
    elif host_kind == "ip6":
        ipaddress.IPv6Address(host)
    elif not host or not all(char.isalnum() or char in "-." for char in host):
        raise ValueError(f"{host!r} is no host name")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{port!r} is no port")
    peer_id = None
    if len(rest) >= 2 and rest[-2] == "p2p":
        peer_id = rest[-1]
        node_id_of_peer_id(peer_id)
        rest = rest[:-2]
    if tuple(rest) not in _SUFFIXES:
        raise ValueError(f"{text!r}: only /ws, /wss and /tls/ws may follow the port")
    websocket, tls = _SUFFIXES[tuple(rest)]
    return Address(host_kind, host, int(port), websocket, tls, peer_id)
