"""What the parts of a node are told of its configuration and its network."""

from dataclasses import replace

from p2pnode.config import NodeConfig
from p2pnode.transport.libp2p import Libp2pConfig
from protocol.core.genesis import Genesis
from protocol.core.params import Params


def transport_config(config: NodeConfig, genesis: Genesis) -> Libp2pConfig:
    """How the network is opened: what the operator says, and how much gossip the network allows."""
    network = config.network
    listen = tuple(address for address in network.listen if not address.endswith("/ws"))
    return Libp2pConfig(
        listen=listen,
        announce=network.announce,
        bootstrap=tuple(address.multiaddr for address in network.bootstrap),
        book_path=config.node.state_dir / "addresses.json",
        mdns=network.mdns,
        connections=network.connections_max,
        topic_rates={genesis.topic(name): rate for name, rate in genesis.params.gossip_budget().items()},
    )


def local_params(config: NodeConfig, params: Params) -> Params:
    """The network's parameters, with this operator's own lower limits."""

    def lowered(wanted: int, limit: int) -> int:
        return min(wanted, limit) if wanted else limit

    return replace(
        params,
        sessions_per_router_max=lowered(config.router.sessions_max, params.sessions_per_router_max),
        queue_requests_max=lowered(config.router.queue_requests_max, params.queue_requests_max),
    )
