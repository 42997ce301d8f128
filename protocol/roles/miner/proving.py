"""What a miner and the committee have to do with each other: results, credit, and its place in the node pool.

Committees change, and a result is told to the one of its own home epoch. Hand-overs say what epoch it is, and who is in
it; a miner that knows no oracle which still runs asks the router of a lease for them. In a network without a committee
nothing of this happens.
"""

from collections.abc import Callable

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, NodeId, SessionId
from protocol.core.machine import Channel, ChannelNumbers, Note
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.light.committee_links import HAND_OVERS, CommitteeLinks
from protocol.light.handovers import HandOverAsker
from protocol.light.news import check_outcome, check_session
from protocol.messages.handover import HandOvers
from protocol.messages.results import OutcomeNews, RevealAsked, SessionNews
from protocol.messages.tasks import AckMessage
from protocol.roles.miner.credit import PATIENCE_MS, Admission, Credit
from protocol.roles.miner.enlisting import Enlisting
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import Lease
from protocol.roles.miner.outstanding import Outstanding
from protocol.roles.miner.receipts import Receipts
from protocol.roles.miner.settings import MinerSettings

LINGER_MS = 60_000
"""Links to the oracles are kept so long after the last lease or result: most miners of a large network are idle."""


class Proving:
    """See the module. Links to the oracles stand while there is a lease, or a result that is not final."""

    patience_ms = PATIENCE_MS
    """So long an order waits for credit."""

    def __init__(
        self,
        settings: MinerSettings,
        domain: Domain,
        params: Params,
        sign: Sign,
        numbers: ChannelNumbers,
        receipts: Receipts,
    ) -> None:
        self._proves = settings.proves
        self._receipts = receipts
        book = settings.book()
        self._trust = book.trust
        self._links = CommitteeLinks(numbers, book)
        self._asker = HandOverAsker(book, HAND_OVERS)
        self._asked: Channel | None = None
        """The router that is asked for hand-overs, by the stream of a lease."""
        self._aimed: tuple[int, ...] = ()
        """The epochs whose committees it has links to, and the last that was known then."""
        self.credit = Credit(params)
        self.outstanding = Outstanding(
            domain,
            params,
            sign,
            settings.node,
            settings.salt_key,
            self._links,
            settings.results if self._proves else {},
            receipts.news,
        )
        listed = settings.genesis is None or not self._proves or settings.node in settings.genesis.miners
        offers = () if listed else settings.offers.values()
        owner = settings.owner or settings.node
        self._enlisting = Enlisting(domain, sign, settings.node, owner, offers, settings.tokens_per_second)
        self._epoch = 0
        """The present one as far as is known; 0 if nothing is, or nothing was heard for long."""
        self._linger_ms: int | None = None
        """When links that nobody needs are closed."""

    # Links

    def owns(self, channel: Channel) -> bool:
        """Whether a stream leads to an oracle."""
        return self._links.oracle(channel) is not None

    def met(self, peer: NodeId, now_ms: int) -> list[object]:
        """A node can be reached."""
        self._links.hurry(peer, now_ms)
        return self._open(now_ms)

    def closed(self, channel: Channel, now_ms: int) -> bool:
        """A stream is gone; whether it led to an oracle."""
        self._asker.gone(channel)
        return self._links.closed(channel, now_ms)

    def look(self, leases: int, now_ms: int) -> list[object]:
        """Have links while they are needed. To be asked after every event."""
        if not self._proves:
            return []
        needed = bool(leases or self.outstanding.held)
        if needed:
            self._linger_ms = None
        elif self._links.oracles and self._linger_ms is None:
            self._linger_ms = now_ms + LINGER_MS
        stale = self._links.oracles and self._aimed != self._aims()
        return self._aim(now_ms) if stale or (needed and not self._links.oracles) else []

    def _aims(self) -> tuple[int, ...]:
        """Those of results, of now, and the next as soon as it is known. Spec: [RESULT-HOME.1]"""
        return (*sorted(self.outstanding.homes), self._links.present(self._epoch), self._trust.epoch)

    def _aim(self, now_ms: int) -> list[object]:
        self._aimed = self._aims()
        return [*self._links.aim(self._links.members(self._aimed), now_ms), *self._open(now_ms)]

    def _open(self, now_ms: int) -> list[object]:
        """Open what is due, and say at once what may not have arrived."""
        effects: list[object] = []
        for oracle in self._links.due(now_ms):
            effects += [*self._links.open(oracle), *self.outstanding.greet(oracle)]
            if self._enlisting.message is not None:
                effects += self._links.send(oracle, self._enlisting.message)
        return effects

    def next_deadline(self) -> int | None:
        """The earliest of links, results and enlisting."""
        clocks = (
            self._links.next_deadline(),
            self.outstanding.next_deadline(),
            self._enlisting.next_deadline(),
            self._linger_ms,
        )
        return min((at for at in clocks if at is not None), default=None)

    def expire(self, now_ms: int) -> list[object]:
        """Do what is due."""
        effects = self.outstanding.expire(now_ms)
        asks = self._enlisting.expire(now_ms)
        if asks is not None:
            effects += self._links.send_all(asks) if self._links.oracles else self._aim(now_ms)
            self._linger_ms = None
        if self._linger_ms is not None and now_ms >= self._linger_ms:
            # What is heard from now on is little, and late.
            self._linger_ms, self._epoch = None, 0
            effects += self._links.aim((), now_ms)
        return effects + self._open(now_ms)

    # What oracles say

    def received(
        self, channel: Channel, message: object, heard: Callable[[SessionNews, int], list[object]], now_ms: int
    ) -> list[object]:
        """An oracle speaks. ``heard`` is given what it says of a session; it may raise RemoteProtocolError."""
        oracle = self._links.oracle(channel)
        assert oracle is not None
        self._links.heard(oracle)
        if self._links.catches_up(oracle) and not isinstance(message, HandOvers):
            return []  # it may be of an epoch that is not known here; it is said again on a new stream
        try:
            match message:
                case HandOvers():
                    return [*self._links.took(oracle, message, now_ms), *self._known()]
                case RevealAsked():
                    return self.outstanding.asked(oracle, message, now_ms)
                case OutcomeNews():
                    return self._decided(message, now_ms)
                case SessionNews():
                    return heard(message, now_ms)
            raise RemoteProtocolError(f"{type(message).__name__} is not for a miner")
        except RemoteProtocolError as error:
            note = Note("miner.oracle-broke-rule", (("oracle", oracle.hex()), ("why", str(error))))
            return [*self._links.break_off(oracle, now_ms), note]

    def _decided(self, news: OutcomeNews, now_ms: int) -> list[object]:
        outcome = news.outcome
        self._receipts.news(news)
        if not self.outstanding.waits_for(outcome):
            return []
        header = check_outcome(self._trust, news)
        if outcome.paid_wei:
            self.credit.paid(SessionId(Digest(outcome.session)))
        return [*self.outstanding.decided(outcome, now_ms), *self._saw(header.epoch)]

    def reserved(self, news: SessionNews) -> list[object]:
        """What the ledger holds for a session, whoever tells it. Raises RemoteProtocolError."""
        session = SessionId(Digest(news.session))
        if not self._proves or not self.credit.wants(session):
            return []
        header, record = check_session(self._trust, news)
        self.credit.reserved(session, record, (header.epoch, header.height))
        return self._saw(header.epoch)

    def _known(self) -> list[object]:
        """Hand-overs were taken: an epoch has begun if it has handed over."""
        return self._saw(self._links.present(self._epoch))

    def _saw(self, epoch: int) -> list[object]:
        if epoch <= self._epoch:
            return []
        self._epoch = epoch
        return self.outstanding.turned(epoch)

    # What routers say

    def _ask_router(self, channel: Channel) -> list[object]:
        """The router of a lease may know hand-overs that no oracle told; one at a time is asked."""
        if self._asked == channel and self._asker.waits(channel):
            return []
        if self._asked is not None:
            self._asker.gone(self._asked)
        self._asked = channel
        return self._asker.ask(channel)

    def handed_over(self, channel: Channel, message: HandOvers) -> list[object]:
        """The router of a lease answers. Raises RemoteProtocolError."""
        return [*self._asker.took(channel, message), *self._known()]

    # What tasks ask

    def admit(self, lease: Lease, lane: Lane, now_ms: int) -> Admission:
        """Whether an order may start now."""
        if not self._proves:
            return Admission(granted=True)
        return self.credit.admit(lease, lane, self._epoch, now_ms)

    def leased(self, lease: Lease, now_ms: int) -> None:
        """A session may order from now on."""
        if self._proves and lease.price_wei:
            self.credit.expect(lease.session, lease.opening, now_ms)

    def ended(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        """A lane's end is signed."""
        self.settle(lease, lane)
        if not self._proves:
            return []
        ended = self.outstanding.ended(lease, lane, now_ms)
        unknown = lane.order.home_epoch > self._trust.epoch
        return [*ended, *self._ask_router(lease.channel)] if unknown else ended

    def settle(self, lease: Lease, lane: Lane) -> None:
        """A lane is over, with a signed end or without."""
        self.credit.settle(lease, lane)

    def acked(self, message: AckMessage, now_ms: int) -> list[object]:
        """The client acknowledges a lane that may have ended. Raises SignatureError."""
        return self.outstanding.acked(message, now_ms) if self._proves else []
