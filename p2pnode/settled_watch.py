"""Asks oracles by which accepted header a lane's outcome can be proved, for as long as that takes, restarts included.

An oracle tells whoever watches a session on a ``results`` stream; what it says is a claim, which the caller checks.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from p2pnode.transport.seam import Stream, Transport, TransportError
from protocol.core.codec import decode, encode
from protocol.core.errors import DecodeError
from protocol.core.ids import NodeId
from protocol.messages.results import SettledNews, Watch
from protocol.results.links import PROTOCOL

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 1.0, 30.0
AIM_S = 5.0
"""Between two looks at who the oracles are."""

Lane = tuple[bytes, int]
"""Session and task; the lane is 0."""

Holds = Callable[[SettledNews], Awaitable[bool]]
"""Whether a claim can be relied on now; the same claim may be shown again later."""


@dataclass(slots=True)
class _Watched:
    claims: dict[NodeId, SettledNews] = field(default_factory=dict)
    """The last of each oracle."""
    new: trio.Event = field(default_factory=trio.Event)


class SettledWatch:
    """One stream to each oracle, opened again when it breaks. ``oracles`` tells whose they are now."""

    def __init__(self, transport: Transport, oracles: Callable[[], Iterable[NodeId]]) -> None:
        self._transport = transport
        self._oracles = oracles
        self._watched: dict[Lane, _Watched] = {}
        self._streams: dict[NodeId, Stream] = {}

    async def settled(self, session: bytes, task: int, holds: Holds, look_again_s: float) -> SettledNews:
        """The first claim of lane 0 of an order that holds. Waits until there is one; an order is waited for once."""
        watched = self._watched[session, task] = _Watched()
        try:
            for stream in list(self._streams.values()):
                await _told(stream, session)
            while True:
                watched.new = trio.Event()
                for news in _different(watched.claims.values()):
                    if await holds(news):
                        return news
                with trio.move_on_after(look_again_s):
                    await watched.new.wait()
        finally:
            del self._watched[session, task]

    async def run(self) -> None:
        """Keep the streams until cancelled."""
        async with trio.open_nursery() as nursery:
            aimed: dict[NodeId, trio.CancelScope] = {}
            while True:
                oracles = set(self._oracles())
                for oracle in aimed.keys() - oracles:
                    aimed.pop(oracle).cancel()
                for oracle in sorted(oracles - aimed.keys()):
                    aimed[oracle] = trio.CancelScope()
                    nursery.start_soon(self._keep, oracle, aimed[oracle])
                await trio.sleep(AIM_S)

    async def _keep(self, oracle: NodeId, scope: trio.CancelScope) -> None:
        delay_s = RETRY_S_MIN
        with scope:
            while True:
                try:
                    stream = await self._transport.open_stream(oracle, PROTOCOL)
                except TransportError as error:
                    log.debug("oracle %s cannot be watched: %s", oracle.hex(), error)
                else:
                    delay_s = RETRY_S_MIN
                    await self._listen(oracle, stream)
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_S_MAX)

    async def _listen(self, oracle: NodeId, stream: Stream) -> None:
        self._streams[oracle] = stream
        try:
            for session in {session for session, _ in self._watched}:
                await _told(stream, session)
            while True:
                self._take(oracle, await stream.receive())
        except (TransportError, DecodeError) as error:
            log.debug("the stream to oracle %s is gone: %s", oracle.hex(), error)
        finally:
            self._streams.pop(oracle, None)
            with trio.CancelScope(shield=True):
                await stream.reset()

    def _take(self, oracle: NodeId, frame: bytes) -> None:
        """Raises DecodeError. Of all that is said of a session only this is looked at."""
        news = decode(frame)
        if not isinstance(news, SettledNews) or news.outcome.lane:
            return
        watched = self._watched.get((news.outcome.session, news.outcome.task))
        if watched is not None:
            watched.claims[oracle] = news
            watched.new.set()


def _different(claims: Iterable[SettledNews]) -> list[SettledNews]:
    """Most oracles say the same."""
    return list({news.certified.certificate.header: news for news in claims}.values())


async def _told(stream: Stream, session: bytes) -> None:
    try:
        await stream.send(encode(Watch(session)))
    except TransportError as error:
        # Whoever listens to it finds out as well, and says it again on the next one.
        log.debug("a watch was not sent: %s", error)
