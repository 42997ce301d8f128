"""What a router and the committee have to do with each other: the node pool, its sessions' reservations, their news.

It believes no single oracle: headers carry 2f+1 signatures, committees follow one another by such headers, the pool
leads to their root, and what is said of a session is proved. News of answers are passed on to whoever asked for them,
who checks them. In a network without a committee nothing of this happens, and every miner may bid.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId, SessionId
from protocol.core.machine import Channel, ChannelNumbers, Note, Send, SendAll
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest, verify
from protocol.light.committee_links import CommitteeLinks
from protocol.light.handovers import HandOverBook, HandOverReaders
from protocol.light.headers import HeaderTrust, place
from protocol.light.news import check_outcome, check_session
from protocol.light.pool import PoolFollower
from protocol.light.shelf import ReceiptShelf
from protocol.messages.committee import Certified
from protocol.messages.handover import HandOvers, HandOversAsked, HandOversPicked
from protocol.messages.results import (
    CommittedNews,
    Follow,
    LedgerNews,
    ObservedNews,
    OutcomeNews,
    SessionClose,
    SessionNews,
    SettledNews,
    SignedClose,
    SignedSession,
    Submit,
    Watch,
)
from protocol.roles.router.clients import Clients
from protocol.roles.router.state import Lease, Session
from protocol.roles.router.watched import Watched

RESEND_MS_MAX = 32_000
"""A reservation that the client's balance does not cover may become possible."""
HANDED_IN_MAX = 1_024
HANDED_IN_TIMES = 4
"""What is signed for the ledger by others is handed in so often: it is soon in, or does not hold."""
POOL_LAG_MS = 3_000
"""An oracle that is so long behind another one's headers is not asked for the pool any more."""


@dataclass(slots=True)
class _HandedIn:
    submit: Submit
    left: int


class Following:
    """See the module. ``sessions`` are the machine's own."""

    def __init__(
        self,
        book: HandOverBook | None,
        domain: Domain,
        params: Params,
        sessions: dict[SessionId, Session],
        clients: Clients,
        numbers: ChannelNumbers,
        shelf: ReceiptShelf | None = None,
    ) -> None:
        self._domain = domain
        self._params = params
        self._sessions = sessions
        self._clients = clients
        self._shelf = shelf
        """Where news of answers go as well, also of sessions that are over."""
        self._watched: dict[SessionId, Watched] = {}
        self._again: Deadlines[SessionId] = Deadlines()
        """When a session is to be submitted again."""
        self._handed_in: OrderedDict[int, _HandedIn] = OrderedDict()
        self._hand_in: Deadlines[int] = Deadlines()
        self._numbers = 0
        self._asked: NodeId | None = None
        """The oracle that tells the pool."""
        self._behind: tuple[int, tuple[int, int]] | None = None
        """Since when, and what header, another oracle has that is later than the pool."""
        self._pool: PoolFollower | None = None
        self._trust: HeaderTrust | None = None
        book = book or HandOverBook(Genesis("without a committee"))
        self._links = CommitteeLinks(numbers, book)
        self._store = book.store
        self._readers = HandOverReaders(book.store)
        if book.trust.members:
            self._trust = book.trust
            self._pool = PoolFollower(params, self._trust)
            self._links.aim(self._wanted(), 0)

    # The node pool

    @property
    def knows_pool(self) -> bool:
        """Whether it can be told who may bid; without a committee everybody may."""
        return self._pool is None or self._pool.header is not None

    def may_bid(self, miner: NodeId, model: bytes) -> bool:
        """Whether a miner may bid for sessions of a model. Spec: [POOL-GATE.1]"""
        return self._pool is None or self._pool.available(miner, model)

    def pool(self, model: bytes, advertised: int) -> int:
        """How many miners of a model may bid, of those that advertise it."""
        return advertised if self._pool is None else min(advertised, self._pool.count(model))

    @property
    def certified(self) -> Certified | None:
        """The latest final header."""
        return self._pool.certified if self._pool is not None else None

    def load(self) -> dict[str, int]:
        """Figures for status; none where there is no committee."""
        if self._pool is None:
            return {}
        epoch, height = place(self._pool.header) if self._pool.header is not None else (0, 0)
        reserved = sum(watched.reserved for watched in self._watched.values())
        return {"pool": len(self._pool), "epoch": epoch, "height": height, "sessions_reserved": reserved}

    # The committee

    def _wanted(self) -> tuple[NodeId, ...]:
        """The present committee, and the next as soon as it is known: its links stand when its turn comes."""
        seen = self._pool.newest.epoch if self._pool is not None and self._pool.newest is not None else 0
        return self._links.members([self._links.present(seen)])

    def _aim(self, now_ms: int) -> list[object]:
        """Follow the committee that is known now. Spec: [ROUTER-FOLLOWS.1]"""
        effects = self._links.aim(self._wanted(), now_ms)
        if self._asked is not None and self._asked not in self._links.oracles:
            effects += self._ask_another(now_ms)
        return [*effects, *self._open(now_ms)]

    def _handed_over(self, oracle: NodeId, message: HandOvers, now_ms: int) -> list[object]:
        """What it learns of committees it tells its clients. Spec: [HANDOVER-TOLD.1]"""
        known = self._links.trust.epoch
        effects = self._links.took(oracle, message, now_ms)
        if oracle == self._asked and not self._links.up(oracle):
            self._restart()
        for epoch in range(known, self._links.trust.epoch):
            hand_over = self._store.get(epoch)
            effects += self._readers.told(hand_over) if hand_over is not None else []
        return [*effects, *self._aim(now_ms)]

    def asked(self, channel: Channel, asked: HandOversAsked | HandOversPicked) -> list[object]:
        """A client wants hand-overs, now and as they come, or single ones, as it skips. Spec: [HANDOVER-PICKED.1]"""
        if isinstance(asked, HandOversPicked):
            return [Send(channel, self._store.found(asked))]
        return self._readers.asked(channel, asked)

    def page(self, channel: Channel, asked: HandOversAsked) -> list[object]:
        """A miner wants those that there are: it follows by itself, but may know no oracle that still runs."""
        return [Send(channel, self._store.page(asked.first))]

    def left(self, channel: Channel) -> None:
        """A client's stream is gone."""
        self._readers.gone(channel)

    # Links

    def owns(self, channel: Channel) -> bool:
        """Whether a stream leads to an oracle."""
        return self._links.oracle(channel) is not None

    def met(self, peer: NodeId, now_ms: int) -> list[object]:
        """A node can be reached."""
        self._links.hurry(peer, now_ms)
        return self._open(now_ms)

    def closed(self, channel: Channel, now_ms: int) -> list[object]:
        """The stream to an oracle is gone."""
        oracle = self._links.oracle(channel)
        self._links.closed(channel, now_ms)
        return self._ask_another(now_ms) if oracle == self._asked else []

    def next_deadline(self) -> int | None:
        """The earliest of links and of what is sent again."""
        behind_ms = self._behind[0] + POOL_LAG_MS if self._behind is not None else None
        clocks = (self._links.next_deadline(), self._again.next(), self._hand_in.next(), behind_ms)
        return min((at for at in clocks if at is not None), default=None)

    def expire(self, now_ms: int) -> list[object]:
        """Do what is due."""
        late = self._behind is not None and now_ms - self._behind[0] >= POOL_LAG_MS
        effects = self._ask_another(now_ms) if late else []
        effects += self._open(now_ms)
        for name in self._again.due(now_ms):
            effects += self._submit(name, now_ms)
        for number in self._hand_in.due(now_ms):
            effects += self._hand_in_again(number, now_ms)
        return effects

    def _open(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for oracle in self._links.due(now_ms):
            effects += self._links.open(oracle)
            if self._asked is None:
                self._asked = oracle
                self._restart()
            effects += self._links.send(oracle, Follow(oracle == self._asked))
            for message in self._all_told():
                effects += self._links.send(oracle, message)
        return effects

    def _all_told(self) -> Iterable[Message]:
        """What an oracle that just came has not heard."""
        for name, watched in self._watched.items():
            yield Watch(name)
            if watched.submitted is not None and not watched.reserved:
                yield Submit(sessions=(watched.submitted,))
        for handed_in in self._handed_in.values():
            yield handed_in.submit

    def _restart(self) -> None:
        assert self._pool is not None
        self._pool.restart()
        self._behind = None

    def _ask_another(self, now_ms: int) -> list[object]:
        """The pool is to be told by the next oracle that can be reached, from the start.

        On a new stream, so that nothing is on its way there that goes on from what it told before.
        """
        oracles, before = self._links.oracles, self._asked
        at = oracles.index(before) if before in oracles else 0
        found = next((each for each in (*oracles[at + 1 :], *oracles[:at]) if self._links.up(each)), None)
        self._restart()
        # If none can be reached, whoever can be first.
        self._asked = found
        if found is None:
            return []
        stops = self._links.send(before, Follow(pool=False)) if before is not None else []
        effects = [*stops, *self._links.break_off(found, now_ms)]
        self._links.hurry(found, now_ms)
        return [*effects, *self._open(now_ms), Note("router.pool-asked", (("oracle", found.hex()),))]

    # What oracles say

    def received(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        """An oracle speaks; one that breaks a rule is left for a while."""
        oracle = self._links.oracle(channel)
        assert oracle is not None
        self._links.heard(oracle)
        if self._links.catches_up(oracle) and not isinstance(message, HandOvers):
            return []  # of an epoch that is not known here; what it says is said again on a new stream
        try:
            match message:
                case HandOvers():
                    return self._handed_over(oracle, message, now_ms)
                case LedgerNews():
                    return self._ledger(oracle, message, now_ms)
                case SessionNews():
                    return self._reserved(message)
                case ObservedNews() | OutcomeNews() | SettledNews():
                    return self._passed_on(message, oracle)
            raise RemoteProtocolError(f"{type(message).__name__} is not for a router")
        except RemoteProtocolError as error:
            note = Note("router.oracle-broke-rule", (("oracle", oracle.hex()), ("why", str(error))))
            left = self._links.break_off(oracle, now_ms)
            return [note, *left, *(self._ask_another(now_ms) if oracle == self._asked else [])]

    def _ledger(self, oracle: NodeId, news: LedgerNews, now_ms: int) -> list[object]:
        pool = self._pool
        assert pool is not None
        epoch = pool.newest.epoch if pool.newest is not None else 0
        if oracle == self._asked:
            pool.take(news)
        else:
            pool.see(news.certified)
        self._compare(pool, now_ms)
        return [] if pool.newest is None or pool.newest.epoch == epoch else self._turned(news, now_ms)

    def _compare(self, pool: PoolFollower, now_ms: int) -> None:
        """Whether the oracle that is asked for the pool may hold back what another one has. Spec: [POOL-FOLLOW.1]"""
        newest, reached = pool.newest, place(pool.header) if pool.header is not None else (0, 0)
        if newest is None or reached >= place(newest):
            self._behind = None
        elif self._behind is None or reached >= self._behind[1]:
            self._behind = (now_ms, place(newest))

    def _turned(self, news: LedgerNews, now_ms: int) -> list[object]:
        """An epoch has begun: orders of clients are of it from now on."""
        channels = tuple(self._clients.channels)
        told: list[object] = [SendAll(channels, LedgerNews(news.certified, ()))] if channels else []
        return [*told, *self._aim(now_ms)]

    def _reserved(self, news: SessionNews) -> list[object]:
        """What the ledger holds for a session: its client and its miners learn it. Spec: [ROUTER-RESERVES.1]"""
        name = SessionId(Digest(news.session))
        watched, session = self._watched.get(name), self._sessions.get(name)
        if watched is None or session is None or self._trust is None:
            return []
        header, record = check_session(self._trust, news)
        if place(header) <= watched.as_of:
            return []
        known = watched.latest is not None and watched.latest.proof.value == news.proof.value
        watched.latest, watched.as_of = news, place(header)
        session.reserved = watched.reserved = record is not None
        if record is not None:
            self._again.clear(name)
        if known or record is None:
            return []
        held = (*session.leases.values(), *session.granted.values())
        channels = [lease.channel for lease in held] + ([session.hedge.lease.channel] if session.hedge else [])
        told: list[object] = [Send(channel, news, key=name) for channel in channels]
        return [*told, *self._tell(session, news)]

    def _passed_on(self, news: ObservedNews | OutcomeNews | SettledNews, oracle: NodeId) -> list[object]:
        if self._shelf is not None:
            self._shelf.news(news)
        name = SessionId(Digest(news.session if isinstance(news, ObservedNews) else news.outcome.session))
        watched, session = self._watched.get(name), self._sessions.get(name)
        if watched is None or session is None or self._trust is None:
            return []
        if not isinstance(news, ObservedNews):
            check_outcome(self._trust, news)
        return self.pass_on(session, news) if watched.is_new(news, oracle) else []

    # Sessions

    def opened(self, session: Session, now_ms: int) -> list[object]:
        """A session was taken: the ledger is to reserve what it may cost. Spec: [ROUTER-RESERVES.1]"""
        if self._pool is None:
            return []
        opening = session.opening
        signed = SignedSession(opening, session.signature) if opening.cap_wei else None
        self._watched[session.id] = Watched(signed, self._params.result_resend_ms)
        session.reserved = False
        return [*self._links.send_all(Watch(session.id)), *self._submit(session.id, now_ms)]

    def _submit(self, name: SessionId, now_ms: int) -> list[object]:
        watched = self._watched.get(name)
        if watched is None or watched.submitted is None or watched.reserved:
            return []
        self._again.set(name, now_ms + watched.delay_ms)
        watched.delay_ms = min(2 * watched.delay_ms, RESEND_MS_MAX)
        return self._links.send_all(Submit(sessions=(watched.submitted,)))

    def closed_by_client(self, session: Session, signature: bytes, now_ms: int) -> list[object]:
        """Its client orders nothing more, and wants back what is left. Raises SignatureError."""
        close = SessionClose(session.id)
        verify(typed_digest(self._domain, close), signature, session.opening.client, "the close")
        return self.hand_in(Submit(closes=(SignedClose(close, signature),)), now_ms)

    def ended(self, session: Session) -> None:
        """Nobody waits for news of it any more."""
        self._watched.pop(session.id, None)
        self._again.clear(session.id)

    def brief(self, session: Session, lease: Lease) -> list[object]:
        """A miner that was leased for a session learns what is reserved for it."""
        watched = self._watched.get(session.id)
        if watched is None or watched.latest is None or not watched.reserved:
            return []
        return [Send(lease.channel, watched.latest, key=session.id)]

    def committed(self, session: Session, news: CommittedNews) -> list[object]:
        """A miner of the session says that it has committed. Raises RemoteProtocolError for another session's."""
        if news.signed.commit.session != session.id:
            raise RemoteProtocolError("a commit of another session")
        if self._shelf is not None:
            self._shelf.news(news)
        return self.pass_on(session, news)

    def pass_on(self, session: Session, news: Message) -> list[object]:
        """News for its client, whether it is there or comes back. Nothing of them is trusted."""
        watched = self._watched.get(session.id)
        if watched is None:
            return []
        watched.keep(news)
        return self._tell(session, news)

    def repeat(self, session: Session) -> list[object]:
        """A client is back: it may have missed any of them."""
        watched = self._watched.get(session.id)
        if watched is None:
            return []
        latest = [watched.latest] if watched.latest is not None and watched.reserved else []
        return [effect for news in (*watched.news, *latest) for effect in self._tell(session, news)]

    @staticmethod
    def _tell(session: Session, news: Message) -> list[object]:
        return [] if session.client is None else [Send(session.client, news, key=session.id)]

    # What others signed for the ledger

    def hand_in(self, submit: Submit, now_ms: int) -> list[object]:
        """Hand it to every oracle, now and a few times more."""
        if self._pool is None:
            return []
        self._numbers += 1
        self._handed_in[self._numbers] = _HandedIn(submit, HANDED_IN_TIMES - 1)
        self._hand_in.set(self._numbers, now_ms + self._params.result_resend_ms)
        if len(self._handed_in) > HANDED_IN_MAX:
            oldest, _ = self._handed_in.popitem(last=False)
            self._hand_in.clear(oldest)
        return self._links.send_all(submit)

    def _hand_in_again(self, number: int, now_ms: int) -> list[object]:
        handed_in = self._handed_in[number]
        handed_in.left -= 1
        if handed_in.left:
            self._hand_in.set(number, now_ms + self._params.result_resend_ms)
        else:
            del self._handed_in[number]
        return self._links.send_all(handed_in.submit)
