"""Who watches which session."""

from protocol.core.machine import Channel

OF_STREAM_MAX = 4_096
"""Sessions that one stream watches; beyond it the one watched longest is dropped."""
ALL_MAX = 65_536


class Watchers:
    """Bounded for each stream and in all. Spec: [RESULTS-STREAMS.1]"""

    def __init__(self) -> None:
        self._watched: dict[Channel, dict[bytes, None]] = {}
        self._by: dict[bytes, dict[Channel, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def watch(self, channel: Channel, session: bytes) -> bool:
        """A stream watches a session; whether it begins to. Asked again it goes on, and is told nothing twice."""
        watched = self._watched.get(channel, {})
        if session in watched:
            return False
        if len(watched) >= OF_STREAM_MAX:
            self._drop(channel, next(iter(watched)))
        if self._count >= ALL_MAX:
            return False
        self._watched.setdefault(channel, {})[session] = None
        self._by.setdefault(session, {})[channel] = None
        self._count += 1
        return True

    def of(self, session: bytes) -> tuple[Channel, ...]:
        """The streams that watch a session."""
        return tuple(self._by.get(session, ()))

    def watches(self, session: bytes) -> bool:
        """Whether anybody does."""
        return session in self._by

    def gone(self, channel: Channel) -> None:
        """A stream is closed."""
        for session in list(self._watched.get(channel, ())):
            self._drop(channel, session)
        self._watched.pop(channel, None)

    def _drop(self, channel: Channel, session: bytes) -> None:
        del self._watched[channel][session]
        if not self._watched[channel]:
            del self._watched[channel]
        del self._by[session][channel]
        if not self._by[session]:
            del self._by[session]
        self._count -= 1
