"""The hand-overs that this oracle has seen: durable, one an epoch, and told to whoever follows the committee."""

from collections.abc import Iterable

import msgspec

from protocol.committee.effects import COMMITTEE
from protocol.committee.storage import Load
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Persist
from protocol.light.anchors import AnchorHeaders
from protocol.light.handovers import HandOverReaders, HandOverStore
from protocol.messages.committee import Certified
from protocol.messages.handover import HandOver, HandOversAsked


class HandingOver:
    """See the module. Everything that leaves waits for what was to be durable before it. Spec: [HANDOVER-KEPT.1]"""

    def __init__(self, load: Load) -> None:
        self.store = HandOverStore(load)
        self.anchors = AnchorHeaders()
        self._bare: HandOver | None = None
        """The last one, if the block that its header anchors is not known here."""
        self._readers = HandOverReaders(self.store)

    def settled(self, certified: Certified, next_members: tuple[NodeId, ...]) -> list[object]:
        """A header is final: the first of its epoch hands over to these members."""
        if self.store.get(certified.certificate.epoch) is not None:
            return []
        anchor = self._anchor_of(certified)
        hand_over = HandOver(certified, next_members, anchor)
        self._bare = None if anchor else hand_over
        return [self._kept(hand_over), *self._readers.told(hand_over, COMMITTEE)]

    def anchored(self, headers: Iterable[bytes]) -> list[object]:
        """Headers in RLP of blocks of the chain: the last hand-over gets its own, if it came without.

        Spec: [ANCHOR-HEADERS.1]
        """
        for header in headers:
            self.anchors.see(header)
        bare = self._bare
        anchor = b"" if bare is None else self._anchor_of(bare.certified)
        if bare is None or not anchor:
            return []
        self._bare = None
        return [self._kept(msgspec.structs.replace(bare, anchor=anchor))]

    def _anchor_of(self, certified: Certified) -> bytes:
        return b"" if certified.header is None else self.anchors.get(certified.header.anchor_hash)

    def _kept(self, hand_over: HandOver) -> Persist:
        return Persist(COMMITTEE, (self.store.keep(hand_over),), vital=False)

    def asked(self, channel: Channel, asked: HandOversAsked) -> list[object]:
        """A stream asks for those from an epoch on."""
        return self._readers.asked(channel, asked, COMMITTEE)

    def gone(self, channel: Channel) -> None:
        """A stream is closed."""
        self._readers.gone(channel)
