"""The seam over libp2p: TCP and WebSocket on one port, noise, yamux, gossipsub v1.1."""

import warnings

with warnings.catch_warnings():  # importing libp2p runs into a deprecated part of `websockets` that it never uses
    warnings.simplefilter("ignore", DeprecationWarning)
    from p2pnode.transport.libp2p.config import Libp2pConfig
    from p2pnode.transport.libp2p.transport import Libp2pTransport, open_libp2p

__all__ = ["Libp2pConfig", "Libp2pTransport", "open_libp2p"]
