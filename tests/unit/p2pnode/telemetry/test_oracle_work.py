"""What is told of an oracle: its one value of a lane, and the block that decided it."""

from typing import Any

import pytest

from p2pnode.telemetry.miner_work import miner_span
from p2pnode.telemetry.oracle_work import OracleWork
from p2pnode.telemetry.span import Span
from p2pnode.telemetry.tap import Counts, Tap
from p2pnode.telemetry.teller import Teller
from protocol.core.codec import pack
from protocol.core.machine import Channel, Note, Persist, Received, Send
from protocol.ledger.records import lane_key
from protocol.messages.committee import Batch, Offer, SignedBatch
from protocol.messages.results import Commit, CommitMessage, Content, Observation, SignedCommit, Verdict
from protocol.roles.oracle.outcomes import LANE
from tests.unit.protocol.keys import key

ME, OTHER, MINER = key(1).node, key(2).node, key(3).node
SESSION = bytes(range(32))
ROOT = bytes(32)


class Scene:
    """An oracle's tap, and what it told."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.now_ns = 1_000
        self.counts = Counts()
        teller = Teller("oracle", ME, lambda: self.now_ns, self.spans.append)
        self.tap = Tap("oracle", self.counts, [OracleWork(teller)])

    def commits(self, task: int, lane: int = 0) -> None:
        commit = Commit(SESSION, task, lane, bytes(24), MINER, ROOT)
        papers: Any = None  # nobody here looks at them
        self.tap.event(Received(Channel(1), CommitMessage(SignedCommit(commit, bytes(65)), papers)))

    def offers(self, number: int, *lanes: tuple[int, int], oracle: bytes = ME, verdict: Verdict = Verdict.OK) -> None:
        values = tuple(Observation(SESSION, task, lane, verdict, ROOT, 8) for task, lane in lanes)
        batch = Batch(1, oracle, number, bytes(32), bytes(32))
        self.tap.effect(Send(Channel(2), Offer(SignedBatch(batch, bytes(65), pack(Content(observations=values))))))

    def finalizes(self, height: int, *lanes: tuple[int, int]) -> None:
        records = tuple((LANE + lane_key(SESSION, task, lane), bytes(8)) for task, lane in lanes)
        self.tap.effect(Persist(b"committee", records))
        self.tap.effect(Note("oracle.final", (("epoch", 1), ("height", height))))

    def told(self) -> list[tuple[str, str, int, int]]:
        """Names, roles, tasks and how long each took; nothing twice."""
        assert self.counts.bugs == 0
        return [(span.name, span.role, span.task, span.end_ns - span.start_ns) for span in self.spans]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_observation_hangs_under_the_miner_and_ends_with_the_own_value(scene: Scene) -> None:
    scene.commits(7)
    scene.now_ns += 50
    scene.commits(7)  # from another member, once more
    scene.offers(1, (7, 0))
    scene.offers(1, (7, 0))  # to the next member
    scene.now_ns += 300
    scene.finalizes(4, (7, 0))
    assert scene.told() == [("observation", "oracle", 7, 50), ("finalization", "oracle/final", 7, 300)]
    observed, final = scene.spans
    assert observed.parent == miner_span(SESSION, 7, 0, MINER)
    assert observed.attributes == {"verdict": "ok", "tokens": 8}
    assert final.parent == observed.span_id
    assert final.attributes == {"epoch": 1, "height": 4}
    scene.finalizes(5)
    assert len(scene.spans) == 2


def test_lanes_are_told_apart_and_others_batches_are_not_its_own(scene: Scene) -> None:
    scene.commits(7)
    scene.commits(7, 1)
    scene.offers(9, (7, 0), (7, 1), oracle=OTHER)
    assert scene.told() == []
    scene.offers(1, (7, 0), (7, 1))
    assert [span.role for span in scene.spans] == ["oracle", "oracle.1"]
    assert scene.spans[1].parent == miner_span(SESSION, 7, 1, MINER)
    scene.finalizes(4, (7, 1))
    assert [span.role for span in scene.spans[2:]] == ["oracle.1/final"]
    assert scene.spans[2].parent == scene.spans[1].span_id


def test_a_lane_without_a_commit_is_observed_all_the_same(scene: Scene) -> None:
    scene.offers(1, (3, 0), verdict=Verdict.LATE)
    assert scene.told() == [("observation", "oracle", 3, 0)]
    assert scene.spans[0].parent is None
    assert scene.spans[0].attributes["verdict"] == "late"


def test_a_lane_that_others_decided_without_it_is_no_finalization_of_its_own(scene: Scene) -> None:
    scene.commits(3)
    scene.finalizes(2, (3, 0))
    assert scene.told() == []
    scene.offers(1, (3, 0))
    assert [name for name, *_ in scene.told()] == ["observation"]
