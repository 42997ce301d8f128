"""Streams that peers open: negotiated, counted, given deadlines, and closed whatever their handler does."""

import logging
from collections import Counter
from dataclasses import dataclass

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.net_stream import NetStream, StreamState
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2pnode.identity import node_id_of_peer_id
from p2pnode.transport.holdings import Holdings
from p2pnode.transport.libp2p.config import Libp2pConfig
from p2pnode.transport.libp2p.framed import FramedStream
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.negotiation import NegotiationFailed, agree
from p2pnode.transport.seam import StreamHandler, TransportError
from protocol.core.ids import NodeId

log = logging.getLogger(__name__)

_LIBRARY_STREAMS_PER_PEER = 8
"""Identify, ping and pubsub streams that one peer may have open with us."""


@dataclass(frozen=True, slots=True)
class _Served:
    handler: StreamHandler
    frame_bytes_max: int


class InboundStreams:
    """Our handlers by protocol id, beside libp2p's own; each stream runs in a task of ``nursery``."""

    def __init__(self, config: Libp2pConfig, unfinished: Holdings[MuxedStream]) -> None:
        self._config = config
        self._unfinished = unfinished
        self._served: dict[str, _Served] = {}
        self._open: Counter[NodeId] = Counter()
        self._library_open: Counter[NodeId] = Counter()
        self.host: BasicHost | None = None
        self.nursery: trio.Nursery | None = None
        self.refused = 0

    def __len__(self) -> int:
        return self._open.total()

    def serve(self, protocol_id: str, handler: StreamHandler, frame_bytes_max: int) -> None:
        """Serve a protocol from now on; replaces an earlier handler."""
        self._served[protocol_id] = _Served(handler, frame_bytes_max)

    def on_stream(self, stream: MuxedStream) -> None:
        """A peer opened a stream; called by its muxer, must not block."""
        peer = node_id_of_peer_id(stream.conn.peer_id.to_bytes())
        over = self._open[peer] >= self._config.inbound_streams_per_peer
        if self.nursery is None or over or self._open.total() >= self._config.inbound_streams:
            self.refused += 1
            stream.abort()
            return
        self._open[peer] += 1
        self.nursery.start_soon(self._run, stream, peer)

    async def _run(self, stream: MuxedStream, peer: NodeId) -> None:
        """One inbound stream. Raises nothing: every other stream would end with it."""
        protocol = ""
        try:
            with trio.move_on_after(self._config.first_frame_s):
                protocol = await agree(stream, self._speaks)
            if not protocol:
                stream.abort()
            elif protocol in self._served:
                await self._run_ours(stream, peer, protocol)
            else:
                await self._run_library(stream, peer, protocol)
        except (NegotiationFailed, MuxedStreamError) as error:
            log.debug("stream of %s: %s", peer.hex(), error)
        finally:
            stream.abandon()
            _decrement(self._open, peer)

    def _speaks(self, protocol: str) -> bool:
        assert self.host is not None
        return protocol in self._served or protocol in self.host.multiselect.handlers

    async def _run_ours(self, stream: MuxedStream, peer: NodeId, protocol: str) -> None:
        served = self._served[protocol]
        framed = FramedStream(stream, peer, served.frame_bytes_max, self._config, self._unfinished, inbound=True)
        try:
            await served.handler(framed)
        except TransportError as error:
            log.debug("%s with %s: %s", protocol, peer.hex(), error)
            stream.abort()
        except Exception:
            log.exception("bug: the handler of %s raised", protocol)
            stream.abort()
        finally:
            self._unfinished.hold(peer, stream, 0)  # whatever the handler left behind

    async def _run_library(self, stream: MuxedStream, peer: NodeId, protocol: str) -> None:
        assert self.host is not None
        handler = self.host.multiselect.handlers[TProtocol(protocol)]
        if handler is None or self._library_open[peer] >= _LIBRARY_STREAMS_PER_PEER:
            stream.abort()
            return
        self._library_open[peer] += 1
        try:
            net_stream = NetStream(stream, None, None)
            net_stream.set_protocol(TProtocol(protocol))
            await net_stream.set_state(StreamState.OPEN)
            await handler(net_stream)
        except Exception as error:
            log.debug("libp2p's handler of %s with %s: %r", protocol, peer.hex(), error)
            stream.abort()
        finally:
            _decrement(self._library_open, peer)


def _decrement(counter: Counter[NodeId], peer: NodeId) -> None:
    counter[peer] -= 1
    if counter[peer] <= 0:
        del counter[peer]
