"""Protocol ``results``: what miners, routers and clients bring an oracle, and what they are told.

Commits and openings go to the desk (``results.observing``), what others have signed for the ledger into the outbox; the
machine signs what comes out. Headers, outcomes and reservations are told only as they stand in finalized blocks, with
their proofs; batches as soon as they are held.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocol.committee.cut import content_bytes_max
from protocol.committee.effects import COMMITTEE, Settled
from protocol.committee.simplex import Simplex
from protocol.committee.storage import Record
from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NOBODY, NodeId
from protocol.core.machine import Channel, Close, Note, Persist, Send
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.core.sparse import EMPTY_TREE
from protocol.ledger.records import Section
from protocol.ledger.state import State
from protocol.messages.committee import Certified, SignedBatch
from protocol.messages.handover import HandOversAsked
from protocol.messages.results import (
    CommitMessage,
    Commits,
    Follow,
    ObservedNews,
    Opening,
    RevealAsked,
    RevealMessage,
    SessionNews,
    Submit,
    Watch,
)
from protocol.results.closed_tasks import CLOSED
from protocol.results.evidence import ResultEvidence, observations_of
from protocol.results.findings import CommitsClosed, Contradicted, Dropped, Finding, Observed, Reopened
from protocol.results.observing import OPENINGS_MAX, Desk
from protocol.results.papers import Lane
from protocol.roles.oracle.checkpoints import Checkpoints
from protocol.roles.oracle.earnings import Earnings
from protocol.roles.oracle.followers import Final, Followers
from protocol.roles.oracle.handing_over import HandingOver
from protocol.roles.oracle.ledger_view import Item, LedgerView
from protocol.roles.oracle.outbox import Outbox
from protocol.roles.oracle.outcomes import Outcomes, decided
from protocol.roles.oracle.recent import RecentFinals
from protocol.roles.oracle.syncing import Load
from protocol.roles.oracle.watchers import Watchers

STREAMS_MAX = 4_096
STREAMS_OF_PEER_MAX = 4
BATCHES_AT_ONCE_MAX = 64
"""Batches of a session that are told at once to who begins to watch it."""
LATER_MAX = 4_096
REPEATS_MAX = 64
"""Lanes whose commits are passed on at a time to members that have not spoken of them."""


@dataclass(frozen=True, slots=True)
class Convict:
    """Somebody is to be convicted: the machine tells everybody."""

    evidence: ResultEvidence


@dataclass(frozen=True, slots=True)
class Here:
    """Where the node is: what the ledger says, and its place in the present committee of so many."""

    view: LedgerView
    place: int | None
    size: int


class Results:
    """See the module. Spec: [RESULTS-STREAMS.1]"""

    def __init__(self, desk: Desk, outbox: Outbox, outcomes: Outcomes, load: Load) -> None:
        self.desk = desk
        self.outbox = outbox
        self.outcomes = outcomes
        self._load = load
        self.followers = Followers()
        self.hand_overs = HandingOver(load)
        self.watchers = Watchers()
        self.chain = Checkpoints(load, outcomes, self.watchers)
        """What the contract has accepted."""
        self._streams: dict[Channel, NodeId] = {}
        self._of_peer: Counter[NodeId] = Counter()
        self.final: Final | None = None
        """The last header, if its state is known here."""
        self.recent = RecentFinals()
        self.earnings = Earnings(load)
        self._certified: Certified | None = None
        """The last header, be its state known or not: enough to prove outcomes."""
        self._stopped = False
        self._later: dict[Lane, int] = {}
        """Openings that were taken of lanes which were decided before."""
        self._told = 0
        """Outcomes up to here have been told."""

    def load(self) -> dict[str, int]:
        """How much of everything is held, for the node's operator."""
        lanes = [lane for _, _, lane in self.desk.open.all()]
        return {
            "lanes_open": len(lanes),
            "lanes_observed": sum(lane.signed for lane in lanes),
            "openings_held": self.outbox.openings,
            "items_waiting": self.outbox.items,
            "streams": len(self._streams),
            "followers": len(self.followers),
            "watches": len(self.watchers),
        }

    # Streams

    def opened(self, channel: Channel, peer: NodeId) -> list[object]:
        """A peer opened a stream."""
        if self._stopped or len(self._streams) >= STREAMS_MAX or self._of_peer[peer] >= STREAMS_OF_PEER_MAX:
            return [Close(channel)]
        self._streams[channel] = peer
        self._of_peer[peer] += 1
        return []

    def serves(self, channel: Channel) -> bool:
        """Whether a stream is one of these."""
        return channel in self._streams

    def closed(self, channel: Channel) -> None:
        """A stream is gone."""
        peer = self._streams.pop(channel, None)
        if peer is not None:
            self._of_peer[peer] -= 1
            if not self._of_peer[peer]:
                del self._of_peer[peer]
            self.followers.gone(channel)
            self.hand_overs.gone(channel)
            self.watchers.gone(channel)

    def stop(self) -> list[object]:
        """Nothing may leave any more: every stream is closed."""
        self._stopped = True
        channels = list(self._streams)
        for channel in channels:
            self.closed(channel)
        return [Close(channel) for channel in channels]

    def received(self, channel: Channel, message: Message, here: Here, now_ms: int) -> list[object]:
        """A message on one of these streams; what breaks a rule ends it."""
        try:
            return self._received(channel, message, here, now_ms)
        except RemoteProtocolError as error:
            peer = self._streams[channel]
            self.closed(channel)
            return [Close(channel), Note("oracle.broke-rule", (("peer", peer.hex()), ("why", str(error))))]

    def _received(self, channel: Channel, message: Message, here: Here, now_ms: int) -> list[object]:
        peer = self._streams[channel]
        match message:
            case CommitMessage():
                commit = message.signed.commit
                told = self._told_again((commit.session, commit.task, commit.lane), channel, here.view)
                if told is not None:
                    return told
                return self._do(self.desk.committed(message, peer, channel, here.view, now_ms), here, now_ms)
            case RevealMessage():
                return self._revealed(channel, message, here, now_ms)
            case Submit():
                return self._submitted(message, peer, here, now_ms)
            case HandOversAsked():
                return self.hand_overs.asked(channel, message)
            case Follow():
                return self.followers.follow(channel, message.pool)
            case Watch():
                return self._watched(channel, message.session)
        raise RemoteProtocolError(f"{type(message).__name__} does not belong on a stream of results")

    def passed_on(self, peer: NodeId, message: CommitMessage | RevealMessage, here: Here, now_ms: int) -> list[object]:
        """A member passes on what it has of a lane. What it holds for valid need not be so here."""
        try:
            if isinstance(message, CommitMessage):
                found = self.desk.committed(message, peer, None, here.view, now_ms)
            else:
                found = self.desk.revealed(message, None, now_ms)
        except RemoteProtocolError:
            return []
        return self._do(found, here, now_ms)

    def gossiped(self, commits: Commits, here: Here, now_ms: int) -> list[object]:
        """Commits without papers."""
        return self._do(self.desk.gossiped(commits, here.view, now_ms), here, now_ms)

    def _revealed(self, channel: Channel, message: RevealMessage, here: Here, now_ms: int) -> list[object]:
        reveal = message.signed.reveal
        lane: Lane = (reveal.session, reveal.task, reveal.lane)
        if not here.view.decided(lane):
            told = self._told_again(lane, channel, here.view)
            return told if told is not None else self._do(self.desk.revealed(message, channel, now_ms), here, now_ms)
        # Later acks bring more, as long as the ledger remembers the lane.
        if self._later.get(lane, 0) < OPENINGS_MAX and here.view.takes(message.opening):
            self._add(message.opening, self._streams[channel], here, now_ms)
            self._later[lane] = self._later.pop(lane, 0) + 1
            if len(self._later) > LATER_MAX:
                del self._later[next(iter(self._later))]
        return self._told_again(lane, channel, here.view) or []

    def _told_again(self, lane: Lane, channel: Channel, view: LedgerView) -> list[object] | None:
        """The outcome of a lane that is final; None if there is none yet."""
        index = None if self.desk.open.get(lane) is not None else self.outcomes.index(lane)
        return None if index is None else self._outcome_news(index, (channel,))

    def _submitted(self, message: Submit, peer: NodeId, here: Here, now_ms: int) -> list[object]:
        items: Iterable[Item] = (
            *message.sessions,
            *message.closes,
            *message.withdrawals,
            *message.enlistments,
            *message.entries,
        )
        for item in items:
            if here.view.takes(item):
                self._add(item, peer, here, now_ms)
        return []

    def _add(self, item: Item, peer: NodeId, here: Here, now_ms: int) -> None:
        place, size = here.place, here.size
        home = here.view.homes.get(item.order.home_epoch, ()) if isinstance(item, Opening) else ()
        if self.desk.me in home:
            # An opening comes with its lane's value, from whoever observes it, member still or not.
            place, size = home.index(self.desk.me), len(home)
        self.outbox.add(item, peer, place, size, now_ms)

    def _watched(self, channel: Channel, session: bytes) -> list[object]:
        """What is known of a session now, to who begins to watch it."""
        if not self.watchers.watch(channel, session):
            return []
        effects = self._session_news(session, (channel,), self.final, also_none=False)
        batches = list(self.desk.hearsay.batches(session))[-BATCHES_AT_ONCE_MAX:]
        effects += [Send(channel, ObservedNews(session, signed), key=COMMITTEE) for signed in batches]
        for index in self.outcomes.of_session(session):
            effects += self._outcome_news(index, (channel,))
            effects += self.chain.watched(channel, index, session)
        return effects

    # What oracles say, and what is final

    def heard(self, signed: SignedBatch, mine: bool, here: Here, now_ms: int) -> list[object]:
        """A batch is new here. Its own is told when it is durable."""
        found = self._do(self.desk.heard(signed, here.view, now_ms), here, now_ms)
        sessions = dict.fromkeys(value.session for value in observations_of(signed))
        key = COMMITTEE if mine else b""
        told = [
            Send(channel, ObservedNews(session, signed), key=key)
            for session in sessions
            for channel in self.watchers.of(session)
        ]
        return [*found, *told]

    def executed(self, states: Sequence[object]) -> list[object]:
        """Blocks are about to be settled: their outcomes are durable first."""
        records = (*self.outcomes.records(states), *self.earnings.records(states))
        return [Persist(COMMITTEE, records, vital=False)] if records else []

    def begin(
        self, here: Here, final: Certified | None, closing: Certified | None, kept: Iterable[SignedBatch], now_ms: int
    ) -> list[object]:
        """Take up what this oracle said before, and the commits that it closed. Spec: [OBSERVE-ONCE.2]

        Args:
            final: The latest finalization of this epoch; its block may be ahead of where the ledger stands.
            closing: What closed the epoch before.
        """
        state = here.view.state
        if state is None:
            return []
        self._told = state.mountain.count - (len(state.decided) if state.turned else 0)
        self._certified = final or closing
        if final is not None and final.header is not None and final.header.ledger_root == state.roots.ledger_root:
            self.final = Final(final, state)
            self.recent.add(self.final)
        handed_over = self.hand_overs.settled(closing, state.homes[state.epoch]) if closing is not None else []
        if self.final is not None:
            handed_over += self.hand_overs.settled(self.final.certified, state.next_members)
        for home_epoch, value in here.view.said_by(self.desk.me):
            self.desk.said(home_epoch, value)
        found = [item for signed in kept for item in self.desk.heard(signed, here.view, now_ms)]
        found += self.desk.resume(self._load(CLOSED), here.view, now_ms)
        return [*handed_over, *self._do(found, here, now_ms)]

    def settled(self, effect: Settled, here: Here, now_ms: int) -> list[object]:
        """Blocks are final."""
        state = effect.states[-1]
        if not isinstance(state, State):
            return []
        self._certified = Certified(effect.certificate, effect.headers[-1])
        before, self.final = self.final, Final(self._certified, state)
        self.recent.add(self.final)
        effects = self.hand_overs.settled(self._certified, state.next_members)
        effects += self.followers.settled(self.final)
        lanes: list[Lane] = []
        for passed in effect.states:
            assert isinstance(passed, State)
            for index, outcome in decided(passed):
                lane: Lane = (outcome.session, outcome.task, outcome.lane)
                if index >= self._told:
                    self._told = index + 1
                    effects += self._outcome_news(index, self._concerned(lane))
                    self.chain.decided(index, lane[0])
                    lanes.append(lane)
        effects += self.chain.tell()
        self.outbox.settled(lanes)
        effects += self._do(self.desk.decided(lanes, now_ms), here, now_ms)
        older = EMPTY_TREE if before is None else before.state.tree(Section.SESSIONS)
        changed = dict(state.tree(Section.SESSIONS).diff(older))
        self.outbox.reserved({session for session, value in changed.items() if older.get(session) is None and value})
        for session in changed:
            effects += self._session_news(session, self.watchers.of(session), self.final, also_none=True)
        return effects

    def _concerned(self, lane: Lane) -> tuple[Channel, ...]:
        held = self.desk.open.get(lane)
        sources = [Channel(source) for source in held.sources] if held is not None else []
        return tuple(dict.fromkeys((*self.watchers.of(lane[0]), *(at for at in sources if at in self._streams))))

    def _outcome_news(self, index: int, channels: Sequence[Channel]) -> list[object]:
        news = None if self._certified is None or not channels else self.outcomes.news(index, self._certified)
        return [] if news is None else [Send(channel, news, key=COMMITTEE) for channel in channels]

    def _session_news(
        self, session: bytes, channels: Sequence[Channel], final: Final | None, *, also_none: bool
    ) -> list[object]:
        if final is None or not channels:
            return []
        proof = final.state.prove(Section.SESSIONS, session)
        if proof.value is None and not also_none:
            return []
        return [Send(channel, SessionNews(session, proof, final.certified), key=COMMITTEE) for channel in channels]

    def turned(self, here: Here, now_ms: int) -> list[object]:
        """An epoch has begun."""
        self.outbox.keep(here.view.homes)
        return self._do(self.desk.turned(here.view), here, now_ms)

    # Time

    def on_time(self, here: Here, now_ms: int) -> list[object]:
        """Windows that end."""
        return self._do(self.desk.on_time(here.view, now_ms), here, now_ms)

    def unheard(self, here: Here, before_ms: int) -> list[tuple[NodeId, Message]]:
        """What to pass on to members that have not spoken of a lane, a while after this oracle has: its miner may not
        reach them. Spec: [COMMIT-PASSED-ON.1]"""
        found: list[tuple[NodeId, Message]] = []
        for number, (lane, members) in enumerate(self.desk.unheard(here.view, before_ms)):
            if number >= REPEATS_MAX:
                break
            for message in (lane.committed, lane.revealed):
                if message is not None:
                    found += [(member, message) for member in sorted(members)]
        return found

    # Findings

    def _do(self, found: Iterable[Finding], here: Here, now_ms: int) -> list[object]:
        effects: list[object] = []
        for finding in found:
            match finding:
                case Observed():
                    self.outbox.value(finding.home_epoch, finding.lane)
                    self._open(finding.opening, here, now_ms)
                case Reopened():
                    self._open(finding.opening, here, now_ms)
                case CommitsClosed():
                    effects += self._ask(finding)
                case Dropped(key=key):
                    effects.append(_persist((key, None)))
                case Contradicted(evidence=evidence):
                    effects.append(Convict(evidence))
        return effects

    def _open(self, opening: Opening | None, here: Here, now_ms: int) -> None:
        if opening is not None:
            self._add(opening, NOBODY, here, now_ms)

    def _ask(self, closed: CommitsClosed) -> list[object]:
        """No more commits: when that is durable, the miners are asked to open theirs. Spec: [REVEAL-ASKED.1]"""
        durable = [] if closed.record is None else [_persist(closed.record)]
        asked = RevealAsked(*closed.task)
        sources = [Channel(source) for source in closed.sources]
        return [*durable, *(Send(at, asked, key=COMMITTEE) for at in sources if at in self._streams)]


def _persist(record: Record) -> Persist:
    return Persist(COMMITTEE, (record,), vital=False)


def open_results(domain: Domain, params: Params, me: NodeId, load: Load) -> Results:
    """With nothing in it."""
    desk = Desk(domain, params, me)
    return Results(desk, Outbox(params, desk, content_bytes_max(params)), Outcomes(load), load)


def here(domain: Domain, params: Params, simplex: Simplex) -> Here:
    """Where consensus stands now."""
    return Here(LedgerView(domain, params, simplex.tree.base.state), simplex.me, len(simplex.committee.members))
