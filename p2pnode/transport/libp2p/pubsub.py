"""py-libp2p's Pubsub and GossipSub with the parts that face untrusted peers written anew.

What stays the library's: subscriptions, mesh upkeep, IHAVE/IWANT and GRAFT/PRUNE, message cache and heartbeat.
What is ours: reading and sending RPCs, the path of a message from the wire to the mesh, and every bound.
"""

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import trio
from coincurve import PublicKey
from libp2p.abc import IHost, INetStream
from libp2p.network.stream.exceptions import StreamClosed as LibStreamClosed
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError

from p2pnode.identity import node_id_of_key, public_key_of_peer_id
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.libp2p.negotiation import propose
from p2pnode.transport.seam import GOSSIP_BYTES_MAX, Gossip, TransportError
from p2pnode.transport.topics import Topics
from protocol.core.ids import NodeId

log = logging.getLogger(__name__)

_SIGNING_PREFIX: Final = b"libp2p-pubsub:"
_RPC_BYTES_MAX: Final = 1 << 20
_OUTBOUND_BYTES_MAX: Final = 4 << 20
_OUTBOUND_COUNT_MAX: Final = 4096
_SEEN_MAX: Final = 65_536
_SEEN_S: Final = 120.0
_SEQNO_BYTES: Final = 8
_AUTHORS_MAX: Final = 16_384
_IDS_PER_CONTROL_MAX: Final = 512
_ANSWERS_PER_IWANT_MAX: Final = 64
_PRUNE_BACKOFF_S_MAX: Final = 3600
_PROPOSE_S: Final = 10.0


class BadRpc(Exception):
    """A peer sent bytes on its pubsub stream that are no RPC."""


class SeenIds:
    """Message ids seen in the last two minutes; bounded, and without the library's thread.

    Trap: what is forgotten could be replayed, in its author's name and at the cost of its author's share. An author's
    sequence numbers only rise, also over its restarts (they start at the nanosecond), so of each author the highest
    number that was forgotten is kept, and nothing up to it is taken again.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._forgotten: OrderedDict[bytes, bytes] = OrderedDict()

    def has(self, key: bytes) -> bool:
        """Whether an id was seen: now, or so long ago that it is no more than remembered to be old."""
        return key in self._seen or key[-_SEQNO_BYTES:] <= self._forgotten.get(key[:-_SEQNO_BYTES], b"")

    def add(self, key: bytes) -> bool:
        now = time.monotonic()
        fresh = key not in self._seen
        self._seen[key] = now
        while self._seen:
            oldest = next(iter(self._seen))
            if len(self._seen) <= _SEEN_MAX and now - self._seen[oldest] < _SEEN_S:
                break
            del self._seen[oldest]
            self._forget(oldest[:-_SEQNO_BYTES], oldest[-_SEQNO_BYTES:])
        return fresh

    def _forget(self, author: bytes, seqno: bytes) -> None:
        self._forgotten[author] = max(seqno, self._forgotten.get(author, b""))
        self._forgotten.move_to_end(author)
        if len(self._forgotten) > _AUTHORS_MAX:
            self._forgotten.popitem(last=False)

    def stop(self) -> None:
        """Nothing to stop."""


class OutboundRpcs(RpcQueue):
    """What waits to be sent to one peer, control first. Bounded by count and bytes: what does not fit is counted
    and dropped, and gossip repairs it."""

    def __init__(self) -> None:
        super().__init__(max_message_size=_RPC_BYTES_MAX)
        self._control: deque[bytes] = deque()
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._ready = trio.Event()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._control) + len(self._messages)

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        rpc.ClearField("senderRecord")  # 200 bytes and a signature check per RPC that nobody here needs
        return self.push_bytes(rpc.SerializeToString(), priority)

    def push_bytes(self, body: bytes, priority: bool = False) -> bool:
        """Queue an encoded RPC; False if it does not fit."""
        full = len(self) >= _OUTBOUND_COUNT_MAX or self._bytes + len(body) > _OUTBOUND_BYTES_MAX
        if self._closed or full or len(body) > _RPC_BYTES_MAX:
            self.dropped += 1
            return False
        (self._control if priority else self._messages).append(body)
        self._bytes += len(body)
        self._ready.set()
        return True

    async def pop_batch(self) -> bytes | None:
        """All that waits, up to about 64 KiB, as length-prefixed RPCs in one piece; None once closed."""
        while not len(self):
            if self._closed:
                return None
            self._ready = trio.Event()
            await self._ready.wait()
        pieces: list[bytes] = []
        size = 0
        while size < 60_000 and len(self):
            body = (self._control or self._messages).popleft()
            self._bytes -= len(body)
            pieces.append(_varint(len(body)))
            pieces.append(body)
            size += len(body)
        return b"".join(pieces)

    def split_rpc(self, rpc: rpc_pb2.RPC) -> list[rpc_pb2.RPC]:
        """The library splits what exceeds a megabyte; nothing here does."""
        return [rpc]

    def close(self) -> None:
        self._closed = True
        self._ready.set()


class NodePubsub(Pubsub):
    """Pubsub whose every inbound byte is bounded and whose every outbound one is counted."""

    def __init__(
        self, host: IHost, router: "NodeGossipSub", *, topics: Topics, connection_of: Callable[[ID], Muxer | None]
    ) -> None:
        super().__init__(host, router, strict_signing=True, max_subscriptions_per_rpc=200)
        self.seen_messages.stop()  # ends the thread that the library's cache started
        self.seen_messages = SeenIds()  # type: ignore[assignment]
        # Trap: a counter that starts at the second of the start repeats after a restart, and peers drop the
        # repeated ids as seen.
        self.counter = time.time_ns()
        self._topics = topics
        self._connection_of = connection_of
        self._readers: Counter[ID] = Counter()
        self._unsent = 0
        """Of peers that are gone."""

    @property
    def unsent(self) -> int:
        """RPCs that a peer was too slow to take."""
        queues = self.peer_queues.values()
        return self._unsent + sum(queue.dropped for queue in queues if isinstance(queue, OutboundRpcs))

    # --- reading

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's RPCs until the stream ends or carries something that is none."""
        assert isinstance(stream, NetStream) and isinstance(stream.muxed_stream, MuxedStream)
        muxed = stream.muxed_stream
        peer = muxed.conn.peer_id
        self._readers[peer] += 1
        try:
            await self._read_rpcs(muxed, peer)
        except BadRpc as error:
            log.debug("pubsub stream of %s reset: %s", peer, error)  # as often as a peer likes
            muxed.abort()
        except MuxedStreamError:
            pass  # the peer ended the stream
        finally:
            self._readers[peer] -= 1
            if not self._readers[peer]:
                del self._readers[peer]
                self._forget_all_subscriptions(peer)  # it says them again with its next stream
                for meshed in self._node_router.mesh.values():
                    meshed.discard(peer)

    async def _read_rpcs(self, stream: MuxedStream, peer: ID) -> None:
        forwarder = node_id_of_key(public_key_of_peer_id(peer.to_bytes()))
        buffer = bytearray()
        while True:
            buffer += await stream.read()
            at = 0
            while (found := _next_rpc(buffer, at)) is not None:
                start, end = found
                rpc = rpc_pb2.RPC()
                try:
                    rpc.ParseFromString(bytes(buffer[start:end]))
                except Exception as error:  # protobuf's DecodeError has no common root across its backends
                    raise BadRpc(f"{end - start} bytes that are no RPC") from error
                at = end
                await self._on_rpc(rpc, peer, forwarder)
                await trio.lowlevel.checkpoint()
            del buffer[:at]

    async def _on_rpc(self, rpc: rpc_pb2.RPC, peer: ID, forwarder: NodeId) -> None:
        try:
            for message in rpc.publish:
                self._on_message(message, peer, forwarder)
            if len(rpc.subscriptions) > self.max_subscriptions_per_rpc:
                raise BadRpc(f"{len(rpc.subscriptions)} subscriptions in one RPC")
            for subscription in rpc.subscriptions:
                self.handle_subscription(peer, subscription)
            if rpc.HasField("control"):
                await self.router.handle_rpc(rpc, peer)
        except BadRpc:
            raise
        except Exception:
            log.exception("bug: an RPC of %s was not handled", peer)

    # --- one message, from the wire to the mesh

    def _on_message(self, message: rpc_pb2.Message, peer: ID, forwarder: NodeId) -> None:
        topics = message.topicIDs
        if len(topics) != 1 or topics[0] not in self.topic_ids or len(message.data) > GOSSIP_BYTES_MAX:
            return
        if len(message.seqno) != 8 or len(message.from_id) != 39 or len(message.signature) > 80:
            return
        message_id = message.from_id + message.seqno
        if self.seen_messages.has(message_id):
            return
        if not self._topics.admit_forwarder(topics[0], forwarder, speaks=message.from_id == peer.to_bytes()):
            return
        author = _author(bytes(message.from_id))
        if author is None or message.from_id == self.my_id.to_bytes() or not _signature_holds(message, author[1]):
            return
        self.seen_messages.add(message_id)
        if self._topics.judge(Gossip(topics[0], author[0], forwarder, message.data)):
            message.ClearField("key")
            self._node_router.spread(message, exclude=(peer, ID(message.from_id)))

    async def publish(self, topic_id: str | list[str], data: bytes) -> None:
        """Sign and send a message of ours to the mesh."""
        assert isinstance(topic_id, str)
        message = rpc_pb2.Message(
            data=data, topicIDs=[topic_id], from_id=self.my_id.to_bytes(), seqno=self._next_seqno()
        )
        assert self.sign_key is not None
        message.signature = self.sign_key.sign(_SIGNING_PREFIX + message.SerializeToString())
        self.seen_messages.add(message.from_id + message.seqno)
        self._node_router.spread(message, exclude=(self.my_id,))
        await trio.lowlevel.checkpoint()

    @property
    def _node_router(self) -> "NodeGossipSub":
        assert isinstance(self.router, NodeGossipSub)
        return self.router

    # --- writing

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Open our pubsub stream to a peer and say what we subscribe to. Raises LibStreamClosed to be retried."""
        conn = self._connection_of(peer_id)
        if peer_id in self.peers or conn is None:
            return
        try:
            stream = await conn.open_stream()
            with trio.fail_after(_PROPOSE_S):
                protocol = await propose(stream, *(str(protocol) for protocol in self.protocols))
        except (MuxedConnUnavailable, MuxedStreamError, trio.TooSlowError) as error:
            raise LibStreamClosed("no pubsub stream yet") from error
        except TransportError as error:
            log.debug("%s does not gossip: %s", peer_id, error)
            return
        if peer_id in self.peers:  # another task was faster
            stream.abandon()
            return
        queue = OutboundRpcs()
        self.router.add_peer(peer_id, protocol)  # type: ignore[arg-type]
        self.peers[peer_id] = NetStream(stream, None, None)
        self.peer_queues[peer_id] = queue
        queue.push(self.get_hello_packet())
        self.manager.run_task(self._send_rpcs, peer_id, stream, queue)
        if peer_id in self._peer_added_events:
            self._peer_added_events.pop(peer_id).set()
        await self._send_recent_messages_to_new_peer(peer_id)

    def connection_lost(self, muxer: Muxer) -> None:
        """Trap: a peer that reconnects before its old connection is seen to end keeps a dead stream for ever."""
        stream = self.peers.get(muxer.peer_id)
        if isinstance(stream, NetStream) and stream.muxed_conn is muxer:
            self._handle_dead_peer(muxer.peer_id)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Our stream to the peer is gone: open another if it is still connected.

        What it subscribes to came over its own stream, perhaps by a newer connection, and is forgotten with that.
        """
        self._clear_pending_announce_retries_for_peer(peer_id)
        if self.peers.pop(peer_id, None) is not None:
            queue = self.peer_queues.pop(peer_id)
            self._unsent += queue.dropped if isinstance(queue, OutboundRpcs) else 0
            queue.close()
            self.router.remove_peer(peer_id)
        if self._connection_of(peer_id) is not None:
            self._schedule_peer_stream_retry(peer_id)

    async def _send_rpcs(self, peer_id: ID, stream: MuxedStream, queue: OutboundRpcs) -> None:
        try:
            while (batch := await queue.pop_batch()) is not None:
                await stream.write(batch)
        except MuxedStreamError:
            if self.peer_queues.get(peer_id) is queue:
                self._handle_dead_peer(peer_id)
        finally:
            queue.close()
            stream.abandon()

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        """Replays of recent messages: they join the peer's queue, so that no two tasks write one stream."""
        queue = self.peer_queues.get(stream.muxed_conn.peer_id)
        return queue is not None and queue.push(rpc_msg)


class NodeGossipSub(GossipSub):
    """GossipSub v1.1 at one heartbeat a second, with bounds on what a peer can make it keep or answer."""

    def __init__(self, *, degree: int = 6, degree_low: int = 4, degree_high: int = 12) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],  # v1.2 announces every message, however small: twice the cost
            degree=degree,
            degree_low=degree_low,
            degree_high=degree_high,
            heartbeat_interval=1,  # the library's default repairs losses after two minutes
            spam_protection_enabled=False,  # drops above 10/s per forwarder, our own publishes included
            adaptive_gossip_enabled=False,
            eclipse_protection_enabled=False,
        )

    def spread(self, message: rpc_pb2.Message, *, exclude: tuple[ID, ...]) -> None:
        """Queue a message for the mesh; it is encoded once."""
        assert isinstance(self.pubsub, NodePubsub)
        self.mcache.put(message)
        topic = message.topicIDs[0]
        body = rpc_pb2.RPC(publish=[message]).SerializeToString()
        queues = self.pubsub.peer_queues
        for peer_id in self._get_peers_to_send([topic], msg_forwarder=exclude[0], origin=exclude[-1]):
            queue = queues.get(peer_id)
            if isinstance(queue, OutboundRpcs):
                queue.push_bytes(body)
        self.time_since_last_publish[topic] = int(time.time())

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        queue = self.pubsub.peer_queues.get(peer_id) if self.pubsub is not None else None
        if queue is not None:
            queue.push(rpc, priority=priority)

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        if ihave_msg.topicID in self.mesh:
            del ihave_msg.messageIDs[_IDS_PER_CONTROL_MAX:]
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Trap: the library answers each id as often as it is asked for, so that one RPC makes it build gigabytes."""
        asked = list(dict.fromkeys(iwant_msg.messageIDs[:_IDS_PER_CONTROL_MAX]))[:_ANSWERS_PER_IWANT_MAX]
        await super().handle_iwant(rpc_pb2.ControlIWant(messageIDs=asked), sender_peer_id)

    async def handle_graft(self, graft_msg: rpc_pb2.ControlGraft, sender_peer_id: ID) -> None:
        if graft_msg.topicID in self.mesh:
            await super().handle_graft(graft_msg, sender_peer_id)

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        """Trap: a back-off is kept for ever for every topic name that a peer makes up."""
        if prune_msg.topicID in self.mesh:
            prune_msg.backoff = min(prune_msg.backoff, _PRUNE_BACKOFF_S_MAX)
            prune_msg.ClearField("peers")
            await super().handle_prune(prune_msg, sender_peer_id)

    async def heartbeat(self) -> None:
        """Trap: an exception in the heartbeat would end the whole service."""
        while True:
            try:
                await super().heartbeat()
            except Exception:
                log.exception("bug: the gossip heartbeat failed; it goes on")
                await trio.sleep(1.0)


@lru_cache(maxsize=4096)
def _author(from_id: bytes) -> tuple[NodeId, PublicKey] | None:
    """Node id and key of a message's author; None unless the peer id holds a secp256k1 key.

    Trap: the library takes the key from the message where the id holds none, and dies of one that does not parse.
    """
    try:
        public_key = public_key_of_peer_id(from_id)
        return node_id_of_key(public_key), PublicKey(public_key)
    except ValueError:
        return None


def _signature_holds(message: rpc_pb2.Message, public_key: PublicKey) -> bool:
    signed = rpc_pb2.Message(data=message.data, topicIDs=message.topicIDs, from_id=message.from_id, seqno=message.seqno)
    try:
        return bool(public_key.verify(message.signature, _SIGNING_PREFIX + signed.SerializeToString()))
    except Exception:  # coincurve says "could not be parsed" with a plain Exception
        return False


def _next_rpc(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """Where the next whole RPC lies in the buffer. Raises BadRpc for a length that is none or too large."""
    size = 0
    for shift in range(0, 28, 7):
        if at >= len(buffer):
            return None
        byte = buffer[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            if size > _RPC_BYTES_MAX:
                raise BadRpc(f"an RPC of {size} bytes")
            return (at, at + size) if len(buffer) - at >= size else None
    raise BadRpc("a length of more than four bytes")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
