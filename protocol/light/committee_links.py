"""The streams of a miner or a router to oracles of committees that change: on each, hand-overs are asked for first."""

from collections.abc import Iterable

from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelNumbers, Key
from protocol.light.handovers import HandOverAsker, HandOverBook
from protocol.messages.handover import HandOvers
from protocol.results.links import OracleLinks

HAND_OVERS: Key = b"handovers"
"""Of what is made durable here."""


class CommitteeLinks(OracleLinks):
    """See the module. Spec: [HANDOVER-ASKED.1]

    What is said on a link that has just been opened is answered after the first page of hand-overs, so nothing that
    comes then is of an unknown epoch. Where one page was not enough, the link is opened anew.
    """

    def __init__(self, numbers: ChannelNumbers, book: HandOverBook) -> None:
        super().__init__(numbers)
        self.trust = book.trust
        self._asker = HandOverAsker(book, HAND_OVERS)
        self._long: set[Channel] = set()
        """On which one page was not enough."""

    def present(self, seen: int) -> int:
        """The present epoch as far as is known: ``seen`` is that of the latest header, and whoever was handed over to
        epoch e+1 knows that e has begun."""
        return max(seen, self.trust.epoch - 1)

    def members(self, epochs: Iterable[int]) -> tuple[NodeId, ...]:
        """The committees of these epochs, as far as they are known, and the last one that is; each oracle once."""
        known = (self.trust.members_of(epoch) for epoch in (*epochs, self.trust.epoch))
        return tuple(dict.fromkeys(node for members in known for node in members))

    def open(self, oracle: NodeId) -> list[object]:
        """See OracleLinks."""
        opened = super().open(oracle)
        return [*opened, *self._asker.ask(self._channels[oracle])]

    def catches_up(self, oracle: NodeId) -> bool:
        """Whether more hand-overs are awaited of an oracle: what it says may be of an epoch that is not known yet."""
        return oracle in self._channels and self._asker.waits(self._channels[oracle])

    def took(self, oracle: NodeId, message: HandOvers, now_ms: int) -> list[object]:
        """Hand-overs of an oracle. Raises CommitteeError, SignatureError; those before a bad one are taken."""
        channel = self._channels[oracle]
        effects = self._asker.took(channel, message)
        if self._asker.waits(channel):
            self._long.add(channel)
        elif channel in self._long:
            effects += self.break_off(oracle, now_ms)
            self.hurry(oracle, now_ms)
        return effects

    def _drop(self, oracle: NodeId) -> Channel:
        channel = super()._drop(oracle)
        self._asker.gone(channel)
        self._long.discard(channel)
        return channel
