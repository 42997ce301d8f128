"""What an oracle makes of commits and openings: one value a lane, never revised.

Everything that comes in is checked here, and what follows is handed out: a value to sign, an opening for the ledger,
commits that are closed (durable first, then their miners are asked to open them), evidence. Nothing is signed here, and
nothing sent. What this oracle has signed before is told to the desk, or is in the finalized ledger.
"""

from collections.abc import Iterable, Iterator, Mapping

from protocol.committee.members import faulty_max
from protocol.core.deadlines import Deadlines
from protocol.core.ids import NOBODY, ZERO_DIGEST, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.committee import SignedBatch
from protocol.messages.evidence import ConflictingValues, FalseReveal
from protocol.messages.results import (
    CommitMessage,
    Commits,
    Observation,
    Opening,
    Papers,
    RevealMessage,
    SignedCommit,
    SignedReveal,
    Verdict,
)
from protocol.results.bare_commits import BareCommits
from protocol.results.claims import Claims
from protocol.results.closed_tasks import ClosedTask, closed_key, closed_record, unpack_closed
from protocol.results.commitment import ResultError
from protocol.results.evidence import observations_of
from protocol.results.findings import CommitsClosed, Contradicted, Dropped, Finding, Known, Observed, Reopened
from protocol.results.hearsay import Hearsay
from protocol.results.judging import acked, check_later, judge, place_of
from protocol.results.open_lanes import OpenLane, OpenLanes, OpenTask
from protocol.results.outcome import failure_root
from protocol.results.papers import Lane, Task, assigned, check_claim, check_papers, names

OPENINGS_MAX = 8
"""Of one lane: later ones hold more acks."""


class Desk:
    """See the module. Every method but the timer's is total on what peers sent, or raises RemoteProtocolError."""

    def __init__(self, domain: Domain, params: Params, me: NodeId) -> None:
        self._domain = domain
        self._params = params
        self.me = me
        self.open = OpenLanes(params)
        self.hearsay = Hearsay(params.lanes_observed_max)
        self.bare = BareCommits(params)
        self._claims = Claims(domain, self.open, self.bare)
        self._until: Deadlines[Task] = Deadlines()

    def next_deadline(self) -> int | None:
        """When a window ends."""
        clocks = (self._until.next(), self.bare.next_deadline())
        return min((at for at in clocks if at is not None), default=None)

    # What miners send

    def committed(
        self, message: CommitMessage, peer: NodeId, source: int | None, known: Known, now_ms: int
    ) -> list[Finding]:
        """A commit with its papers, from its miner or from an oracle that passes it on.

        Raises ResultError, SignatureError. Spec: [COMMIT-VALID.1]
        """
        papers, signed = message.papers, message.signed
        name: Task = (papers.order.session, papers.order.task)
        lane: Lane = (*name, signed.commit.lane)
        task = self.open.tasks.get(name)
        if not self._is_home(papers.order.home_epoch, known) or self._done(lane, known):
            return []
        if papers.session.opening.lanes > self._params.lanes_max:
            raise ResultError("papers", f"a session has at most {self._params.lanes_max} lanes")
        held = self.open.get(lane)
        if held is not None and held.commit is not None and (held.value is not None or self.open.tasks[name].closed):
            return self._again(name, held, signed, source)
        check_papers(self._domain, papers, None if task is None else task.papers)
        check_claim(self._domain, papers, signed)
        if task is None:
            task = self.open.admit(name, papers, peer, known.reserved(name[0]))
            if task is None:
                return []
            task.closed = self._was_closed(name, papers, known)
            if not task.closed:
                self._until.set(name, now_ms + self._params.commit_window_ms)
        if task.home_epoch != papers.order.home_epoch or (task.papers and task.papers.order != papers.order):
            return []
        if task.closed:
            return self._too_late(name, task, message, now_ms)
        found = self._claims.take(name, task, message)
        held = self.open.lane(name, signed.commit.lane)
        if held.commits_to(signed):
            held.came_by(source)
            held.committed = held.committed or message
            found += self._opened_at_once(name, task, message, now_ms)
        return found + self._close_if_complete(name, task, known, now_ms)

    def revealed(self, message: RevealMessage, source: int | None, now_ms: int) -> list[Finding]:
        """An opening. Before its commits are closed it does not count. Raises ResultError, SignatureError.

        Spec: [REVEAL-EARLY.1]
        """
        reveal = message.signed.reveal
        name: Task = (reveal.session, reveal.task)
        task, lane = self.open.tasks.get(name), self.open.get((*name, reveal.lane))
        if task is None or lane is None or lane.commit is None or place_of(lane.commit.commit) != place_of(reveal):
            return []  # whoever has the lane by another assignment cannot know whose commit counts here
        if lane.value is not None:
            return self._reopened(task, lane, message.opening)
        if not task.closed:
            return []
        lane.came_by(source)
        found = self._open(task, lane, message.signed, message.opening, now_ms)
        lane.revealed = message
        return found

    def gossiped(self, commits: Commits, known: Known, now_ms: int) -> list[Finding]:
        """Commits without papers. Spec: [COMMIT-BARE.1]"""
        found: list[Finding] = []
        for signed in commits.commits:
            commit = signed.commit
            name: Task = (commit.session, commit.task)
            task = self.open.tasks.get(name)
            if commit.miner != commits.miner or self._done((*name, commit.lane), known) or (task and task.closed):
                continue
            first = self.bare.hold(name, signed, now_ms)
            if first is not None:
                found += self._claims.contradiction(first, signed)
            elif task is not None and task.papers is not None:
                found += self._claims.adopt(name, task)
                found += self._close_if_complete(name, task, known, now_ms)
        return found

    # What oracles say

    def heard(self, signed: SignedBatch, known: Known, now_ms: int) -> list[Finding]:
        """A batch whose signature holds. A lane that f+1 oracles have observed is observed here as well.

        Spec: [OBSERVE-TOLD.1]
        """
        oracle, home_epoch = NodeId(signed.batch.oracle), signed.batch.home_epoch
        members = frozenset(known.homes.get(home_epoch, ()))
        found: list[Finding] = []
        for value in observations_of(signed):
            lane: Lane = (value.session, value.task, value.lane)
            if known.decided(lane):
                continue
            first = self.hearsay.add(lane, value, signed)
            if first is not None:
                found.append(Contradicted(ConflictingValues(*lane, first, signed)))
            if oracle == self.me:
                self.said(home_epoch, value)
            elif self.me in members and not self._done(lane, known):
                # In batches of this epoch: who speaks of it in another one may call any lane its own.
                said = self.hearsay.oracles(lane, home_epoch) | frozenset(known.spoken(lane, home_epoch))
                told = said & members
                found += self._told(lane, home_epoch, now_ms) if len(told) > faulty_max(len(members)) else []
        return found

    def said(self, home_epoch: int, value: Observation) -> None:
        """This oracle's own word, as a batch that it signed has it: whatever was about to be said instead is not.

        Spec: [OBSERVE-ONCE.1]
        """
        name: Task = (value.session, value.task)
        if name not in self.open.tasks:
            self.open.begin(name, OpenTask(home_epoch, closed=True))
        lane = self.open.lane(name, value.lane)
        lane.value, lane.signed = value, True

    def unsigned(self, lane: Lane, known: Known) -> Observation | None:
        """The value of a lane that is to be signed; None if it was, or has no need of it any more."""
        held = self.open.get(lane)
        return None if held is None or held.signed or self._done(lane, known) else held.value

    def unheard(self, known: Known, before_ms: int) -> Iterator[tuple[OpenLane, frozenset[NodeId]]]:
        """Lanes that this oracle gave a value before a time, and the members of their home that gave none so far.

        Spec: [COMMIT-PASSED-ON.1]
        """
        for lane, task, held in self.open.all():
            if held.value is not None and held.signed and held.committed is not None and held.valued_ms <= before_ms:
                heard = self.hearsay.oracles(lane) | frozenset(known.spoken(lane)) | {self.me}
                missing = frozenset(known.homes.get(task.home_epoch, ())) - heard
                if missing:
                    yield held, missing

    # Time, and what is final

    def on_time(self, known: Known, now_ms: int) -> list[Finding]:
        """Windows that end."""
        self.bare.expire(now_ms)
        found: list[Finding] = []
        for name in self._until.due(now_ms):
            task = self.open.tasks.get(name)
            if task is not None:
                found += self._unrevealed(name, task, now_ms) if task.closed else self._close(name, task, now_ms)
        return [item for item in found if not isinstance(item, Observed) or not self._done(item.lane, known)]

    def decided(self, lanes: Iterable[Lane], now_ms: int) -> list[Finding]:
        """The ledger has decided lanes."""
        found: list[Finding] = []
        for lane in lanes:
            self.hearsay.drop(lane)
            task = self.open.tasks.get(lane[:2])
            if task is None:
                continue
            if self.open.drop(lane):
                found += self._drop_record(lane[:2], task)
            elif not task.closed:
                # What its miner opened is public now.
                found += self._close(lane[:2], task, now_ms)
        return found

    def turned(self, known: Known) -> list[Finding]:
        """An epoch has begun: what is of no home any more is forgotten, decided or not."""
        self.hearsay.keep(known.homes)
        found: list[Finding] = []
        for name, task in list(self.open.tasks.items()):
            if task.home_epoch not in known.homes:
                self.open.drop_task(name)
                found += self._drop_record(name, task)
        return found

    def resume(self, records: Mapping[bytes, bytes], known: Known, now_ms: int) -> list[Finding]:
        """Take up the tasks whose commits were closed before a restart: they stay closed. Spec: [REVEAL-ASKED.1]"""
        found: list[Finding] = []
        for key, data in records.items():
            stored = unpack_closed(data)
            name: Task = (stored.papers.order.session, stored.papers.order.task)
            home_epoch = stored.papers.order.home_epoch
            if home_epoch not in known.homes:
                found.append(Dropped(key))
                continue
            task = self.open.tasks.get(name) or self.open.begin(name, OpenTask(home_epoch))
            task.papers, task.closed, task.recorded = stored.papers, True, True
            for signed in stored.commits:
                self.open.lane(name, signed.commit.lane).commit = signed
            found += self._late(name, task, stored.late, now_ms)
            self._until.set(name, now_ms + self._params.reveal_window_ms)
        return [item for item in found if not isinstance(item, Observed) or not self._done(item.lane, known)]

    # Commits

    def _is_home(self, home_epoch: int, known: Known) -> bool:
        """Whether this oracle is one of those that observe what was ordered in an epoch. Spec: [OBSERVE-HOME.1]"""
        return self.me in known.homes.get(home_epoch, ())

    def _was_closed(self, name: Task, papers: Papers, known: Known) -> bool:
        """Whether the ledger shows that a task's commits were closed, here or by enough others: what the miner of
        another lane opened may be public. Spec: [REVEAL-ASKED.1]"""
        return any(self._done((*name, lane), known) for lane in range(papers.session.opening.lanes))

    def _too_late(self, name: Task, task: OpenTask, message: CommitMessage, now_ms: int) -> list[Finding]:
        """A valid commit to a lane of which nothing was known here when the commits were closed: it has a miner, and
        that one is late, unless a later assignment gave the lane to nobody."""
        known = task.papers
        if known is not None and known.assignment.number > message.papers.assignment.number:
            return []
        task.papers = message.papers
        commit = message.signed.commit
        if self.open.lane(name, commit.lane).value is not None:
            return []
        return [self._fail(name, task, commit.lane, Verdict.LATE, NodeId(commit.miner), now_ms)]

    def _again(self, name: Task, held: OpenLane, signed: SignedCommit, source: int | None) -> list[Finding]:
        """A commit of a lane whose commit is fixed. Who says that one again is asked again to open it; another one may
        contradict it."""
        assert held.commit is not None
        if not held.commits_to(signed):
            return self._claims.contradiction(held.commit, signed)
        held.came_by(source)
        asked = held.value is None and source is not None
        return [CommitsClosed(name, None, (source,))] if asked and source is not None else []

    def _close_if_complete(self, name: Task, task: OpenTask, known: Known, now_ms: int) -> list[Finding]:
        """Close the commits if every lane that has a miner has that miner's. Spec: [REVEAL-ASKED.1]"""
        if task.closed or task.papers is None:
            return []
        for lane in assigned(task.papers.assignment):
            held = task.lanes.get(lane)
            if self._done((*name, lane), known) or (held is not None and held.value is not None):
                continue
            if held is None or held.commit is None or not names(task.papers.assignment, held.commit.commit):
                return []
        return self._close(name, task, now_ms)

    def _close(self, name: Task, task: OpenTask, now_ms: int) -> list[Finding]:
        """No more commits: who has none is late, the others are asked to open theirs. Spec: [OBSERVE-LATE.1]"""
        self._end_window(name, task)
        miners = {} if task.papers is None else assigned(task.papers.assignment)
        for number in [number for number, lane in task.lanes.items() if _nobodys(lane) and number not in miners]:
            self.open.drop((*name, number))
        missing = [number for number, lane in task.lanes.items() if lane.commit is None and lane.value is None]
        waiting = [lane for lane in task.lanes.values() if lane.commit is not None and lane.value is None]
        found: list[Finding] = []
        if waiting:
            assert task.papers is not None, "a commit counts by its papers"
            commits = tuple(lane.commit for lane in task.lanes.values() if lane.commit is not None)
            sources = dict.fromkeys(source for lane in waiting for source in lane.sources)
            record = closed_record(ClosedTask(task.papers, commits, tuple(missing)))
            found.append(CommitsClosed(name, record, tuple(sources)))
            task.recorded = True
            self._until.set(name, now_ms + self._params.reveal_window_ms)
        return found + self._late(name, task, missing, now_ms)

    def _late(self, name: Task, task: OpenTask, lanes: Iterable[int], now_ms: int) -> list[Finding]:
        miners = {} if task.papers is None else assigned(task.papers.assignment)
        return [
            self._fail(name, task, lane, Verdict.LATE, miners.get(lane), now_ms)
            for lane in lanes
            if self.open.lane(name, lane).value is None
        ]

    def _told(self, lane: Lane, home_epoch: int, now_ms: int) -> list[Finding]:
        """f+1 oracles have observed a lane: the window begins, if it has not."""
        name, number = lane[:2], lane[2]
        task = self.open.tasks.get(name)
        if task is None:
            if not self.open.has_room():
                return []
            task = self.open.begin(name, OpenTask(home_epoch))
            self._until.set(name, now_ms + self._params.commit_window_ms)
        if number not in task.lanes and not self.open.has_room():
            return []
        held = self.open.lane(name, number)
        held.told = True
        late = task.closed and held.commit is None and held.value is None
        return self._late(name, task, [number], now_ms) if late else []

    # Openings

    def _opened_at_once(self, name: Task, task: OpenTask, message: CommitMessage, now_ms: int) -> list[Finding]:
        """With one lane there is nobody to copy from: the commit carries its opening. Spec: [REVEAL-ASKED.1]"""
        lane = self.open.get((*name, message.signed.commit.lane))
        if message.papers.session.opening.lanes > 1 or message.reveal is None or message.opening is None:
            return []
        if lane is None or lane.value is not None:
            return []
        found = self._open(task, lane, message.reveal, message.opening, now_ms)
        self._end_window(name, task)
        return found

    def _open(
        self, task: OpenTask, lane: OpenLane, signed: SignedReveal, opening: Opening, now_ms: int
    ) -> list[Finding]:
        assert lane.commit is not None, "only a commit is opened"
        assert task.papers is not None, "a commit counts by its papers"
        shown = judge(self._domain, task.papers, lane.commit, signed, opening)
        if isinstance(shown, FalseReveal):
            commit = lane.commit.commit
            name: Task = (commit.session, commit.task)
            failed = self._fail(name, task, commit.lane, Verdict.MISMATCH, NodeId(commit.miner), now_ms)
            return [Contradicted(shown), failed]
        lane.acked, lane.openings = acked(opening), 1
        return [self._fix(task, shown, opening, now_ms)]

    def _reopened(self, task: OpenTask, lane: OpenLane, opening: Opening) -> list[Finding]:
        """An opening of a lane that has its value: of use if the client has acknowledged more since.

        Spec: [OPENING-LATER.1]
        """
        if lane.value is None or lane.value.verdict is not Verdict.OK or task.papers is None or lane.commit is None:
            return []
        if acked(opening) <= lane.acked or lane.openings >= OPENINGS_MAX:
            return []
        check_later(self._domain, task.papers, lane.value, lane.commit.commit, opening)
        lane.acked = acked(opening)
        lane.openings += 1
        return [Reopened(opening)]

    def _unrevealed(self, name: Task, task: OpenTask, now_ms: int) -> list[Finding]:
        """Who has not opened its commit in time. Spec: [OBSERVE-UNREVEALED.1]"""
        return [
            self._fail(name, task, number, Verdict.UNREVEALED, NodeId(lane.commit.commit.miner), now_ms)
            for number, lane in task.lanes.items()
            if lane.commit is not None and lane.value is None
        ]

    # Values

    def _fail(
        self, name: Task, task: OpenTask, lane: int, verdict: Verdict, miner: NodeId | None, now_ms: int
    ) -> Observed:
        root = ZERO_DIGEST if miner is None or miner == NOBODY else failure_root(miner)
        return self._fix(task, Observation(*name, lane, verdict, root, 0), None, now_ms)

    def _fix(self, task: OpenTask, value: Observation, opening: Opening | None, now_ms: int) -> Observed:
        """A lane's value, once. Spec: [OBSERVE-ONCE.1]"""
        lane = task.lanes[value.lane]
        assert lane.value is None, "a value is never revised"
        lane.value, lane.valued_ms = value, now_ms
        return Observed((value.session, value.task, value.lane), task.home_epoch, value, opening)

    def _done(self, lane: Lane, known: Known) -> bool:
        """Whether this oracle has nothing more to say of a lane: its word is in the ledger, or the verdict is."""
        return self.me in known.spoken(lane) or known.decided(lane)

    def _end_window(self, name: Task, task: OpenTask) -> None:
        task.closed = True
        self._until.clear(name)
        self.bare.take(name)

    def _drop_record(self, name: Task, task: OpenTask) -> list[Finding]:
        self._until.clear(name)
        return [Dropped(closed_key(name))] if task.recorded else []


def _nobodys(lane: OpenLane) -> bool:
    """Whether nothing but an assignment that does not count any more speaks of a lane."""
    return lane.commit is None and lane.value is None and not lane.told
