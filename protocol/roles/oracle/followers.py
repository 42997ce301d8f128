"""Who follows the finalized headers, some with the node pool: one message on its way to each, the newest first."""

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.committee.effects import COMMITTEE
from protocol.core.machine import Channel, Send
from protocol.core.sparse import EMPTY_TREE, SparseTree
from protocol.ledger.records import Section
from protocol.ledger.state import State
from protocol.messages.committee import Certified
from protocol.messages.results import CHANGES_MAX, Change, LedgerNews

CHANGES_BYTES_MAX = 56_000
"""Of one message, whose kind has 65,536."""
_CHANGE_BYTES = 16
"""More than a change takes beside key and value."""


@dataclass(frozen=True, slots=True)
class Final:
    """A header that is final here, and the state after its block."""

    certified: Certified
    state: State


@dataclass(slots=True)
class _Follower:
    pool: bool
    told: Final | None = None
    tree: SparseTree = EMPTY_TREE
    """The pool as the follower has it, with all that is on its way."""
    rest: Iterator[Change] | None = None
    """Changes of ``told`` that are still to be sent."""
    held: Change | None = None
    in_flight: bool = False


class Followers:
    """A follower that reads slowly misses headers, never changes: they are taken from the tree that it has.

    Spec: [LEDGER-NEWS.1]
    """

    def __init__(self) -> None:
        self._followers: dict[Channel, _Follower] = {}
        self._final: Final | None = None

    def __len__(self) -> int:
        return len(self._followers)

    def follow(self, channel: Channel, pool: bool) -> list[object]:
        """A stream wants headers from now on; asked again, it begins anew."""
        before = self._followers.get(channel)
        self._followers[channel] = _Follower(pool, in_flight=before is not None and before.in_flight)
        return self._next(channel)

    def settled(self, final: Final) -> list[object]:
        """There is a new header."""
        self._final = final
        return [effect for channel in self._followers for effect in self._next(channel)]

    def sent(self, channel: Channel) -> list[object]:
        """What was on its way has left."""
        follower = self._followers.get(channel)
        if follower is None:
            return []
        follower.in_flight = False
        return self._next(channel)

    def gone(self, channel: Channel) -> None:
        """A stream is closed."""
        self._followers.pop(channel, None)

    def _next(self, channel: Channel) -> list[object]:
        follower, final = self._followers[channel], self._final
        if follower.in_flight or final is None:
            return []
        if follower.rest is None:
            if follower.told is final:
                return []
            follower.told = final
            follower.rest = iter(())
            if follower.pool:
                tree = final.state.tree(Section.MINERS)
                follower.rest = (Change(key, value) for key, value in tree.diff(follower.tree))
                follower.tree = tree
        assert follower.told is not None
        changes, more = _page(follower)
        news = LedgerNews(follower.told.certified, follower.told.state.sections, changes, more)
        follower.in_flight = True
        return [Send(channel, news, report=True, key=COMMITTEE)]


def _page(follower: _Follower) -> tuple[tuple[Change, ...], bool]:
    """As many changes as fit, and whether there are more."""
    assert follower.rest is not None
    changes: list[Change] = []
    size = 0
    while True:
        change = follower.held or next(follower.rest, None)
        follower.held = None
        if change is None:
            follower.rest = None
            return tuple(changes), False
        size += len(change.key) + len(change.value or b"") + _CHANGE_BYTES
        if len(changes) >= CHANGES_MAX or (size > CHANGES_BYTES_MAX and changes):
            follower.held = change
            return tuple(changes), True
        changes.append(change)
