"""Whatever happens in whatever order: what a miner has bound itself to is durable, and opened only when it is time."""

from collections import defaultdict, deque
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import Message, unpack
from protocol.core.ids import NodeId
from protocol.core.machine import Persist, Publish, Send, SendAll
from protocol.messages.envelope import unseal
from protocol.messages.results import (
    Commit,
    CommitMessage,
    Commits,
    CommittedNews,
    Opening,
    Outcome,
    Reveal,
    RevealAsked,
    RevealMessage,
    Verdict,
)
from protocol.results.commitment import check_opens, commit_of
from protocol.roles.miner.outstanding import AGAIN_MS_MAX, TICK_MS
from protocol.roles.miner.result import RESULT_BYTES_MAX, RESULT_RECORDS, StoredResult, record_of
from tests.unit.protocol.light_at_hand import EPOCH, outcome_news
from tests.unit.protocol.machines import DOMAIN, ORACLES, PARAMS, opening_of
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed, Withheld

ENOUGH = 2
"""f+1 of four."""
Task = tuple[bytes, int]


class Crashed(Exception):
    """The process is gone in the middle of what it was asked to do."""


class Watched(Bound):
    """A miner whose disk takes its time, and who may die at any effect. What leaves is held against what is durable."""

    def __init__(self, told: "Told", disk: dict[bytes, bytes], boot: bytes) -> None:
        self.record = told
        self.waiting: dict[bytes, deque[object]] = {}
        self.dies_after: int | None = None
        super().__init__(disk=disk, boot=boot)

    def perform(self, effect: object) -> None:
        if self.dies_after is not None:
            if self.dies_after == 0:
                raise Crashed
            self.dies_after -= 1
        key = getattr(effect, "key", b"")
        if key and key in self.waiting:
            self.waiting[key].append(effect)
        elif isinstance(effect, Persist):
            self.waiting[effect.key] = deque([effect])
        else:
            self._do(effect)

    def _do(self, effect: object) -> None:
        super().perform(effect)
        oracles = {channel: oracle for oracle, channel in self.links.items()}
        match effect:
            case Send() if effect.channel in oracles:
                self.record.left(effect.message, oracles[effect.channel])
            case SendAll():
                for channel in oracles.keys() & set(effect.channels):
                    self.record.left(effect.message, oracles[channel])
            case Send(message=CommittedNews() as news):
                self.record.left(news, None)
            case Publish(topic="results"):
                self.record.left(unseal(DOMAIN, effect.message, Commits)[0], None)  # type: ignore[arg-type]
            case Persist():
                self.record.durable(effect.records)

    def disk_works(self) -> None:
        """What waits longest is durable, and what waited for it happens, up to the next of the kind."""
        for key, effects in list(self.waiting.items()):
            self._do(effects.popleft())
            while effects and not isinstance(effects[0], Persist):
                if self.dies_after is not None:
                    if self.dies_after == 0:
                        raise Crashed
                    self.dies_after -= 1
                self._do(effects.popleft())
            if not effects:
                del self.waiting[key]

    def disk_catches_up(self) -> None:
        """Nothing waits for it any more."""
        while self.waiting:
            self.disk_works()


class Told:
    """What has left in all lives, and the promises about it."""

    def __init__(self) -> None:
        self.kept: dict[bytes, StoredResult] = {}
        """Every result that ever was durable, as it was first."""
        self.asked: dict[Task, set[NodeId]] = defaultdict(set)
        self.commits: dict[bytes, Commit] = {}
        self.salts: dict[bytes, bytes] = {}
        self.has_commit: dict[NodeId, set[bytes]] = defaultdict(set)
        self.has_opening: dict[NodeId, set[bytes]] = defaultdict(set)

    def durable(self, records: tuple[tuple[bytes, bytes | None], ...]) -> None:
        for name, value in records:
            if value is None or not name.startswith(RESULT_RECORDS):
                continue
            stored = unpack(StoredResult, value, limit_bytes=RESULT_BYTES_MAX)
            first = self.kept.setdefault(name, stored)
            assert (first.commit, first.reveal, first.papers) == (stored.commit, stored.reveal, stored.papers)
            assert commit_of(DOMAIN, stored.reveal.reveal) == stored.commit.commit

    def left(self, message: Message, oracle: NodeId | None) -> None:
        match message:
            case CommitMessage():
                self._commit(message.signed.commit, oracle)
                if message.reveal is not None:
                    self._opening(message.reveal.reveal, message.opening, oracle)
            case RevealMessage():
                self._opening(message.signed.reveal, message.opening, oracle)
            case CommittedNews():
                self._commit(message.signed.commit, None)
                if message.reveal is not None:
                    self._opening(message.reveal.reveal, None, None)
            case Commits():
                for signed in message.commits:
                    self._commit(signed.commit, None)

    def _commit(self, commit: Commit, oracle: NodeId | None) -> None:
        name = record_of(commit)
        assert name in self.kept, "a commit leaves before its record is durable"
        assert self.kept[name].commit.commit == commit
        assert self.commits.setdefault(name, commit) == commit, "a lane's commit changes"
        if oracle is not None:
            self.has_commit[oracle].add(name)

    def _opening(self, reveal: Reveal, opening: Opening | None, oracle: NodeId | None) -> None:
        commit = commit_of(DOMAIN, reveal)
        name = record_of(commit)
        assert name in self.kept
        assert self.kept[name].commit.commit == commit
        assert self.salts.setdefault(name, reveal.salt) == reveal.salt, "a lane's salt changes"
        if self.kept[name].papers.session.opening.lanes > 1:
            assert len(self.asked[reveal.session, reveal.task]) >= ENOUGH, "an opening leaves before it is time"
        if opening is not None:
            check_opens(DOMAIN, commit, reveal, opening)
        if oracle is not None:
            self.has_opening[oracle].add(name)


class Walk:
    """A miner through several lives, its clients, its oracles and its disk."""

    def __init__(self) -> None:
        self.told = Told()
        self.disk: dict[bytes, bytes] = {}
        self.lives = self.sessions = 0
        self.now_ms: int | None = None
        self.begin()

    def begin(self) -> None:
        """The next life."""
        self.lives += 1
        self.mine = Watched(self.told, self.disk, self.lives.to_bytes(16, "big"))
        self.mine.now_ms = self.now_ms or self.mine.now_ms
        self.runs: list[Streamed] = []
        self.mine.tell_deadline()

    def step(self, data: st.DataObject) -> None:
        """Something happens; now and then the process dies in the middle of it."""
        what = data.draw(st.sampled_from(STEPS))
        if data.draw(st.integers(0, 7)) == 0:
            self.mine.dies_after = data.draw(st.integers(0, 12))
        with suppress(Crashed):
            getattr(self, what)(data)
        if self.mine.dies_after is not None:
            self.now_ms = self.mine.now_ms
            self.begin()

    def lane(self, data: st.DataObject) -> None:
        """A lane comes to its end."""
        self.sessions += 1
        kind = data.draw(st.sampled_from(["alone", "first", "other"]))
        opening = opening_of(lanes=1 if kind == "alone" else 2, number=self.sessions)
        if self.mine.machine.slots()[0] == 0 or not self._fresh():
            return
        tokens = data.draw(st.integers(0, 4))
        if kind == "other":
            Withheld(self.mine, opening).end(tokens)
            return
        run = Streamed(self.mine, opening)
        self.runs.append(run)
        run.end(tokens)

    def many(self, data: st.DataObject) -> None:
        """Lanes end together."""
        for _ in range(data.draw(st.integers(3, 5))):
            if self.mine.machine.slots()[0] and self._fresh():
                self.sessions += 1
                Withheld(self.mine, opening_of(lanes=2, number=self.sessions)).end(1)
        self.mine.wait(TICK_MS)

    def _fresh(self) -> bool:
        """Whether an announcement would still be taken: those at hand are all dated alike."""
        skew = PARAMS.announcement_lifetime_ms + PARAMS.clock_skew_ms_max
        return self.mine.now_ms - opening_of().expires_ms + 3_600_000 <= skew

    def ack(self, data: st.DataObject) -> None:
        """A client acknowledges, late."""
        if self.runs:
            run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
            if run.channel in self.mine.machine._by_channel and run.verifier.head is not None:
                run.ack()

    def leave(self, data: st.DataObject) -> None:
        """A router ends a lease."""
        channels = [channel for channel, session in self.mine.machine._by_channel.items() if session is not None]
        if channels:
            self.mine.tell_closed(data.draw(st.sampled_from(channels)))

    def asks(self, data: st.DataObject) -> None:
        """An oracle asks for the openings of a task."""
        place = data.draw(st.integers(0, 3))
        if ORACLES[place].node not in self.mine.links or not self.told.kept:
            return
        commit = self.told.kept[data.draw(st.sampled_from(sorted(self.told.kept)))].commit.commit
        self._asks(place, commit)

    def _asks(self, place: int, commit: Commit) -> None:
        self.told.asked[commit.session, commit.task].add(ORACLES[place].node)
        self.mine.say(place, RevealAsked(commit.session, commit.task))

    def cut(self, data: st.DataObject) -> None:
        """A link breaks."""
        place = data.draw(st.integers(0, 3))
        if ORACLES[place].node in self.mine.links:
            self.mine.cut(place)

    def heal(self, data: st.DataObject) -> None:
        """An oracle can be reached again."""
        self.mine.again(data.draw(st.integers(0, 3)))

    def write(self, _data: st.DataObject) -> None:
        """The disk has come so far."""
        self.mine.disk_works()

    def time(self, data: st.DataObject) -> None:
        """It passes."""
        self.mine.wait(data.draw(st.sampled_from([5, 30, 400, 3_000, 17_000])))

    def final(self, data: st.DataObject) -> None:
        """An outcome is final."""
        place = data.draw(st.integers(0, 3))
        if ORACLES[place].node in self.mine.links and self.told.commits:
            self._final(place, data.draw(st.sampled_from(sorted(self.told.commits))))

    def _final(self, place: int, name: bytes) -> None:
        reveal = self.told.kept[name].reveal.reveal
        names = (reveal.session, reveal.task, reveal.lane, Verdict.OK, reveal.root, reveal.count)
        self.mine.say(place, outcome_news(Outcome(*names, EPOCH, 0)))

    def end(self) -> None:
        """All is well from now on: what is durable and not final reaches every oracle, and is opened."""
        self.mine.disk_catches_up()
        for place in range(4):
            self.mine.again(place)
        self.told.has_commit.clear()
        self.told.has_opening.clear()
        held = dict(self.mine.machine._proving.outstanding.held)
        open_ = [name for name, result in held.items() if result.repeats is None]
        assert set(open_) == {name for name in self.disk if name.startswith(RESULT_RECORDS)}
        for name in open_:
            for place in range(4):
                self._asks(place, held[name].stored.commit.commit)
        for _ in range(3):
            self.mine.wait(AGAIN_MS_MAX)
            self.mine.disk_catches_up()
        for oracle in ORACLES:
            assert set(open_) <= self.told.has_commit[oracle.node]
            assert set(open_) <= self.told.has_opening[oracle.node]


STEPS = (
    ["lane"] * 3
    + ["write"] * 4
    + ["time"] * 3
    + ["asks"] * 4
    + ["ack"] * 2
    + ["leave"] * 2
    + ["many", "cut", "heal", "final"]
)


@pytest.mark.spec("COMMIT-DURABLE.1", "REVEAL-WHEN.1", "COMMIT-SALT.1", "RESULT-RESEND.1", "MACHINE-PERSIST.1")
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_happens_commits_are_durable_and_openings_are_not_early(data: st.DataObject) -> None:
    walk = Walk()
    for _ in range(data.draw(st.integers(5, 60))):
        walk.step(data)
    walk.end()
