"""What a light user believes of a network's committees, and how it came to: kept from run to run, and bounded.

What is kept is read again as it was taken then: each hand-over at the time at which it was taken, for whoever handed
over may be too old today. When there is much of it, a trust point stands for all that came before.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.signing import U32, U64, Bytes32, keccak
from protocol.light.handovers import HandOverBook
from protocol.light.headers import POINTS_MAX, HeaderTrust, ReadersTime
from protocol.light.trust import TRUST_STRING_CHARS_MAX, MalformedTrust, TrustPoint, parse_trust, show_trust
from protocol.messages.handover import HandOver

KEPT_FORMAT = 1
STEPS_MAX = 64
STEPS_LEFT = 32
"""Of so many, when there are too many."""
KEPT_BYTES_MAX = 1 << 19
_CHECKED = b"p2pnode/kept-trust/1"
_CHECKSUM_BYTES = 32


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A hand-over, and when it was taken."""

    taken_s: U64
    """0: by a reader that did not tell the time."""
    hand_over: HandOver


class KeptTrust(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that a light user keeps of one network."""

    format: U32
    network_id: Bytes32
    genesis: Annotated[str, Meta(max_length=65_536)]
    """The genesis file; empty where only a trust string is known."""
    points: Annotated[tuple[Annotated[str, Meta(max_length=TRUST_STRING_CHARS_MAX)], ...], Meta(max_length=POINTS_MAX)]
    """Trust strings."""
    steps: Annotated[tuple[Step, ...], Meta(max_length=STEPS_MAX)] = ()
    """In the order in which they were taken."""

    @property
    def latest(self) -> int:
        """The latest epoch whose committee is known by it."""
        return max((step.hand_over.epoch + 1 for step in self.steps), default=0)


def write_kept(kept: KeptTrust) -> bytes:
    """What is kept, with a checksum."""
    content = pack(kept)
    return keccak(_CHECKED + content) + content


def read_kept(data: bytes) -> KeptTrust:
    """Raises DecodeError for anything but what was written."""
    checksum, content = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if len(data) > KEPT_BYTES_MAX or keccak(_CHECKED + content) != checksum:
        raise DecodeError("its checksum is wrong")
    kept = unpack(KeptTrust, content, limit_bytes=KEPT_BYTES_MAX)
    if kept.format != KEPT_FORMAT:
        raise DecodeError(f"it has the form {kept.format}; this build reads {KEPT_FORMAT}")
    return kept


class LightBook(HandOverBook):
    """A book that tells the time, and can be kept. Spec: [TRUST-KEPT.1]

    Args:
        kept: Of an earlier run. What does not hold of it, and all that follows, is left out.
        points: Trust points beside those that were kept. Raises CommitteeError for one that contradicts another.
        time: The reader's.
    """

    def __init__(
        self,
        genesis: Genesis,
        kept: KeptTrust | None = None,
        points: Iterable[TrustPoint] = (),
        time: ReadersTime | None = None,
    ) -> None:
        self._network_id = genesis.network_id()
        self._genesis = genesis.to_json()
        self._points = [*_points_of(kept), *points][-POINTS_MAX:]
        self._steps: list[Step] = []
        self.moved = False
        """Whether there is more than was kept."""
        now = time or ReadersTime()
        super().__init__(genesis, trust=HeaderTrust(genesis, self._points, time=ReadersTime(now.now_s)))
        for step in kept.steps if kept is not None else ():
            self.trust.time = ReadersTime(step.taken_s or None)
            try:
                self.skip(step.hand_over)
            except RemoteProtocolError:
                break
        self.trust.time = now
        self.moved = False

    def _take(self, hand_over: HandOver) -> bool:
        return self._noted(hand_over, super()._take(hand_over))

    def _take_skipping(self, hand_over: HandOver) -> bool:
        return self._noted(hand_over, super()._take_skipping(hand_over))

    def _noted(self, hand_over: HandOver, new: bool) -> bool:
        if new:
            self.moved = True
            self._steps.append(Step(self.trust.time.now_s or 0, hand_over))
            if len(self._steps) > STEPS_MAX:
                self._shorten()
        return new

    def _shorten(self) -> None:
        """A trust point of an epoch that is known stands for the way to it, and its age goes on counting."""
        left = self._steps[-STEPS_LEFT:]
        epoch = left[0].hand_over.epoch + 1
        point = self.trust.point(epoch)
        if point is not None and self.trust.members_of(epoch):
            self._points = [point, *(each for each in self._points if each.epoch > epoch)]
        self._steps = left

    def kept(self) -> KeptTrust:
        """What to begin with next time."""
        self.moved = False
        shown = tuple(map(show_trust, self._points))
        return KeptTrust(KEPT_FORMAT, self._network_id, self._genesis, shown, tuple(self._steps))


def _points_of(kept: KeptTrust | None) -> list[TrustPoint]:
    try:
        return [parse_trust(shown) for shown in kept.points] if kept is not None else []
    except MalformedTrust:
        return []
