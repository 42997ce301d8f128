"""What has to be true of the installed libp2p, and the few things that can only be changed for the whole process.

Everything else we do about py-libp2p 0.8.1 is done per instance, by our own classes:

====================================  ================================================================
trap                                  defused in
====================================  ================================================================
malformed RPC, bad key, raising       ``pubsub.NodePubsub`` (own read loop, own message path)
validator kill the process
one IWANT asks for a message 10⁵×,    ``pubsub.NodeGossipSub`` (bounded answers, only known topics)
PRUNEs of made-up topics pile up
a heartbeat that raises kills it      ``pubsub.NodeGossipSub.heartbeat``
queues of 32, dropped silently        ``pubsub.OutboundRpcs`` (bounded by bytes, counted)
a daemon thread per Pubsub            ``pubsub.SeenIds`` in place of ``LastSeenCache``
raising stream handler kills it;      ``inbound.InboundStreams``
streams left open leak for ever
no back-pressure, window overrun,     ``muxer.Muxer``
10 ms polls, frozen peers unnoticed
250 ms dials, negative cache, one     ``dialer.Dialer`` (libp2p's own dial path is not used)
address per transport, auto-dialing
inbound slots never given back,       ``listener.Listener`` (libp2p's listeners are not used)
half-open handshakes unbounded
plaintext, TLS, secio, mplex offered  ``host.build_host``
====================================  ================================================================
"""

import importlib.metadata
import logging
from typing import Final

import libp2p  # noqa: F401  (its import configures logging; ours must come after)
import libp2p.network.connection.swarm_connection as swarm_connection

from p2pnode.transport.seam import TransportError

LIBP2P_VERSION: Final = "0.8.1"

log = logging.getLogger(__name__)


class UnknownLibp2p(TransportError):
    """Another libp2p than the one this package was hardened and tested against is installed."""

    code = "transport/libp2p-version"


def check_version() -> None:
    """Refuse any libp2p but the one all of this was read and tested against. Raises UnknownLibp2p."""
    installed = importlib.metadata.version("libp2p")
    if installed != LIBP2P_VERSION:
        raise UnknownLibp2p(
            f"libp2p {installed} is installed, but this package was hardened against {LIBP2P_VERSION}",
            hint=f"run `pip install libp2p=={LIBP2P_VERSION}`",
        )


def tame_logging(level: int = logging.CRITICAL) -> None:
    """Route libp2p's log to ours and keep it quiet: it reports every ordinary disconnect as an error."""
    library = logging.getLogger("libp2p")
    library.propagate = True
    library.setLevel(level)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("libp2p.") and isinstance(logger, logging.Logger) and logger.level:
            logger.setLevel(logging.NOTSET)  # auto_connector forces itself to INFO
    # Trap: SwarmConn logs through the root logger's module functions, whose first call adds a handler to the root
    # logger and so defeats the program's own logging.basicConfig. It gets a logger of its own.
    vars(swarm_connection)["logging"] = logging.getLogger("libp2p.network.connection.swarm_connection")
    for noisy in ("trio-websocket", "trio_websocket"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
