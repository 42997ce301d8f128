"""From a ranking to leases: asking miners for slots, best first, and the numbered assignments that name them.

A miner alone decides over its slots, so a busy one just moves the question to the next in rank. Each lane has a
miner of its own; where lane 0 loses its miner, those of the other lanes are asked first, because their caches hold
the prompt, and a takeover ends their own lane.
"""

from dataclasses import dataclass, field

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NO_GENERATION, NOBODY, Generation, NodeId, SessionId, Signature
from protocol.core.machine import Channel, ChannelNumbers, Close, Note, Open, Persist, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest, verify
from protocol.messages.envelope import envelope_digest
from protocol.messages.sessions import (
    Assignment,
    Bid,
    BidSet,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    LeaseRequest,
    SessionReady,
    SignedTerm,
)
from protocol.roles.router.state import Ask, Assigned, Lease, RouterSettings, Session
from protocol.session.adverts import AdvertBook
from protocol.session.lifecycle import SessionFact, SessionState

LeaseName = tuple[str, SessionId, Channel]
"""("lease" | "hurry", session, stream): a miner's time to answer, and when another one is asked beside it."""

ASKED_AT_ONCE_MAX = 2
HURRY_SHARE = 4
"""A miner that has not answered in a quarter of its time is no longer waited for alone."""
ASSIGNMENT_RECORDS = b"assignment/"
"""What the names of the records of assignment numbers start with; the session's id follows."""
TERM_NUMBERS = 1_024
"""Assignments of one router's term: the next router's numbers begin above all that it may have signed."""


@dataclass(frozen=True, slots=True)
class Leasing:
    """The rules of leases and assignments, over state that the machine owns."""

    settings: RouterSettings
    domain: Domain
    params: Params
    sign: Sign
    book: AdvertBook
    deadlines: Deadlines[LeaseName]
    miners: dict[Channel, SessionId]
    """Streams to miners, and the session each belongs to."""
    peers: dict[Channel, NodeId]
    numbers: dict[SessionId, int]
    """The highest assignment number that was signed for each session."""
    channels: ChannelNumbers = field(default_factory=ChannelNumbers)
    expiring: Deadlines[SessionId] = field(default_factory=Deadlines)
    """When the number of a session need not be remembered any more."""

    def fill(self, session: Session, now_ms: int) -> list[object]:
        """Ask somebody for every lane that has nobody and for which nobody is asked. Spec: [LANES-FILL.1]"""
        effects: list[object] = []
        asked = {ask.lane for ask in session.asks.values() if not ask.hedge}
        held = session.leases.keys() | session.granted.keys()
        # Once the session has begun lane 0 goes first: nobody it may need is spent on another lane.
        lanes = 1 if session.was_ready and 0 not in held else session.opening.lanes
        for lane in range(lanes):
            if lane not in held and lane not in asked:
                effects += self.ask_next(session, lane, now_ms)
        return effects

    def ask_next(self, session: Session, lane: int, now_ms: int, *, hedge: int = 0) -> list[object]:
        """Ask the best miner that was not asked yet for a slot, to start order ``hedge`` there if that is not 0;
        nothing if there is none.
        """
        miner = self._next_for(session, lane, hedge=bool(hedge))
        current = session.round
        if miner is None or current is None:
            return []
        channel = self.channels.take()
        session.asks[channel] = Ask(miner, lane, current.bids[miner][0].price_wei, hedge)
        self.miners[channel], self.peers[channel] = session.id, miner
        answer_ms = self.params.lease_request_timeout_ms
        self.deadlines.set(("lease", session.id, channel), now_ms + answer_ms)
        if not hedge:
            self.deadlines.set(("hurry", session.id, channel), now_ms + max(1, answer_ms // HURRY_SHARE))
        bid = envelope_digest(self.domain, current.bids[miner][1].bid, Bid)
        request = LeaseRequest(session.opening, session.signature, bid, session.term)
        return [Open(channel, miner, "task"), Send(channel, request)]

    def _next_for(self, session: Session, lane: int, *, hedge: bool) -> NodeId | None:
        current = session.round
        if current is None or session.life.state not in (SessionState.LEASING, SessionState.READY):
            return None
        if lane == 0 and session.was_ready and not hedge:
            for _, lease in sorted(session.leases.items()):
                if lease.miner not in session.tried and lease.miner in current.bids:
                    session.tried.add(lease.miner)
                    return lease.miner
        busy = {lease.miner for lease in (*session.leases.values(), *session.granted.values())}
        while current.candidates:
            miner = current.candidates.pop(0)
            if miner not in busy:
                return miner
        return None

    def hurry(self, session: Session, channel: Channel, now_ms: int) -> list[object]:
        """A miner takes long to answer: the next one is asked beside it, and whoever grants first is taken."""
        ask = session.asks.get(channel)
        if ask is None or ask.lane in session.leases or ask.lane in session.granted:
            # Somebody else was faster: nobody is waited for any more.
            return []
        beside = sum(other.lane == ask.lane for other in session.asks.values())
        return self.ask_next(session, ask.lane, now_ms) if beside < ASKED_AT_ONCE_MAX else []

    def granted(self, session: Session, channel: Channel, grant: LeaseGrant) -> Lease | None:
        """A miner holds a slot; None, and it is given back, if somebody else was faster.

        Raises RemoteProtocolError for a grant of another session.
        """
        if grant.session != session.id:
            raise RemoteProtocolError("the grant is for another session")
        ask = self.answered(session, channel)
        if not ask.hedge and (ask.lane in session.leases or ask.lane in session.granted):
            return None
        lease = Lease(ask.miner, channel, Generation(grant.generation), ask.price_wei, grant.orders)
        if not ask.hedge:
            session.granted[ask.lane] = lease
        return lease

    def answered(self, session: Session, channel: Channel) -> Ask:
        """Nothing more is awaited of the miner that was asked on this stream."""
        self.deadlines.clear(("lease", session.id, channel))
        self.deadlines.clear(("hurry", session.id, channel))
        return session.asks.pop(channel)

    def refused(self, session: Session, channel: Channel, why: LeaseBusy | str, now_ms: int) -> list[object]:
        """The miner asked said no, did not answer, or is gone: the next is asked."""
        ask = self.answered(session, channel)
        self.forget(channel)
        detail = why.detail if isinstance(why, LeaseBusy) else why
        note = Note("router.lease-refused", (("miner", ask.miner.hex()), ("why", detail)))
        return [note] if ask.hedge else [note, *self.fill(session, now_ms)]

    @staticmethod
    def rank_again(session: Session, miner: NodeId) -> None:
        """A miner that wanted its slot back, with nothing to do, may be asked once more in this round, last."""
        current, asked = session.round, {ask.miner for ask in session.asks.values()}
        if current is not None and miner in current.bids and miner not in {*current.candidates, *asked}:
            current.candidates.append(miner)

    def complete(self, session: Session) -> bool:
        """Whether what was granted makes an assignment: every lane at first, later whatever is there with lane 0."""
        if not session.granted:
            return False
        if session.was_ready:
            return 0 in session.granted or 0 in session.leases
        return len(session.granted) == session.opening.lanes

    def barren(self, session: Session) -> bool:
        """Whether nobody is left to ask for a lane without which the session cannot go on."""
        if session.life.state is not SessionState.LEASING or self.complete(session):
            return False
        asked = {ask.lane for ask in session.asks.values() if not ask.hedge}
        lanes = range(1 if session.was_ready else session.opening.lanes)
        return any(lane not in asked and lane not in session.granted for lane in lanes)

    def assign(self, session: Session) -> list[object]:
        """Name the leases in a new assignment, durably numbered, and tell the client.

        Spec: [ASSIGN-NUMBER.1] [MACHINE-PERSIST.1]
        """
        leases = {**session.leases, **session.granted}
        effects: list[object] = []
        if 0 in session.granted:
            # The miner of another lane that took lane 0 over ended its own.
            for lane, lease in list(session.leases.items()):
                if lane > 0 and lease.miner == session.granted[0].miner:
                    del leases[lane]
                    effects += self.drop(session, lease)
            session.tried.clear()
            session.life.take(SessionFact.ASSIGNED)
        session.leases = leases
        session.granted = {}
        assigned, persist = self.sign_assignment(session, leases)
        session.assigned = assigned
        return [*effects, persist, *self.announce(session)]

    def sign_assignment(self, session: Session, leases: dict[int, Lease]) -> tuple[Assigned, Persist]:
        """The next assignment of a session, and what is durable before anybody sees it. Spec: [ASSIGN-NUMBER.1]"""
        current = session.round
        assert current is not None and current.bid_set is not None
        first = session.term.term.after if session.term is not None else 0
        number = max(self.numbers.get(session.id, 0), first) + 1
        self.numbers[session.id] = number
        # After this no router takes the SessionOpen again.
        self.expiring.set(session.id, session.opening.expires_ms + self.params.clock_skew_ms_max)
        lanes = [leases.get(lane) for lane in range(session.opening.lanes)]
        assignment = Assignment(
            session=session.id,
            number=number,
            router=self.settings.node,
            miners=tuple(lease.miner if lease else NOBODY for lease in lanes),
            generations=tuple(lease.generation if lease else NO_GENERATION for lease in lanes),
            bid_set=envelope_digest(self.domain, current.bid_set, BidSet),
        )
        signature = Signature(self.sign(typed_digest(self.domain, assignment)))
        record = assignment_record(session, number)
        assigned = Assigned(assignment, signature, current.bid_set)
        streams = leases.get(0)
        if streams is not None and streams.first is None:
            streams.first = assigned
        return assigned, Persist(session.id, (record,))

    def announce(self, session: Session) -> list[object]:
        """Tell the client of the latest assignment."""
        assigned = session.assigned
        assert assigned is not None
        advert = self.book.get(NodeId(assigned.assignment.miners[0]))
        addresses = advert.addresses if advert is not None else ()
        ready = SessionReady(session.id, assigned.assignment, assigned.signature, assigned.bid_set, addresses)
        return session.tell(ready)

    def used_up(self, session: Session) -> bool:
        """Whether the router's term has no number left: what is above may belong to the next one."""
        first = session.term.term.after if session.term is not None else 0
        return self.numbers.get(session.id, 0) >= first + TERM_NUMBERS

    def superseded(self, session: Session, signed: SignedTerm | None) -> bool:
        """Whether the client's word, as a miner shows it, is that another router serves the session now.

        Spec: [ROUTER-TERM.1]
        """
        own = session.term.term.after if session.term is not None else 0
        if signed is None or signed.term.session != session.id or signed.term.after <= own:
            return False
        verify(typed_digest(self.domain, signed.term), signed.signature, session.opening.client, "the router's term")
        return True

    def withdraw(self, session: Session) -> list[object]:
        """Nobody who was asked, or has granted, is wanted any more."""
        effects: list[object] = []
        for channel in list(session.asks):
            self.answered(session, channel)
            self.forget(channel)
            effects.append(Close(channel))
        granted, session.granted = session.granted, {}
        return effects + [effect for lease in granted.values() for effect in self.release(session, lease)]

    def release_all(self, session: Session) -> list[object]:
        """Give back every slot that is held, asked for or granted."""
        leases, session.leases = session.leases, {}
        held = [effect for lease in leases.values() for effect in self.release(session, lease)]
        return held + self.withdraw(session)

    def release(self, session: Session, lease: Lease) -> list[object]:
        """Tell a miner that its slot is free."""
        if lease.channel not in self.miners:
            return []
        return [Send(lease.channel, LeaseRelease(session.id), key=session.id), *self.drop(session, lease)]

    def drop(self, session: Session, lease: Lease) -> list[object]:
        """Close a miner's stream, if it still stands; to the miner it is the lease itself."""
        if lease.channel not in self.miners:
            return []
        self.forget(lease.channel)
        return [Close(lease.channel, key=session.id)]

    def forget(self, channel: Channel) -> None:
        """A stream to a miner is gone."""
        self.miners.pop(channel, None)
        self.peers.pop(channel, None)

    def forget_expired(self, now_ms: int) -> list[object]:
        """Drop the numbers of sessions that nobody can open again."""
        effects: list[object] = []
        for session in self.expiring.due(now_ms):
            self.numbers.pop(session, None)
            effects.append(Persist(session, ((_record_name(session), None),)))
        return effects


def assignment_record(session: Session, number: int) -> tuple[bytes, bytes]:
    """What is durable before an assignment leaves: its number, kept until the session expires."""
    return (_record_name(session.id), number.to_bytes(8, "big") + session.opening.expires_ms.to_bytes(8, "big"))


def _record_name(session: SessionId) -> bytes:
    return ASSIGNMENT_RECORDS + session
