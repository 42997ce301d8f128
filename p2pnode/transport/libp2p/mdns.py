"""Finding peers on the local network by multicast DNS, as every libp2p does; off unless asked for.

libp2p's service registers itself on the event loop, which then stands still for about a second; here zeroconf works
in threads, and what it hears is handed back to the loop.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.discovery.mdns.broadcaster import PeerBroadcaster
from libp2p.discovery.mdns.listener import PeerListener
from libp2p.discovery.mdns.mdns import SERVICE_TYPE
from libp2p.discovery.mdns.utils import stringGen
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from zeroconf import Zeroconf

from p2pnode.identity import node_id_of_peer_id
from p2pnode.transport.address import Address
from protocol.core.ids import NodeId

log = logging.getLogger(__name__)


@asynccontextmanager
async def mdns(
    peer_id: str, addresses: Sequence[Address], found: Callable[[NodeId, list[str]], None]
) -> AsyncIterator[None]:
    """Announce this node and report others while the block runs; ``found`` is called on the event loop.

    A network without multicast only costs a warning.
    """
    token = trio.lowlevel.current_trio_token()

    def report(info: PeerInfo) -> None:
        """Called by zeroconf in a thread of its own."""
        try:
            other = info.peer_id.to_base58()
            known = [f"{address}/p2p/{other}" for address in info.addrs]
            token.run_sync_soon(found, node_id_of_peer_id(other), known)
        except (ValueError, trio.RunFinishedError) as error:
            log.debug("mDNS heard of something that is no node: %s", error)

    port = next((address.port for address in addresses), 0)
    try:
        service = await trio.to_thread.run_sync(partial(_start, peer_id, port, addresses))
    except OSError as error:
        log.warning("mDNS does not work on this network: %s; peers are found by their addresses alone", error)
        yield
        return
    peerDiscovery.register_peer_discovered_handler(report)
    try:
        yield
    finally:
        peerDiscovery.unregister_peer_discovered_handler(report)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(_stop, *service))


def _start(peer_id: str, port: int, addresses: Sequence[Address]) -> tuple[Any, Any, Any]:
    zeroconf = Zeroconf()
    name = f"{stringGen(63)}.{SERVICE_TYPE}"
    spoken = [str(address) for address in addresses if not address.websocket and address.host not in ("0.0.0.0", "::")]
    broadcaster = PeerBroadcaster(
        zeroconf=zeroconf, service_type=SERVICE_TYPE, service_name=name, peer_id=peer_id, port=port, listen_addrs=spoken
    )
    listener = PeerListener(
        peerstore=PeerStore(), zeroconf=zeroconf, service_type=SERVICE_TYPE, service_name=name, retry_attempts=1
    )
    broadcaster.register()
    return zeroconf, broadcaster, listener


def _stop(zeroconf: Any, broadcaster: Any, listener: Any) -> None:
    broadcaster.unregister()
    listener.stop()
    zeroconf.close()
