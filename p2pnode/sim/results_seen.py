"""What was said in a ``results`` world, and to whom: orders and acks that clients signed, heads, commits and openings
as each oracle was given them, and every value that an oracle signed.

It is no checker of anything: the others ask it. Nothing here looks into a machine.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from p2pnode.sim.checkers import Checker
from p2pnode.sim.disk import Batch as Records
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from protocol.committee.certificates import verify_batch
from protocol.committee.cut import Cut
from protocol.core.codec import Message, unpack
from protocol.core.errors import DecodeError, RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import GossipReceived, Persist, Received, Send, SendAll
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.committee import BODY_BYTES_MAX, CONTENT_BYTES_MAX, Offer, Propose, SignedBatch
from protocol.messages.results import (
    CommitMessage,
    Commits,
    CommittedNews,
    Content,
    Observation,
    ObservedNews,
    Opening,
    Papers,
    RevealAsked,
    RevealMessage,
    SignedCommit,
    SignedReveal,
    Submit,
)
from protocol.messages.sessions import LANES_MAX, OpenSession, SessionOpen, session_id
from protocol.messages.tasks import Ack, AckMessage, LaneEnded, SegmentHead, SegmentStart, SubmitTask, TaskOrder
from protocol.results.closed_tasks import CLOSED, unpack_closed
from protocol.results.commitment import ResultError, check_commit, check_opening, check_opens
from protocol.roles.oracle import OracleMachine

Task = tuple[bytes, int]
"""Session and number."""
Lane = tuple[bytes, int, int]
"""Session, task and number."""
Gossiped = tuple[int, int, SignedCommit]
"""When a commit came without papers, in which life of the oracle, and which."""
Batch = tuple[int, NodeId, int]
"""Home epoch, oracle and number."""


@dataclass(frozen=True, slots=True)
class Brought:
    """A commit that its miner signed, with papers that hold, as an oracle was given it."""

    at_us: int
    life: int
    signed: SignedCommit
    papers: Papers


@dataclass(frozen=True, slots=True)
class Opened:
    """A reveal, and an opening that its client's signatures bear out, as an oracle was given them."""

    at_us: int
    life: int
    signed: SignedReveal
    opening: Opening


class Seen(Checker):
    """See the module."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.sessions: dict[bytes, SessionOpen] = {}
        """That a client signed and sent."""
        self.orders: dict[Task, dict[bytes, TaskOrder]] = defaultdict(dict)
        """That a client signed and sent, by digest: an honest client signs one."""
        self.acks: dict[Lane, dict[bytes, Ack]] = defaultdict(dict)
        """The furthest that a client signed and sent, by segment."""
        self.withdrawals: dict[bytes, set[int]] = defaultdict(set)
        """Totals that an account signed and sent."""
        self.latest: dict[Task, SegmentHead] = {}
        """Of lane 0, the last one that a miner sent."""
        self.heads: dict[bytes, SegmentHead] = {}
        """By digest."""
        self.commits: dict[Lane, dict[str, list[Brought]]] = defaultdict(lambda: defaultdict(list))
        """By correct oracle, in the order in which they came."""
        self.gossiped: dict[Task, dict[str, list[tuple[int, int, SignedCommit]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """Commits without papers, by correct oracle."""
        self.committed: set[Lane] = set()
        """Lanes that anybody sent a commit of."""
        self.openings: dict[Lane, dict[str, list[Opened]]] = defaultdict(lambda: defaultdict(list))
        """By correct oracle, in the order in which they came."""
        self.asked_us: dict[Task, dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
        """When each correct oracle took no more commits of a task, in each of its lives: openings count from then."""
        self.closed_us: dict[Task, dict[str, int]] = defaultdict(dict)
        """When it had that on its disk: from then on no commit counts, in no life."""
        self.batches: dict[Batch, dict[bytes, SignedBatch]] = defaultdict(dict)
        """By digest; a correct oracle signs one of a number."""
        self.values: dict[Lane, dict[NodeId, dict[Observation, int]]] = defaultdict(lambda: defaultdict(dict))
        """What each oracle signed of a lane, and when it first was on the wire."""
        self._last: Message | None = None
        self._held: set[bytes] = set()

    # What leaves

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A message leaves on a stream; one that goes to many is read once."""
        if message is self._last:
            return
        self._last = message
        domain = self._domain
        match message:
            case OpenSession(opening=opening) if sender.node == opening.client:
                self.sessions[session_id(domain, opening)] = opening
            case SubmitTask(order=order) if self._client(order.session) == sender.node:
                self.orders[order.session, order.task][typed_digest(domain, order)] = order
            case AckMessage(ack=ack) if self._client(ack.session) == sender.node:
                self._ack(ack)
            case SegmentStart(head=head) | LaneEnded(head=head):
                self.heads[typed_digest(domain, head)] = head
                if head.lane == 0:
                    self.latest[head.session, head.task] = head
            case CommitMessage(signed=SignedCommit(commit=commit)) | CommittedNews(signed=SignedCommit(commit=commit)):
                self.committed.add((commit.session, commit.task, commit.lane))
            case Submit(withdrawals=withdrawals):
                for signed_withdraw in withdrawals:
                    if signed_withdraw.withdraw.account == sender.node:
                        self.withdrawals[sender.node].add(signed_withdraw.withdraw.total)
            case Propose(body=body):
                for included in batches_of(body):
                    self._batch(included)
            case Offer(signed=signed) | ObservedNews(signed=signed):
                self._batch(signed)

    def _client(self, session: bytes) -> bytes | None:
        opening = self.sessions.get(session)
        return None if opening is None else opening.client

    def _ack(self, ack: Ack) -> None:
        lane = self.acks[ack.session, ack.task, ack.lane]
        known = lane.get(ack.segment)
        if known is None or known.index < ack.index:
            lane[ack.segment] = ack

    def _batch(self, signed: SignedBatch) -> None:
        domain, batch = self._domain, signed.batch
        if signed.signature in self._held:
            return
        self._held.add(signed.signature)
        try:
            verify_batch(domain, signed)
        except RemoteProtocolError:
            return
        oracle = NodeId(batch.oracle)
        self.batches[batch.home_epoch, oracle, batch.number][typed_digest(domain, batch)] = signed
        for value in content_of(signed).observations:
            self.values[value.session, value.task, value.lane][oracle].setdefault(value, self.world.now_us)

    # What correct oracles are given

    def handles(self, drive: Drive, event: object, now_ms: int) -> None:
        """An oracle is about to be told of something."""
        if not (drive.host.correct and isinstance(drive.machine, OracleMachine)):
            return
        host, message = drive.host, event.message if isinstance(event, Received | GossipReceived) else None
        if isinstance(message, Commits):
            for signed in message.commits:
                self._hearsay(host, signed)
        elif isinstance(message, CommitMessage):
            # Whoever has not come to the lane's epoch yet, is two beyond it, or is no oracle of it, does not judge.
            homes = drive.machine.simplex.tree.base.state.homes
            if host.node in homes.get(message.papers.order.home_epoch, ()):
                self._brought(host, message)
            if message.reveal is not None and message.opening is not None:
                self._opened(host, message.reveal, message.opening)
        elif isinstance(message, RevealMessage):
            self._opened(host, message.signed, message.opening)

    def handled(self, drive: Drive, event: object, effects: list[object]) -> None:
        """An oracle writes down that it takes no more commits of a task, or asks for its openings."""
        if not (drive.host.correct and isinstance(drive.machine, OracleMachine)):
            return
        if isinstance(event, Received) and isinstance(event.message, CommitMessage):
            self._turned_away(drive.host, drive.machine, event.message.signed)
        for effect in effects:
            tasks = list(_closed_in(effect.records)) if isinstance(effect, Persist) else []
            if isinstance(effect, Send | SendAll) and isinstance(effect.message, RevealAsked):
                tasks.append((effect.message.session, effect.message.task))
            for task in tasks:
                self.asked_us[task][drive.host.name].setdefault(drive.host.incarnation, self.world.now_us)

    def durable(self, host: Host, records: Records) -> None:
        """That is on its disk."""
        if host.correct:
            for task in _closed_in(records):
                self.closed_us[task].setdefault(host.name, self.world.now_us)

    def started(self, host: Host) -> None:
        """Of what was being written at a crash some may be durable after all."""
        self.durable(host, tuple(host.disk.records.items()))

    def _brought(self, host: Host, message: CommitMessage) -> None:
        commit = message.signed.commit
        try:
            check_commit(self._domain, message.signed)
            self._check_papers(message)
        except RemoteProtocolError:
            return
        lane, life = self.commits[commit.session, commit.task, commit.lane][host.name], host.incarnation
        if all((brought.life, brought.signed.commit) != (life, commit) for brought in lane):
            lane.append(Brought(self.world.now_us, life, message.signed, message.papers))

    def _turned_away(self, host: Host, machine: OracleMachine, signed: SignedCommit) -> None:
        """A commit that an oracle has just been given, of a task that there is no room for: it holds nothing of it."""
        commit = signed.commit
        lane = self.commits[commit.session, commit.task, commit.lane][host.name]
        if (commit.session, commit.task) in machine.results.desk.open.tasks or not lane:
            return
        if (lane[-1].at_us, lane[-1].life, lane[-1].signed.commit) == (self.world.now_us, host.incarnation, commit):
            lane.pop()

    def _hearsay(self, host: Host, signed: SignedCommit) -> None:
        commit = signed.commit
        try:
            check_commit(self._domain, signed)
        except RemoteProtocolError:
            return
        told = self.gossiped[commit.session, commit.task][host.name]
        told.append((self.world.now_us, host.incarnation, signed))
        self.committed.add((commit.session, commit.task, commit.lane))

    def _check_papers(self, message: CommitMessage) -> None:
        """By hand, not by the function that oracles use. Raises RemoteProtocolError."""
        domain, commit, papers = self._domain, message.signed.commit, message.papers
        opening, order, assignment = papers.session.opening, papers.order, papers.assignment
        session = session_id(domain, opening)
        verify(session, papers.session.signature, opening.client, "the session")
        verify(typed_digest(domain, order), papers.order_signature, opening.client, "the order")
        verify(typed_digest(domain, assignment), papers.assignment_signature, assignment.router, "the assignment")
        if not (
            session == order.session == assignment.session == commit.session
            and order.task == commit.task
            and assignment.router in opening.routers
            and commit.lane < opening.lanes
            and _names(papers, message.signed)
        ):
            raise ResultError("papers", "they are another lane's")

    def _opened(self, host: Host, signed: SignedReveal, opening: Opening) -> None:
        domain, reveal = self._domain, signed.reveal
        client = self._client(reveal.session)
        try:
            if client is None:
                raise ResultError("session", "nobody opened it")
            check_opening(domain, client, opening)
        except RemoteProtocolError:
            return
        self.openings[reveal.session, reveal.task, reveal.lane][host.name].append(
            Opened(self.world.now_us, host.incarnation, signed, opening)
        )

    # What can be asked

    def given(self, host: Host, lane: Lane) -> list[Brought]:
        """The commits of a lane that an oracle was given, oldest first; those of gossip with papers that name them."""
        brought = list(self.commits[lane][host.name])
        for at_us, life, signed in self.gossiped[lane[:2]][host.name]:
            if signed.commit.lane != lane[2]:
                continue
            named = (
                other.papers
                for number in range(LANES_MAX)
                for other in self.commits[*lane[:2], number][host.name]
                if other.life == life and _names(other.papers, signed)
            )
            papers = next(named, None)
            if papers is not None:
                brought.append(Brought(at_us, life, signed, papers))
        return sorted(brought, key=lambda one: one.at_us)

    def openers(self, lane: Lane, root: bytes) -> dict[NodeId, int]:
        """Who opened a lane with a root, one miner as a rule, and the price that the root binds for its segment."""
        return {
            NodeId(opened.signed.reveal.miner): opened.opening.segments[-1].price_wei
            for openings in self.openings[lane].values()
            for opened in openings
            if opened.signed.reveal.root == root
        }

    def saw(self, host: Host, lane: Lane, root: bytes) -> Iterator[tuple[Brought, Opened]]:
        """The commits that an oracle was given of a lane, each with an opening of it that leads to the root."""
        domain = self._domain
        for brought in self.given(host, lane):
            for opened in self.openings[lane][host.name]:
                if opened.signed.reveal.root != root:
                    continue
                try:
                    check_opens(domain, brought.signed.commit, opened.signed.reveal, opened.opening)
                except RemoteProtocolError:
                    continue
                yield brought, opened


def _names(papers: Papers, signed: SignedCommit) -> bool:
    commit, assignment = signed.commit, papers.assignment
    named = list(zip(assignment.miners, assignment.generations, strict=False))
    return commit.lane < len(named) and named[commit.lane] == (commit.miner, commit.generation)


def _closed_in(records: Records) -> Iterator[Task]:
    for name, value in records:
        if name.startswith(CLOSED) and value is not None:
            order = unpack_closed(value).papers.order
            yield order.session, order.task


def batches_of(body: bytes) -> tuple[SignedBatch, ...]:
    """What a body takes in; nothing if it is none."""
    try:
        return unpack(Cut, body, limit_bytes=BODY_BYTES_MAX).batches if body else ()
    except DecodeError:
        return ()


def content_of(signed: SignedBatch) -> Content:
    """What a batch holds; nothing if it does not decode."""
    try:
        return unpack(Content, signed.content, limit_bytes=CONTENT_BYTES_MAX)
    except DecodeError:
        return Content()
