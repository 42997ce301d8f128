"""What is known of a network's committees and of its latest final header, from whatever router."""

from protocol.core.genesis import Genesis
from protocol.core.machine import Channel
from protocol.light.handovers import HandOverAsker, HandOverBook
from protocol.light.headers import UnknownEpoch, place
from protocol.messages.committee import Certified, Header
from protocol.messages.handover import HandOvers


class Chain:
    """See the module. Each router is asked for the hand-overs that are not known; it believes none of them.

    Spec: [HANDOVER-ASKED.1]
    """

    def __init__(self, genesis: Genesis) -> None:
        book = HandOverBook(genesis)
        self.trust = book.trust
        self.header: Header | None = None
        """The latest final one that was seen."""
        self._asker = HandOverAsker(book)
        self._ahead: dict[Channel, Certified] = {}
        """Headers that routers have shown, of epochs whose committees they have yet to show."""

    @property
    def epoch(self) -> int:
        """The present one, as far as is known; 0 where there is no committee."""
        return self.header.epoch if self.header is not None else 0

    def greeted(self, channel: Channel, certified: Certified | None) -> list[object]:
        """A router shows how far it is. Raises RemoteProtocolError for a header that is not final."""
        asks = self._asker.ask(channel) if self.trust.members else []
        if certified is not None:
            self.follow(channel, certified)
        return asks

    def follow(self, channel: Channel, certified: Certified) -> None:
        """A router shows a header. Raises RemoteProtocolError for one that is not final. Spec: [LIGHT-HEADER.1]"""
        try:
            header = self.trust.check(certified)
        except UnknownEpoch:
            if not self._asker.waits(channel):
                raise
            self._ahead[channel] = certified
            return
        self._ahead.pop(channel, None)
        if self.header is None or place(header) > place(self.header):
            self.header = header

    def awaits(self, channel: Channel) -> bool:
        """Whether a router has shown a header that cannot be checked yet."""
        return channel in self._ahead

    def took(self, channel: Channel, message: HandOvers) -> list[object]:
        """A router shows hand-overs. Raises RemoteProtocolError if they do not hold, or do not lead to what it says."""
        effects = self._asker.took(channel, message)
        ahead = None if self._asker.waits(channel) else self._ahead.pop(channel, None)
        if ahead is not None:
            self.follow(channel, ahead)
        return effects

    def gone(self, channel: Channel) -> None:
        """A router's stream is closed."""
        self._asker.gone(channel)
        self._ahead.pop(channel, None)
