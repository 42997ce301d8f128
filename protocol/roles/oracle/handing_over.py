"""The hand-overs that this oracle has seen: durable, one an epoch, and told to whoever follows the committee."""

from protocol.committee.effects import COMMITTEE
from protocol.committee.storage import Load
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Persist
from protocol.light.handovers import HandOverReaders, HandOverStore
from protocol.messages.committee import Certified
from protocol.messages.handover import HandOver, HandOversAsked


class HandingOver:
    """See the module. Everything that leaves waits for what was to be durable before it. Spec: [HANDOVER-KEPT.1]"""

    def __init__(self, load: Load) -> None:
        self.store = HandOverStore(load)
        self._readers = HandOverReaders(self.store)

    def settled(self, certified: Certified, next_members: tuple[NodeId, ...]) -> list[object]:
        """A header is final: the first of its epoch hands over to these members."""
        if self.store.get(certified.certificate.epoch) is not None:
            return []
        hand_over = HandOver(certified, next_members)
        durable = Persist(COMMITTEE, (self.store.keep(hand_over),), vital=False)
        return [durable, *self._readers.told(hand_over, COMMITTEE)]

    def asked(self, channel: Channel, asked: HandOversAsked) -> list[object]:
        """A stream asks for those from an epoch on."""
        return self._readers.asked(channel, asked, COMMITTEE)

    def gone(self, channel: Channel) -> None:
        """A stream is closed."""
        self._readers.gone(channel)
