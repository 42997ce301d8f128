"""Whatever comes to an oracle's desk, in whatever order, as often and as late as it likes, and through any restart."""

from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.errors import RemoteProtocolError
from protocol.core.signing import typed_digest
from protocol.messages.results import (
    CommitMessage,
    Commits,
    Observation,
    RevealMessage,
    SignedCommit,
    SignedReveal,
    Verdict,
)
from protocol.results.papers import Lane
from tests.unit.protocol import strategies
from tests.unit.protocol.committee_at_hand import KEYS, keyed  # noqa: F401
from tests.unit.protocol.desk_at_hand import ME, PEER, AtDesk
from tests.unit.protocol.results_at_hand import DOMAIN, MINERS, PARAMS, Job, signed_commit

FIRST = Job(lanes=2)
LATER = replace(FIRST, miners=(MINERS[5], MINERS[1]), assignment=2)
LAST = replace(FIRST, miners=(MINERS[6], None), assignment=3)
SOLE = Job(number=1)
JOBS = (FIRST, LATER, LAST, SOLE)
LANES = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0)]
"""Job and lane: whoever was ever assigned one."""


@dataclass
class Walk:
    """One desk, and what the world knows of it."""

    at: AtDesk = field(default_factory=AtDesk)
    asked: set[tuple[bytes, int]] = field(default_factory=set)
    """Tasks whose miners were asked to open."""
    committed: dict[Lane, set[bytes]] = field(default_factory=dict)
    """Commitments that came before the commits were closed, by whomever."""
    numbers: dict[Lane, int] = field(default_factory=dict)
    """The highest assignment whose miner committed to a lane in time."""
    values: dict[Lane, Observation] = field(default_factory=dict)

    def commit(self, job: Job, lane: int, count: int, *, copied: bool = False, gossip: bool = False) -> None:
        """A miner commits, to its own result or to what another committed to."""
        signed = job.commit(lane, count=count)
        if copied:
            signed = self._copy(job, lane, signed)
        message = job.commits(lane, count=count)
        message = message if not copied else CommitMessage(signed, job.papers)
        if gossip:
            self.try_(lambda: self.at.gossip(Commits(job.miner(lane).node_id, 1, (signed,))))
        else:
            self._in_time(job, lane)
            self.try_(lambda: self.at.commit(message))

    def _copy(self, job: Job, lane: int, signed: SignedCommit) -> SignedCommit:
        other = JOBS[(JOBS.index(job) + 1) % 3]
        commitment = other.commit(0, count=10).commit.commitment
        return signed_commit(job.miner(lane), msgspec.structs.replace(signed.commit, commitment=commitment))

    def _in_time(self, job: Job, lane: int) -> None:
        name: Lane = (job.session, 1, lane)
        if name[:2] not in self.asked and name not in self.values:
            self.numbers[name] = max(self.numbers.get(name, 0), job.assignment)

    def reveal(self, job: Job, lane: int, count: int, salt: int) -> None:
        """A miner opens, to what it committed to or to something else."""
        early = (job.session, 1) not in self.asked and job.lanes > 1
        before = len(self.at.signed)
        self.try_(lambda: self.at.reveal(job.reveals(lane, bytes([7 + salt]) * 32, count=count)))
        assert not early or len(self.at.signed) == before, "an early opening never counts"

    def steal(self, job: Job, lane: int) -> None:
        """A miner shows another's opening as its own."""
        other = JOBS[(JOBS.index(job) + 1) % 3]
        reveal = msgspec.structs.replace(
            other.reveal(0, count=10).reveal,
            lane=lane,
            generation=job.generation_of(lane),
            miner=job.miner(lane).node_id,
        )
        signed = SignedReveal(reveal, job.miner(lane).sign(typed_digest(DOMAIN, reveal)))
        self.try_(lambda: self.at.reveal(RevealMessage(signed, other.shown(0, count=10))))

    def try_(self, what) -> None:  # type: ignore[no-untyped-def]
        """It comes, holds or not."""
        try:
            what()
        except RemoteProtocolError:
            return

    def restart(self) -> None:
        """What was neither closed nor signed is not known any more."""
        self.at.restart()
        self.numbers = {
            lane: number for lane, number in self.numbers.items() if lane[:2] in self.asked or lane in self.values
        }

    def look(self) -> None:
        """What must hold at every step."""
        self.asked |= {task for task, _ in self.at.asked}
        for value in self.at.signed:
            lane = (value.session, value.task, value.lane)
            assert self.values.setdefault(lane, value) == value, "one value a lane"
        assert len(self.at.signed) == len(self.values), "and once"
        for name in self.asked:
            assert name not in self.at.desk.open.tasks or self.at.desk.open.tasks[name].closed

    def end(self) -> None:
        """All windows end."""
        self.at.wait(PARAMS.commit_window_ms + PARAMS.reveal_window_ms)
        self.look()
        for lane, task, held in self.at.desk.open.all():
            assert held.value is not None, lane
            assert task.closed
        honest = {
            job.ok(lane, count=count)
            for job in JOBS
            for lane in range(job.lanes)
            if job.team[lane]
            for count in (10, 11)
        }
        for lane, value in self.values.items():
            if value.verdict is Verdict.OK:
                assert value in honest, "no copied commit is ever opened"
                assert self._assignment_of(value) >= self.numbers.get(lane, 0) or lane[0] == SOLE.session

    def _assignment_of(self, value: Observation) -> int:
        made = [
            job.assignment
            for job in JOBS
            for count in (10, 11)
            if value.lane < job.lanes and job.team[value.lane] and value == job.ok(value.lane, count=count)
        ]
        return max(made)


STEPS = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(LANES), st.sampled_from([10, 11]), st.booleans()),
    st.tuples(st.just("copy"), st.sampled_from(LANES), st.just(10), st.booleans()),
    st.tuples(st.just("reveal"), st.sampled_from(LANES), st.sampled_from([10, 11]), st.sampled_from([0, 0, 0, 1])),
    st.tuples(st.just("steal"), st.sampled_from(LANES), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.just((0, 0)), st.integers(1, 6_000), st.just(0)),
    st.tuples(st.just("hear"), st.sampled_from(LANES), st.integers(0, 3), st.integers(0, 4)),
    st.tuples(st.just("restart"), st.just((0, 0)), st.just(0), st.just(0)),
)


@pytest.mark.spec("OBSERVE-ONCE.1", "REVEAL-EARLY.1", "COMMIT-FIRST.1", "COMMIT-BOUND.1", "REVEAL-ASKED.1")
@settings(max_examples=300)
@given(st.lists(STEPS, max_size=25))
def test_a_lane_has_one_value_and_it_is_the_right_one(steps: list[tuple[str, tuple[int, int], int, int]]) -> None:
    walk = Walk()
    for what, (number, lane), value, more in steps:
        job = JOBS[number]
        match what:
            case "commit":
                walk.commit(job, lane, value, gossip=bool(more))
            case "copy":
                walk.commit(job, lane, value, copied=True, gossip=bool(more))
            case "reveal":
                walk.reveal(job, lane, value, more)
            case "steal":
                walk.steal(job, lane)
            case "wait":
                walk.at.wait(value)
            case "hear":
                said = job.ok(lane) if more < 3 else job.failed(Verdict.LATE, lane)
                if value != ME:
                    walk.at.hear(value, said, number=more + 1)
            case "restart":
                walk.restart()
        walk.look()
    walk.end()


RESULTS = st.one_of([strategies.build(kind) for kind in (CommitMessage, RevealMessage, Commits)])


@settings(max_examples=100)
@given(st.lists(RESULTS, max_size=8))
def test_anything_at_all_ends_in_a_value_or_a_typed_error(messages: list[object]) -> None:
    at = AtDesk()
    for message in messages:
        try:
            match message:
                case CommitMessage():
                    at.desk.committed(message, PEER, 1, at.book, at.now_ms)
                case RevealMessage():
                    at.desk.revealed(message, 1, at.now_ms)
                case Commits():
                    at.desk.gossiped(message, at.book, at.now_ms)
        except RemoteProtocolError:
            continue
    at.wait(20_000)
    assert at.signed == []
    assert len(at.desk.bare) == 0
