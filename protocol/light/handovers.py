"""The hand-overs from the genesis on: kept by who may be asked for them, and asked for by who follows the committee.

An epoch's hand-over is there as soon as its first block is final, since all its headers name the same next committee.
So whoever is told it at once knows the next members before they have anything to say.
"""

from collections import OrderedDict
from collections.abc import Iterable

from protocol.committee.certificates import CommitteeError
from protocol.committee.storage import FIRST_EPOCH, Load, Record
from protocol.core.codec import pack, unpack
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.machine import NO_KEY, Channel, Key, Persist, Send
from protocol.light.headers import HeaderTrust, TrustExpired, Untrusted
from protocol.light.skipping import SKIP_FROM, Skipper
from protocol.messages.handover import (
    HAND_OVERS_MAX,
    HandOver,
    HandOvers,
    HandOversAsked,
    HandOversFound,
    HandOversPicked,
)

HAND_OVER_RECORDS = b"handover/"
RECENT_MAX = 2 * HAND_OVERS_MAX
"""Kept in memory beside the disk, on which the last ones may not be yet."""
_BYTES_MAX = 1 << 16


def hand_over_key(epoch: int) -> bytes:
    """Where the hand-over of an epoch lies among a node's durable records."""
    return HAND_OVER_RECORDS + epoch.to_bytes(8, "big")


def unpack_hand_over(data: bytes) -> HandOver:
    """Raises DecodeError."""
    return unpack(HandOver, data, limit_bytes=_BYTES_MAX)


def nothing_stored(_prefix: bytes) -> dict[bytes, bytes]:
    """The records of who has no disk, or has nothing on it."""
    return {}


class HandOverStore:
    """One hand-over an epoch, from the first on, as far as this node has come. Spec: [HANDOVER-KEPT.1]"""

    def __init__(self, load: Load = nothing_stored) -> None:
        self._load = load
        self._recent: OrderedDict[int, HandOver] = OrderedDict()

    def get(self, epoch: int) -> HandOver | None:
        """The hand-over of an epoch; None if it is not here."""
        if epoch in self._recent:
            return self._recent[epoch]
        key = hand_over_key(epoch)
        data = self._load(key).get(key) if 0 <= epoch < 1 << 64 else None
        return None if data is None else unpack_hand_over(data)

    def keep(self, hand_over: HandOver) -> Record:
        """What is to be durable of one that is new."""
        self._recent[hand_over.epoch] = hand_over
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        return hand_over_key(hand_over.epoch), pack(hand_over)

    def page(self, first: int) -> HandOvers:
        """Those of an epoch and the next ones, as many as one message takes."""
        found: list[HandOver] = []
        for epoch in range(max(first, FIRST_EPOCH), max(first, FIRST_EPOCH) + HAND_OVERS_MAX):
            hand_over = self.get(epoch)
            if hand_over is None:
                return HandOvers(tuple(found))
            found.append(hand_over)
        return HandOvers(tuple(found), more=self.get(first + HAND_OVERS_MAX) is not None)

    def found(self, picked: HandOversPicked) -> HandOversFound:
        """Those of some epochs that are here. Spec: [HANDOVER-PICKED.1]"""
        return HandOversFound(tuple(each for each in map(self.get, picked.epochs) if each is not None))


class HandOverBook:
    """What a follower has taken, and whom it believes by that. All machines of a node share one."""

    def __init__(self, genesis: Genesis, load: Load = nothing_stored, trust: HeaderTrust | None = None) -> None:
        self.trust = trust or HeaderTrust(genesis)
        self.store = HandOverStore(load)
        stored = load(HAND_OVER_RECORDS) if genesis.committee else {}
        for _, data in sorted(stored.items()):
            try:
                self.trust.take(unpack_hand_over(data))
            except RemoteProtocolError:
                break  # of another network, perhaps; it is asked for, and all that follow

    def take(self, hand_overs: Iterable[HandOver]) -> tuple[Record, ...]:
        """Take them one by one; what is to be durable of those that are new.

        Raises CommitteeError, UnknownEpoch, SignatureError; those before the bad one are taken.
        """
        return tuple(self.store.keep(each) for each in hand_overs if self._take(each))

    def _take(self, hand_over: HandOver) -> bool:
        return not self._passed(hand_over) and self.trust.take(hand_over)

    def _passed(self, hand_over: HandOver) -> bool:
        """Whether it is forgotten, or was skipped: it leads nowhere that is not known."""
        return hand_over.epoch + 1 <= self.trust.epoch and not self.trust.members_of(hand_over.epoch + 1)

    def skip(self, hand_over: HandOver) -> tuple[Record, ...]:
        """Take one of any later epoch, of which enough members of a committee that is known have signed the header.

        Raises what :meth:`take` does, and Untrusted where they are too few.
        """
        new = not self._passed(hand_over) and self._take_skipping(hand_over)
        return (self.store.keep(hand_over),) if new else ()

    def _take_skipping(self, hand_over: HandOver) -> bool:
        return self.trust.take(hand_over, skipping=True)

    def path(self, epoch: int) -> tuple[HandOver, ...]:
        """The hand-overs by which a committee came to be known, from a root of trust on or as far back as they are
        here."""
        found: list[HandOver] = []
        while by := self.trust.handed_over_by(epoch):
            hand_over = self.store.get(epoch - 1)
            if hand_over is None:
                break
            found.append(hand_over)
            epoch = by
        return tuple(reversed(found))


class HandOverReaders:
    """Who asked for hand-overs, and has had all: each later one is told to them. Spec: [HANDOVER-TOLD.1]"""

    def __init__(self, store: HandOverStore) -> None:
        self._store = store
        self._readers: dict[Channel, None] = {}

    def __len__(self) -> int:
        return len(self._readers)

    def asked(self, channel: Channel, asked: HandOversAsked, key: Key = NO_KEY) -> list[object]:
        """A stream asks. It counts as one more reader, so whoever owns the streams bounds them."""
        page = self._store.page(asked.first)
        if not page.more:
            self._readers[channel] = None
        return [Send(channel, page, key=key)]

    def told(self, hand_over: HandOver, key: Key = NO_KEY) -> list[object]:
        """There is a new one."""
        news = HandOvers((hand_over,))
        return [Send(channel, news, key=key) for channel in self._readers]

    def gone(self, channel: Channel) -> None:
        """A stream is closed."""
        self._readers.pop(channel, None)


class HandOverAsker:
    """Asks on each stream until its other end has no more, page by page. Spec: [HANDOVER-ASKED.1]

    Who is told towards which epoch, and is far from it, skips first. Spec: [TRUST-SKIP.1]
    """

    def __init__(self, book: HandOverBook, key: Key | None = None) -> None:
        self._book = book
        self._key = key
        """Of what is made durable; None: nothing is."""
        self._asked: dict[Channel, int] = {}
        """From which epoch on, where an answer is awaited."""
        self._skips: dict[Channel, tuple[Skipper, int]] = {}
        """Who skips, and the epoch that was asked for."""

    def ask(self, channel: Channel, towards: int = 0) -> list[object]:
        """Ask on a stream; ``towards`` is an epoch whose committee is wanted, as far as its other end has come."""
        trust = self._book.trust
        if towards - trust.wanted >= SKIP_FROM:
            return self._pick(channel, Skipper(trust, towards - 1))
        self._asked[channel] = trust.wanted
        return [Send(channel, HandOversAsked(self._asked[channel]))]

    def _pick(self, channel: Channel, skipper: Skipper) -> list[object]:
        wanted = skipper.next()
        if wanted is None:
            self._skips.pop(channel, None)
            return self.ask(channel)
        self._skips[channel] = skipper, wanted
        return [Send(channel, HandOversPicked((wanted,)))]

    def found(self, channel: Channel, message: HandOversFound) -> list[object]:
        """The hand-over that was asked for, or none, on a stream: what is durable of it, and the next question.

        Raises CommitteeError, SignatureError for what does not hold, or was not asked for, and TrustExpired.
        """
        skipper, wanted = self._skips.pop(channel, (None, 0))
        if skipper is None or any(each.epoch != wanted for each in message.hand_overs):
            raise CommitteeError("a hand-over that nobody asked for")
        known, records = self._book.trust.epoch, tuple[Record, ...]()
        for hand_over in message.hand_overs[:1]:
            try:
                records = self._book.skip(hand_over)
            except TrustExpired:
                raise
            except Untrusted:
                continue  # too few have signed this one; perhaps of a nearer one there are more
        skipper.told(led_on=self._book.trust.epoch > known)
        effects: list[object] = [Persist(self._key, records)] if records and self._key is not None else []
        return [*effects, *self._pick(channel, skipper)]

    def waits(self, channel: Channel) -> bool:
        """Whether an answer is awaited on a stream."""
        return channel in self._asked or channel in self._skips

    def gone(self, channel: Channel) -> None:
        """A stream is closed."""
        self._asked.pop(channel, None)
        self._skips.pop(channel, None)

    def took(self, channel: Channel, message: HandOvers) -> list[object]:
        """A page, or one that is new, on a stream: what is durable of it, and the next question.

        Raises CommitteeError, SignatureError for what does not hold, or was not asked for: each question is of a later
        epoch than the one before, so they come to an end.
        """
        first = self._asked.pop(channel, None)
        found = message.hand_overs
        if any(each.epoch != found[0].epoch + place for place, each in enumerate(found)):
            raise CommitteeError("hand-overs of epochs that do not follow one another")
        if (first is not None and found and found[0].epoch != first) or (message.more and (first is None or not found)):
            raise CommitteeError("hand-overs that nobody asked for")
        records = self._book.take(found)
        effects: list[object] = [Persist(self._key, records)] if records and self._key is not None else []
        return [*effects, *self.ask(channel)] if message.more else effects
