"""Accepts TCP and WebSocket connections on one port, within bounds from the first byte on.

libp2p's own listeners count nothing that has not finished its handshake, wait for ever for half a WebSocket upgrade,
and never give back the slot of an inbound connection that has ended.
"""

import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from libp2p.network.connection.raw_connection import RawConnection
from trio_websocket import wrap_server_stream

from p2pnode.transport.address import Address, parse_address
from p2pnode.transport.libp2p.config import Libp2pConfig
from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.libp2p.wire import READ_BYTES, WEBSOCKET_MESSAGE_BYTES_MAX, HeadedStream, WebSocketWire, Wire
from p2pnode.transport.seam import TransportError

log = logging.getLogger(__name__)

Upgrade = Callable[[RawConnection], Awaitable[Muxer]]
"""Secures and multiplexes an inbound connection; raises whatever is wrong with it."""

_HANDSHAKES_PER_IP_SHARE = 0.25


class Listener:
    """Serves every address of the configuration; ``addresses`` is what was bound."""

    def __init__(self, config: Libp2pConfig, upgrade: Upgrade) -> None:
        self._config = config
        self._upgrade = upgrade
        self._handshakes: dict[trio.CancelScope, str] = {}
        """Who has not said who they are, by their address; the longest first."""
        self._connections: Counter[str] = Counter()
        self.addresses: list[Address] = []
        self.refused = 0

    async def start(self, *, accept_in: trio.Nursery, serve_in: trio.Nursery) -> None:
        """Bind, and run the accepting and the connections in these nurseries.

        Raises TransportError if an address is malformed or taken.
        """
        for text in self._config.listen:
            try:
                address = parse_address(text)
                sockets = await trio.open_tcp_listeners(address.port, host=address.host)
            except (ValueError, OSError) as error:
                raise TransportError(
                    f"cannot listen on {text}: {error}",
                    hint="choose another address or port; port 0 takes a free one",
                ) from error
            for listening in sockets:
                bound, port = listening.socket.getsockname()[:2]
                for host in _reachable_at(bound):
                    kind = "ip6" if ":" in host else "ip4"
                    self.addresses += [Address(kind, host, port), Address(kind, host, port, websocket=True)]
            accept_in.start_soon(partial(trio.serve_listeners, self._serve, sockets, handler_nursery=serve_in))

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its end. Raises nothing: the listener would end with it."""
        try:
            ip = str(stream.socket.getpeername()[0])
        except OSError:
            return
        if not _is_local(ip) and self._connections[ip] >= self._config.connections_per_ip:
            self.refused += 1
            return
        self._make_room(ip)
        scope = trio.CancelScope(deadline=trio.current_time() + self._config.handshake_s)
        self._handshakes[scope] = ip
        self._connections[ip] += 1
        try:
            with scope:
                await self._serve_admitted(stream, scope)
        except Exception as error:  # garbage, half handshakes, refused peers: ordinary on a public port
            log.debug("inbound connection from %s: %r", ip, error)
        finally:
            self._handshakes.pop(scope, None)
            _decrement(self._connections, ip)
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await trio.aclose_forcefully(stream)

    @property
    def handshakes(self) -> int:
        """Inbound connections that have not yet said who they are."""
        return len(self._handshakes)

    def _make_room(self, ip: str) -> None:
        """Hang up on whoever has kept us waiting longest: on one of the same address if it has its share already.

        Refusing who comes instead would leave the door to those who stand in it: an honest handshake takes some 50 ms,
        a silent socket holds its place for seconds.
        """
        waiting: list[trio.CancelScope] = []
        if not _is_local(ip):
            of_ip = [scope for scope, other in self._handshakes.items() if other == ip]
            waiting = of_ip if len(of_ip) >= max(1, int(self._config.handshakes * _HANDSHAKES_PER_IP_SHARE)) else []
        if not waiting and len(self._handshakes) >= self._config.handshakes:
            waiting = list(self._handshakes)
        if waiting:
            self.refused += 1
            del self._handshakes[waiting[0]]
            waiting[0].cancel()

    def _stands(self, scope: trio.CancelScope) -> None:
        """The connection said who it is: it may last."""
        if self._handshakes.pop(scope, None) is not None:
            scope.deadline = float("inf")

    async def _serve_admitted(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        head = b""
        while len(head) < 3:
            piece = await stream.receive_some(4096)
            if not piece:
                return
            head += piece
        if head.startswith(b"\x13/m"):
            muxer = await self._upgrade(RawConnection(Wire(stream, head), False))
            self._stands(scope)
            await muxer.event_closed.wait()
        elif head.startswith(b"GET"):
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(
                    nursery,
                    HeadedStream(stream, head),
                    max_message_size=WEBSOCKET_MESSAGE_BYTES_MAX,
                    receive_buffer_size=READ_BYTES,
                )
                websocket = await request.accept()
                remote = stream.socket.getpeername()[:2]
                muxer = await self._upgrade(RawConnection(WebSocketWire(websocket, remote), False))
                self._stands(scope)
                await muxer.event_closed.wait()
                nursery.cancel_scope.cancel()


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def _reachable_at(host: str) -> list[str]:
    """Where others may find what is bound to ``host``: for "any", this machine's own address and loopback."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    family, elsewhere, loopback = (
        (socket.AF_INET, "192.0.2.1", "127.0.0.1") if host == "0.0.0.0" else (socket.AF_INET6, "2001:db8::1", "::1")
    )
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))  # sends nothing: it asks which of our addresses leads outside
            own = str(probe.getsockname()[0])
        except OSError:
            return [loopback]
    return [own, loopback] if own != loopback else [loopback]


def _is_local(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip.partition("%")[0]).is_loopback
    except ValueError:
        return False
