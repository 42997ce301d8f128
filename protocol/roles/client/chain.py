"""What is known of a network's committees and of its latest final header, from whatever router."""

from collections.abc import Mapping

from protocol.core.genesis import Genesis
from protocol.core.ids import NetworkId
from protocol.core.machine import Channel
from protocol.light.handovers import HandOverAsker
from protocol.light.headers import ReadersTime, TrustExpired, UnknownEpoch, Untrusted, place
from protocol.light.trust_book import KeptTrust, LightBook
from protocol.messages.committee import Certified, Header
from protocol.messages.handover import HandOvers, HandOversFound
from protocol.roles.client.events import NOBODY, Deliver, TrustMoved


class Chain:
    """See the module. Each router is asked for the hand-overs that are not known; it believes none of them.

    Spec: [HANDOVER-ASKED.1] [TRUST-KEPT.1]
    """

    def __init__(self, genesis: Genesis, trusted: "Trusted | None" = None) -> None:
        self._trusted = trusted or Trusted()
        network = genesis.network_id()
        self.book = book = LightBook(genesis, self._trusted.kept.get(network), time=self._trusted.time)
        self.trust = book.trust
        self.header: Header | None = None
        """The latest final one that was seen."""
        self.untrusted = ""
        """Why nothing that the committee signs is believed, if only a committee is known that is too old."""
        self._claimed = 0
        self._asker = HandOverAsker(book)
        self._ahead: dict[Channel, Certified] = {}
        """Headers that routers have shown, of epochs whose committees they have yet to show."""

    @property
    def epoch(self) -> int:
        """The present one, as far as is known, or what a router says where none is believed; 0 where there is no
        committee."""
        return self.header.epoch if self.header is not None else self._claimed

    def greeted(self, channel: Channel, certified: Certified | None) -> list[object]:
        """A router shows how far it is. Raises RemoteProtocolError for a header that is not final."""
        shown = certified.certificate.epoch if certified is not None else 0
        asks = self._asker.ask(channel, shown) if self.trust.wanted else []
        if certified is not None:
            self.follow(channel, certified)
        return asks

    def ask(self, channel: Channel, towards: int = 0) -> list[object]:
        """Ask a router for the hand-overs that are not known; ``towards`` is an epoch that it has shown."""
        return self._asker.ask(channel, towards)

    def follow(self, channel: Channel, certified: Certified) -> None:
        """A router shows a header. Raises RemoteProtocolError for one that is not final. Spec: [LIGHT-HEADER.1]"""
        try:
            header = self.trust.check(certified)
        except UnknownEpoch:
            if self._asker.waits(channel):
                self._ahead[channel] = certified
            elif self.untrusted:
                self._claimed = certified.certificate.epoch
            else:
                raise
            return
        except Untrusted as error:
            # That this reader was away for too long, or skipped an epoch, is no fault of the router's.
            self._doubt(error, certified)
            return
        self._ahead.pop(channel, None)
        self.untrusted = ""
        if self.header is None or place(header) > place(self.header):
            self.header = header

    def _doubt(self, error: Untrusted, shown: Certified | None) -> None:
        if isinstance(error, TrustExpired):
            self.untrusted = f"{error}; {error.hint}"
            self._claimed = shown.certificate.epoch if shown is not None else self._claimed

    def awaits(self, channel: Channel) -> bool:
        """Whether a router has shown a header that cannot be checked yet."""
        return channel in self._ahead

    def took(self, channel: Channel, message: HandOvers | HandOversFound) -> list[object]:
        """A router shows hand-overs: what else to ask it for. Raises RemoteProtocolError if they do not hold, or do not
        lead to what it says."""
        try:
            asks = self._took(channel, message)
        except TrustExpired as error:
            self._doubt(error, self._ahead.get(channel))
            self.gone(channel)
            return []
        if self.book.moved and not asks:
            self._trusted.moved[NetworkId(self.trust.network_id)] = self.book
        ahead = None if self._asker.waits(channel) else self._ahead.pop(channel, None)
        if ahead is not None:
            self.follow(channel, ahead)
        return asks

    def _took(self, channel: Channel, message: HandOvers | HandOversFound) -> list[object]:
        if isinstance(message, HandOversFound):
            return self._asker.found(channel, message)
        return self._asker.took(channel, message)

    def gone(self, channel: Channel) -> None:
        """A router's stream is closed."""
        self._asker.gone(channel)
        self._ahead.pop(channel, None)


class Trusted:
    """What all chains of one client share: its time, what it knew before, and what it is to keep of this run."""

    def __init__(self, kept: Mapping[NetworkId, KeptTrust] | None = None, *, live: bool = False) -> None:
        self.kept: Mapping[NetworkId, KeptTrust] = kept or {}
        self.time = ReadersTime()
        self._live = live
        self.moved: dict[NetworkId, LightBook] = {}

    def at(self, now_ms: int) -> None:
        """The time, from now on."""
        self.time.now_s = None if self._live else now_ms // 1_000

    def news(self) -> list[object]:
        """What is to be kept, as soon as there is anything new."""
        moved, self.moved = self.moved, {}
        return [Deliver(NOBODY, TrustMoved(network, book.kept())) for network, book in moved.items()]
