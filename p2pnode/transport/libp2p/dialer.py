"""Makes connections and keeps them: wanted peers are re-dialed with growing pauses, and a minimum degree is held.

libp2p's own dialing waits 250 ms per address class, tries one address per transport, and refuses a peer for a minute
after a failure; none of it is used.
"""

import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio
from libp2p.network.connection.raw_connection import RawConnection
from trio_typing import TaskStatus
from trio_websocket import wrap_client_stream

from p2pnode.transport.address import Address
from p2pnode.transport.address_book import AddressBook
from p2pnode.transport.libp2p.config import Libp2pConfig
from p2pnode.transport.libp2p.links import Links
from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.libp2p.wire import READ_BYTES, WEBSOCKET_MESSAGE_BYTES_MAX, WebSocketWire, Wire
from p2pnode.transport.seam import PeerUnreachable, TransportError, WrongPeer
from protocol.core.ids import NodeId, short

log = logging.getLogger(__name__)

Upgrade = Callable[[RawConnection, str], Awaitable[Muxer]]
"""Secures and multiplexes an outbound connection to a peer id. Raises WrongPeer or whatever went wrong."""

_STAGGER_S = 0.3
"""The head start that one address has over the next."""
_DIAL_S = 10.0
_DEGREE_PAUSE_S = 5.0
_STABLE_S = 30.0
"""A connection that stood so long starts the next back-off afresh."""
_SHUNNED_MAX = 1024


class Dialer:
    """Dials by node id or address. One dial per peer at a time: others wait for its result."""

    def __init__(
        self,
        me: NodeId,
        config: Libp2pConfig,
        book: AddressBook,
        links: Links,
        upgrade: Upgrade,
        nursery: trio.Nursery,
        outreach: trio.Nursery,
        rng: random.Random,
    ) -> None:
        self._me, self._config, self._book, self._links = me, config, book, links
        self._upgrade, self._nursery, self._outreach, self._rng = upgrade, nursery, outreach, rng
        self._dialing: dict[NodeId, trio.Event] = {}
        self._wanted: dict[NodeId, trio.CancelScope] = {}
        self._shunned: dict[NodeId, None] = {}
        self._not_before: dict[NodeId, float] = {}

    # --- dialing

    async def reach(self, peer: NodeId, addresses: Sequence[Address]) -> None:
        """Return once the peer is connected. Raises PeerUnreachable, WrongPeer; no deadline of its own."""
        while (running := self._dialing.get(peer)) is not None and self._links.best(peer) is None:
            await running.wait()
        if self._links.best(peer) is not None:
            return
        if peer == self._me:
            raise PeerUnreachable("this is the node itself")
        if not addresses:
            raise PeerUnreachable(
                f"no address of {short(peer)} is known", hint="connect to one, or learn it from a peer"
            )
        done = self._dialing[peer] = trio.Event()
        try:
            await self._dial_any(peer, addresses)
        finally:
            del self._dialing[peer]
            done.set()
        if self._links.best(peer) is None:
            raise PeerUnreachable(f"{short(peer)} answered and hung up", hint="it may be full; try again later")

    async def _dial_any(self, peer: NodeId, addresses: Sequence[Address]) -> None:
        """Dial the addresses, each a little after the one before, until one answers."""
        failures: list[str] = []
        wrong: list[WrongPeer] = []
        answered = False

        async def attempt(address: Address, failed: trio.Event) -> None:
            nonlocal answered
            try:
                with trio.fail_after(_DIAL_S):
                    await self._dial(address)
                answered = True
                self._book.worked(peer, address)
                nursery.cancel_scope.cancel()
            except WrongPeer as error:
                wrong.append(error)
                self._book.drop(peer, address)
            except trio.TooSlowError:
                failures.append(f"{address}: no answer in {_DIAL_S:g} s")
            except Exception as error:  # sockets, TLS, WebSocket and noise each fail in their own way
                failures.append(f"{address}: {_cause(error)}")
            failed.set()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(_STAGGER_S):
                    await failed.wait()
        if answered:
            return
        if wrong and not failures:
            raise wrong[0]
        raise PeerUnreachable(f"{short(peer)} was not reached at " + "; ".join(failures or ["any address"]))

    async def _dial(self, address: Address) -> None:
        assert address.peer_id is not None
        if self._links.full:
            raise PeerUnreachable("the node has all the connections it may have")
        if not address.websocket:
            stream = await trio.open_tcp_stream(address.host, address.port)
            await self._secure(Wire(stream), address.peer_id)
        else:
            await self._nursery.start(self._hold_websocket, address)

    async def _secure(self, wire: Wire | WebSocketWire, peer_id: str) -> Muxer:
        try:
            return await self._upgrade(RawConnection(wire, True), peer_id)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await wire.close()
            raise

    async def _hold_websocket(
        self, address: Address, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Dial a WebSocket and keep the tasks that it needs until the connection ends."""
        assert address.peer_id is not None
        stream: trio.SocketStream | trio.SSLStream = await trio.open_tcp_stream(address.host, address.port)
        started = False
        try:
            if address.tls:
                context = ssl.create_default_context()
                stream = trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)
            async with trio.open_nursery() as nursery:
                socket = await wrap_client_stream(
                    nursery,
                    stream,
                    f"{address.host}:{address.port}",
                    "/",
                    max_message_size=WEBSOCKET_MESSAGE_BYTES_MAX,
                    receive_buffer_size=READ_BYTES,
                )
                muxer = await self._secure(WebSocketWire(socket, None), address.peer_id)
                started = True
                task_status.started()
                await muxer.event_closed.wait()
                nursery.cancel_scope.cancel()
        except Exception as error:
            if not started:
                raise
            log.debug("the WebSocket to %s ended: %r", address, error)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)  # a cancelled WebSocket leaves its socket open

    # --- keeping

    def want(self, peer: NodeId, address: Address) -> None:
        """Keep the peer connected from now on. Raises TransportError beyond the bound.

        The address stays known whatever the book learns or forgets: nobody can make us lose a peer by telling us of
        many others, or of a wrong place for this one.
        """
        self._shunned.pop(peer, None)
        if peer in self._wanted or peer == self._me:
            return
        if len(self._wanted) >= self._config.wanted:
            raise TransportError(
                f"{len(self._wanted)} peers are kept connected already", hint="disconnect from one first"
            )
        scope = self._wanted[peer] = trio.CancelScope()
        self._outreach.start_soon(self._keep, peer, address, scope)

    def unwant(self, peer: NodeId) -> None:
        """Stop keeping the peer connected, and do not dial it to fill up the degree either."""
        self._shunned[peer] = None
        if len(self._shunned) > _SHUNNED_MAX:
            del self._shunned[next(iter(self._shunned))]
        scope = self._wanted.pop(peer, None)
        if scope is not None:
            scope.cancel()

    async def _keep(self, peer: NodeId, address: Address, scope: trio.CancelScope) -> None:
        with scope:
            failures = short_lives = 0
            while True:
                if peer in self._links.events.up:
                    up_at = trio.current_time()
                    while peer in self._links.events.up:
                        await self._links.events.changed()
                    short_lives = 0 if trio.current_time() - up_at >= _STABLE_S else short_lives + 1
                    failures = short_lives  # a peer that keeps dropping us is asked ever less
                await trio.sleep(self._pause(failures))
                if peer in self._links.events.up:
                    continue
                try:
                    with trio.fail_after(3 * _DIAL_S):
                        await self.reach(peer, list(dict.fromkeys((*self._book.addresses(peer), address))))
                except (TransportError, trio.TooSlowError) as error:
                    failures += 1
                    log.debug("re-dialing: %s", error)

    def _pause(self, failures: int) -> float:
        """Twice as long after each failure, up to the limit, spread over ± 25 %."""
        if failures == 0:
            return 0.0
        first, longest = self._config.dial_retry_first_s, self._config.dial_retry_max_s
        return min(longest, first * 2.0 ** min(failures - 1, 30)) * self._rng.uniform(0.75, 1.25)

    async def hold_degree(self) -> None:
        """For ever: while fewer peers than ``degree`` are connected, dial known ones that are not backing off."""
        failures: dict[NodeId, int] = {}
        while True:
            missing = self._config.degree - len(self._links.events.up)
            now = trio.current_time()
            idle = [
                peer
                for peer in self._book
                if peer != self._me
                and peer not in self._links.events.up
                and peer not in self._wanted
                and peer not in self._shunned
                and self._not_before.get(peer, 0.0) <= now
            ]
            for peer in self._rng.sample(idle, max(0, min(missing, len(idle)))):
                self._outreach.start_soon(partial(self._try_once, peer, failures))
                self._not_before[peer] = now + _DIAL_S
            self._forget_old_pauses(failures)
            with trio.move_on_after(_DEGREE_PAUSE_S * self._rng.uniform(0.75, 1.25)):
                await self._links.events.changed()

    async def _try_once(self, peer: NodeId, failures: dict[NodeId, int]) -> None:
        try:
            with trio.fail_after(_DIAL_S):
                await self.reach(peer, self._book.addresses(peer))
            failures.pop(peer, None)
            self._not_before.pop(peer, None)
        except (TransportError, trio.TooSlowError) as error:
            failures[peer] = failures.get(peer, 0) + 1
            self._not_before[peer] = trio.current_time() + self._pause(failures[peer])
            log.debug("filling up the degree: %s", error)

    def _forget_old_pauses(self, failures: dict[NodeId, int]) -> None:
        for peer in [peer for peer in self._not_before if not self._book.addresses(peer)]:
            del self._not_before[peer]
            failures.pop(peer, None)


def _cause(error: BaseException) -> str:
    """The innermost reason: libp2p wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return _cause(error.exceptions[0])
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
