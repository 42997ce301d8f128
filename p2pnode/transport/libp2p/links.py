"""Which peers are connected, over which connections. Several to one peer are fine: both may have dialed at once."""

from collections.abc import Callable

from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.peer_events import PeerEvents
from protocol.core.ids import NodeId


class Links:
    """The connections of every peer; a peer is up from its first to its last."""

    def __init__(self, *, total_max: int, per_peer_max: int) -> None:
        self.events = PeerEvents()
        self._total_max, self._per_peer_max = total_max, per_peer_max
        self._by_peer: dict[NodeId, list[Muxer]] = {}
        self._total = 0
        self.on_lost: Callable[[Muxer], None] = lambda muxer: None

    def __len__(self) -> int:
        return self._total

    @property
    def full(self) -> bool:
        return self._total >= self._total_max

    def room_for(self, peer: NodeId) -> bool:
        """Whether one more connection to the peer may stand."""
        return not self.full and len(self._by_peer.get(peer, ())) < self._per_peer_max

    def add(self, peer: NodeId, muxer: Muxer) -> None:
        self._by_peer.setdefault(peer, []).append(muxer)
        self._total += 1
        self.events.add(peer)

    def remove(self, peer: NodeId, muxer: Muxer) -> None:
        muxers = self._by_peer.get(peer, [])
        if muxer in muxers:
            muxers.remove(muxer)
            self._total -= 1
            if not muxers:
                del self._by_peer[peer]
                self.events.remove(peer)
            self.on_lost(muxer)

    def best(self, peer: NodeId) -> Muxer | None:
        """The connection to the peer that was heard last, of those that still take streams: after a crash of the
        peer's machine its old connection looks alive for a while beside the new one."""
        alive = [muxer for muxer in self._by_peer.get(peer, ()) if muxer.is_established]
        return max(alive, key=lambda muxer: muxer.heard_at, default=None)

    def of(self, peer: NodeId) -> list[Muxer]:
        """The peer's connections."""
        return list(self._by_peer.get(peer, ()))

    def all(self) -> list[Muxer]:
        """Every connection."""
        return [muxer for muxers in self._by_peer.values() for muxer in muxers]
