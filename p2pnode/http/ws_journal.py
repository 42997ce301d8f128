"""Requests of WebSockets, each written down message by message, so that one who was cut off goes on where it stopped.

A journal is kept as long as a socket reads it, and for a while after that or after its end. All of them together are
bounded in number and in size: what is over goes first, then what nobody reads, and at last what is oldest of a journal.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import trio

from p2pnode.http.errors import ApiError, invalid
from p2pnode.transport.unwrap import unwrapped

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class KeepTerms:
    """How much is kept, and how long."""

    kept_s: float = 60.0
    """Without a socket, or after its end. What still runs without a socket by then is cancelled."""
    journals: int = 512
    of_owner: int = 64
    """Journals of one owner."""
    bytes_all: int = 64 << 20
    bytes_each: int = 4 << 20


class Reader(Protocol):
    """A socket that sends what is written down."""

    def wake(self) -> None:
        """There is more, or it is over."""

    def taken_over(self, journal: "Journal") -> None:
        """Another socket reads it from now on."""


class Journal:
    """What was told of one request so far. Messages are numbered from 0; ``first`` is the oldest that is still here."""

    def __init__(self, owner: str, request_id: str) -> None:
        self.owner = owner
        self.request_id = request_id
        self.first = 0
        self.answered = False
        """Whether its one terminal message is in."""
        self.closed = False
        """Whether nothing more will come, not even of its level."""
        self.size = 0
        """Bytes of all messages."""
        self.order = trio.CancelScope()
        """The order itself: cancelled when its client says so."""
        self.life = trio.CancelScope()
        """All of it, when it is forgotten."""
        self.grew: Callable[[Journal, int], None] = lambda _journal, _bytes: None
        self._messages: deque[str] = deque()
        self._reader: Reader | None = None
        self._since = trio.current_time()
        self._moved = trio.Event()

    @property
    def next(self) -> int:
        """The number that the next message gets."""
        return self.first + len(self._messages)

    def __getitem__(self, number: int) -> str:
        """A message, as it is sent."""
        return self._messages[number - self.first]

    def add(self, kind: str, **told: Any) -> None:
        """Write a message down."""
        message = {"type": kind, "request_id": self.request_id, "seq": self.next, **told}
        raw = _encode(message)
        self._messages.append(raw.decode())
        self.size += len(raw)
        self.grew(self, len(raw))
        if self._reader is not None:
            self._reader.wake()

    def end(self, kind: str, **told: Any) -> None:
        """Write its terminal message down."""
        assert not self.answered
        self.answered = True
        self.add(kind, **told)

    def close(self) -> None:
        """Nothing more will come."""
        self.closed = True
        self._move()
        if self._reader is not None:
            self._reader.wake()

    def drop_first(self) -> int:
        """Forget the oldest message; its size."""
        gone = len(self._messages.popleft().encode())
        self.first += 1
        self.size -= gone
        return gone

    @property
    def read(self) -> bool:
        """Whether a socket reads it."""
        return self._reader is not None

    def attach(self, reader: Reader) -> None:
        """A socket reads it from now on, and no other one."""
        if self._reader is not None and self._reader is not reader:
            self._reader.taken_over(self)
        self._reader = reader
        self._move()

    def detach(self, reader: Reader) -> None:
        """That socket is gone, or has read all."""
        if self._reader is reader:
            self._reader = None
            self._move()

    def _move(self) -> None:
        self._since = trio.current_time()
        self._moved.set()
        self._moved = trio.Event()

    async def outlive(self, kept_s: float) -> None:
        """Return when it has been kept for long enough."""
        while True:
            until = float("inf") if self.read and not self.closed else self._since + kept_s
            if trio.current_time() >= until:
                return
            with trio.move_on_at(until):
                await self._moved.wait()


class Journals:
    """All of them, by owner and request id."""

    def __init__(self, terms: KeepTerms) -> None:
        self.size = 0
        """Bytes of all messages."""
        self._terms = terms
        self._kept: OrderedDict[tuple[str, str], Journal] = OrderedDict()
        """The oldest first."""

    def __iter__(self) -> Iterator[Journal]:
        return iter(tuple(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, owner: str, request_id: str) -> Journal:
        """A journal for a new request. Raises ApiError."""
        before = self._kept.get((owner, request_id))
        if before is not None and not before.answered:
            raise invalid("request_id: a request of that id runs already", "request_id", "request_id_in_use")
        if before is not None:
            self.forget(before)
        self._make_room(owner)
        journal = Journal(owner, request_id)
        journal.grew = self._grew
        self._kept[owner, request_id] = journal
        return journal

    def find(self, owner: str, request_id: str) -> Journal:
        """The journal of an owner's request. Raises ApiError."""
        journal = self._kept.get((owner, request_id))
        if journal is None:
            message = f"no request {request_id!r} of yours is known here: it never was, or was too long ago"
            raise ApiError(404, message, param="request_id", code="unknown_request")
        return journal

    async def live(self, journal: Journal, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work that the journal tells of, and keep the journal for its time."""

        async def keep() -> None:
            await journal.outlive(self._terms.kept_s)
            journal.life.cancel()

        try:
            with journal.life, unwrapped():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keep)
                    await work()
                    journal.close()
        except Exception:
            log.exception("a request of a WebSocket ended by a bug")
        finally:
            self.forget(journal)

    def forget(self, journal: Journal) -> None:
        """Keep it no longer; what still runs of it is cancelled."""
        key = journal.owner, journal.request_id
        if self._kept.get(key) is not journal:
            return
        del self._kept[key]
        self.size -= journal.size
        journal.grew = lambda _journal, _bytes: None
        journal.life.cancel()
        journal.close()

    def _make_room(self, owner: str) -> None:
        """For one journal more. Raises ApiError."""
        own = [journal for journal in self._kept.values() if journal.owner == owner]
        for kept, most in ((own, self._terms.of_owner), (list(self._kept.values()), self._terms.journals)):
            if len(kept) >= most:
                victim = _dispensable(kept)
                if victim is None:
                    message = f"{most} requests run on WebSockets here already; try again in a moment"
                    raise ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", retry_after_s=1)
                self.forget(victim)

    def _grew(self, journal: Journal, count: int) -> None:
        self.size += count
        while journal.size > self._terms.bytes_each and journal.next - journal.first > 1:
            self.size -= journal.drop_first()
        while self.size > self._terms.bytes_all:
            victim = _dispensable([each for each in self._kept.values() if each is not journal])
            if victim is not None:
                self.forget(victim)
            elif journal.next - journal.first > 1:
                self.size -= journal.drop_first()
            else:
                return


def _dispensable(journals: list[Journal]) -> Journal | None:
    """One that can be missed: the oldest that is over, else the oldest that nobody reads."""
    over = next((journal for journal in journals if journal.answered), None)
    return over or next((journal for journal in journals if not journal.read), None)
