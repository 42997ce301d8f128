"""Peers coming and going, told to any number of listeners without losing the last word.

Each listener gets every change that it has not seen superseded: a peer that came and went unseen is not told of, one
that went and came back is told as both. So what a slow listener keeps waiting is bounded by the number of peers, and
its picture is right in the end.
"""

from collections.abc import AsyncIterator

import trio

from p2pnode.transport.seam import PeerDown, PeerEvent, PeerUp
from protocol.core.ids import NodeId


class PeerEvents:
    """Who is connected, in the order of arrival, and streams of the changes."""

    def __init__(self) -> None:
        self.up: dict[NodeId, None] = {}
        self._listeners: list[_Listener] = []
        self._changed = trio.Event()

    def add(self, peer: NodeId) -> None:
        """The peer has its first connection; nothing if it had one."""
        if peer not in self.up:
            self.up[peer] = None
            self._tell(PeerUp(peer))

    def remove(self, peer: NodeId) -> None:
        """The peer has lost its last connection; nothing if it had none."""
        if peer in self.up:
            del self.up[peer]
            self._tell(PeerDown(peer))

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def listen(self) -> AsyncIterator[PeerEvent]:
        """Changes from now on, after a PeerUp for each peer that is connected; registered at once."""
        listener = _Listener()
        for peer in self.up:
            listener.put(PeerUp(peer))
        self._listeners.append(listener)
        return listener

    def close(self) -> None:
        """End every listener's iteration once it has heard what is waiting."""
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()

    def _tell(self, event: PeerEvent) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for listener in self._listeners:
            listener.put(event)


class _Listener(AsyncIterator[PeerEvent]):
    def __init__(self) -> None:
        self._waiting: dict[NodeId, list[PeerEvent]] = {}
        self._ready = trio.Event()
        self._ended = False

    def put(self, event: PeerEvent) -> None:
        waiting = self._waiting.setdefault(event.peer, [])
        if waiting and isinstance(waiting[-1], PeerUp) and isinstance(event, PeerDown):
            waiting.pop()  # it came and went before anybody looked
            if not waiting:
                del self._waiting[event.peer]
        else:
            waiting.append(event)
        self._ready.set()

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    async def __anext__(self) -> PeerEvent:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._ready = trio.Event()
            await self._ready.wait()
        await trio.lowlevel.checkpoint()
        peer = next(iter(self._waiting))
        events = self._waiting[peer]
        event = events.pop(0)
        if not events:
            del self._waiting[peer]
        return event
