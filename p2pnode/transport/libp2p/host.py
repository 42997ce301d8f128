"""A libp2p host built by hand: noise and our muxer only, no dialing, listening or discovery of its own."""

import logging
from collections.abc import Callable, Sequence

from libp2p.abc import IMuxedConn, INetConn, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost, _IdentifyNotifee
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2pnode.identity import NodeKey, node_id_of_peer_id
from p2pnode.transport.libp2p.config import Libp2pConfig
from p2pnode.transport.libp2p.links import Links
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.libp2p.yamux import YAMUX_PROTOCOL
from p2pnode.transport.seam import TransportError

log = logging.getLogger(__name__)

UNNAMED = Multiaddr("/ip4/0.0.0.0/tcp/0")
"""libp2p wants to be told, for its log, which address a connection came in on."""


class ConnectionRefused(TransportError):
    """A connection beyond our bounds."""

    code = "transport/connection-refused"


class _OurMuxer(MuxerMultistream):
    """Negotiates yamux and builds our muxer; the library's would build its own whatever class it is given."""

    def __init__(self, links: Links, config: Libp2pConfig, on_stream: Callable[[MuxedStream], None]) -> None:
        super().__init__({TProtocol(YAMUX_PROTOCOL): Muxer})
        self._links, self._config, self._on_stream = links, config, on_stream

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        try:
            node = node_id_of_peer_id(peer_id.to_bytes())
        except ValueError as error:
            raise ConnectionRefused(f"{peer_id} has no secp256k1 key, so it is no node") from error
        if not self._links.room_for(node):
            raise ConnectionRefused(f"too many connections, or too many of {peer_id}")
        await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return Muxer(
            conn,
            peer_id,
            limits=self._config.muxer,
            on_start=lambda muxer: self._links.add(node, muxer),
            on_end=lambda muxer: self._links.remove(node, muxer),
            on_stream=self._on_stream,
        )


class _Swarm(Swarm):
    """Upgrades connections and tells notifees; it neither dials nor remembers whom it lost."""

    async def notify_disconnected(self, conn: INetConn) -> None:
        await self._notify("disconnected", conn)


def build_host(
    key: NodeKey,
    config: Libp2pConfig,
    links: Links,
    *,
    on_stream: Callable[[MuxedStream], None],
    addresses: Callable[[], Sequence[str]],
) -> tuple[BasicHost, Swarm]:
    """The host and its swarm; ``addresses`` is asked for what to tell others."""
    key_pair: KeyPair = create_new_key_pair(key.secret)
    noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
    muxer = _OurMuxer(links, config, on_stream)
    upgrader = TransportUpgrader({NOISE_PROTOCOL: noise}, {})  # noise alone: the default accepts plaintext
    upgrader.muxer_multistream = muxer
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    swarm = _Swarm(
        peer_id,
        peerstore,
        upgrader,
        transports=[],
        connection_config=ConnectionConfig(
            min_connections=0,  # with a low watermark above 0 it dials every address it ever heard of
            low_watermark=0,
            high_watermark=config.connections,
            max_connections=config.connections,
            max_connections_per_peer=config.connections_per_peer,
            inbound_upgrade_timeout=config.handshake_s,
            outbound_upgrade_timeout=config.handshake_s,
        ),
    )
    host = BasicHost(
        swarm,
        addrs_factory=lambda _: [Multiaddr(address) for address in addresses()],
        disable_identify_address_discovery=True,
    )
    for notifee in list(swarm.notifees):
        if isinstance(notifee, _IdentifyNotifee):
            swarm.remove_notifee(notifee)  # it would keep every address and protocol that a peer claims
    host.remove_stream_handler(ID_PUSH)  # likewise
    return host, swarm
