"""Miners that lie in how they commit, in processes of their own, before four oracles over real libp2p.

Both miners can lie; which of them does is chosen when its session says who has which lane.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from p2pnode.answer import Answer
from p2pnode.client import connect
from p2pnode.testnet import Child, Testnet, TestnetPlan, client_key
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from tests.runtime.logged import logged
from tests.runtime.lying_results import tell
from tests.runtime.served import served

WINDOW_MS = 2_000
PARAMS = Params(heartbeat_ms=1_000, commit_window_ms=WINDOW_MS, reveal_window_ms=WINDOW_MS)
LATE_MS = 3 * WINDOW_MS // 2
QUESTION = "Where does a bear live?"
TOKENS = 48
SETTLED_S = 90.0
BLOCKS = 2
"""So many more are waited for, in which nothing may follow."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    plan = TestnetPlan(
        tmp_path_factory.mktemp("lies"),
        miners=2,
        oracles=4,
        genesis=Genesis("lies", params=PARAMS.validate()),
        miner_module="tests.runtime.lying_results",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATE_MS", str(LATE_MS))
        with served(plan) as running:
            yield running.net


@dataclass(frozen=True)
class Told:
    """What became of one order."""

    answer: Answer
    verdicts: dict[int, str]
    """By lane."""
    roots: dict[int, str]
    counts: dict[int, int]
    spent_wei: int
    """Of the session."""
    moved: dict[int, int]
    """How the reputation of each lane's miner changed."""
    evidence: list[Counter[str]]
    """What each oracle noted against the liar, by kind."""

    def fee_wei(self, lane: int) -> int:
        """What a lane above 0 is paid."""
        return self.counts[lane] * PARAMS.lane_fee_bp // 10_000

    def show(self, lie: str, lane: int) -> None:
        """One line for who runs the test."""
        print(
            f"\n{lie} in lane {lane}: verdicts {self.verdicts}, client: {self.answer.level}"
            f"{' against: ' + self.answer.against if self.answer.against else ''}, spent {self.spent_wei} wei for "
            f"{len(self.answer.token_ids)} tokens, reputation {self.moved}, evidence {list(map(dict, self.evidence))}"
        )


def reputation(net: Testnet, miner: bytes) -> int:
    """As the first oracle's ledger has it."""
    return int(net.oracles[0].ask(f"ledger:miner:{miner.hex()}")["record"]["reputation_bp"])


def outcomes(oracle: Child, session: bytes, first: int) -> list[dict[str, Any]]:
    """All that were decided of a session, from an index on."""
    count = oracle.ask("ledger")["total"]["outcomes"]
    rows = [oracle.ask(f"ledger:outcome:{index}")["record"] for index in range(first, count)]
    return [row for row in rows if row["session"] == session.hex()]


def noted(oracle: Child, miner: bytes) -> Counter[str]:
    """The evidence that an oracle has noted against a miner, by kind."""
    return Counter(line["kind"] for line in logged(oracle.log, "oracle.evidence") if line["against"] == miner.hex())


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is asked for again and again."""
    while True:
        if holds():
            return
        await trio.sleep(0.1)


async def settled(net: Testnet, session: bytes, lanes: int, first: int) -> list[dict[str, Any]]:
    """The outcomes of all lanes at every oracle, when some blocks have followed."""
    with trio.fail_after(SETTLED_S):
        await until(lambda: all(len(outcomes(oracle, session, first)) >= lanes for oracle in net.oracles))
        height = net.oracles[0].ask("ledger")["height"]
        await until(lambda: all(oracle.ask("ledger")["height"] >= height + BLOCKS for oracle in net.oracles))
    rows = [outcomes(oracle, session, first) for oracle in net.oracles]
    assert all(each == rows[0] for each in rows)
    assert sorted(row["lane"] for row in rows[0]) == list(range(lanes)), "one outcome a lane"
    return rows[0]


async def ask(net: Testnet, lie: str, lane: int, lanes: int = 2) -> Told:
    """One order in a session whose miner of ``lane`` lies."""
    first = net.oracles[0].ask("ledger")["total"]["outcomes"]
    async with (
        connect(net.address, key=client_key(net.plan.folder)) as client,
        client.session(lanes=lanes, tokens=512) as session,
    ):
        miners = session.assigned.assignment.miners
        liar = next(child for child in net.children if child.name == net.name_of("0x" + miners[lane].hex()))
        before = [reputation(net, miner) for miner in miners]
        known = [noted(oracle, miners[lane]) for oracle in net.oracles]
        tell(liar.folder, session.id, lie)
        async with session.ask(QUESTION, max_tokens=TOKENS) as answer:
            await answer.read()
        await answer.wait_for("finalized", timeout_ms=int(SETTLED_S * 1_000))
        rows = await settled(net, session.id, lanes, first)
        spent_wei = net.oracles[0].ask(f"ledger:session:{session.id.hex()}")["record"]["spent_wei"]
    told = Told(
        answer,
        {row["lane"]: row["verdict"] for row in rows},
        {row["lane"]: row["root"] for row in rows},
        {row["lane"]: row["tokens"] for row in rows},
        spent_wei,
        {number: reputation(net, miner) - before[number] for number, miner in enumerate(miners)},
        [noted(oracle, miners[lane]) - had for oracle, had in zip(net.oracles, known, strict=True)],
    )
    told.show(lie or "honest", lane)
    return told


def refused(told: Told, lane: int) -> None:
    """The liar of a lane had nothing of it and stands worse, the other lane's miner was paid and stands no worse."""
    other = 1 - lane
    assert told.verdicts[other] == "ok"
    assert told.counts[other] > 0
    assert told.counts[lane] == 0
    assert told.moved[lane] < 0 <= told.moved[other]
    if lane:
        assert told.answer.level == "finalized"
        assert told.answer.against == ""
        assert told.spent_wei == len(told.answer.token_ids)
    else:
        assert told.answer.level != "finalized"
        assert told.answer.against == told.verdicts[0]
        assert told.spent_wei == told.fee_wei(1) > 0


async def test_whoever_does_not_lie_is_paid_in_both_lanes(net: Testnet) -> None:
    told = await ask(net, "", 1)
    assert told.verdicts == {0: "ok", 1: "ok"}
    assert told.answer.level == "finalized"
    assert told.spent_wei == len(told.answer.token_ids) + told.fee_wei(1)
    assert told.evidence == [Counter()] * 4


@pytest.mark.spec("OBSERVE-UNREVEALED.1")
@pytest.mark.parametrize("lane", [0, 1])
async def test_who_never_opens_its_commit_is_unrevealed_and_unpaid(net: Testnet, lane: int) -> None:
    told = await ask(net, "silent", lane)
    assert told.verdicts[lane] == "unrevealed"
    refused(told, lane)
    assert told.evidence == [Counter()] * 4, "nothing that it signed speaks against it"


# An oracle notes at most four pieces of evidence against one node: these three tests make four, were it always one.


@pytest.mark.spec("OBSERVE-MISMATCH.1")
async def test_who_opens_its_commit_falsely_is_convicted_by_its_own_word(net: Testnet) -> None:
    told = await ask(net, "false", 0)
    assert told.verdicts[0] == "mismatch"
    refused(told, 0)
    assert told.evidence == [Counter(FalseReveal=1)] * 4


@pytest.mark.spec("COMMIT-BOUND.1")
async def test_who_copies_a_commit_cannot_open_it(net: Testnet) -> None:
    told = await ask(net, "copies", 1)
    assert told.verdicts[1] == "mismatch"
    refused(told, 1)
    assert told.evidence == [Counter(FalseReveal=1)] * 4, "its place is in the commitment"


async def test_who_commits_twice_is_convicted_and_has_one_outcome(net: Testnet) -> None:
    told = await ask(net, "twice", 0)
    assert all(noted["ConflictingCommits"] == 1 for noted in told.evidence)
    # Two oracles hold the commit that it opens, two the other. The first three values decide.
    if told.verdicts[0] != "ok":
        assert told.verdicts[0] == "mismatch"
        refused(told, 0)
        return
    assert told.verdicts[1] == "ok"
    assert told.answer.level == "finalized"
    assert told.spent_wei == len(told.answer.token_ids) + told.fee_wei(1)


@pytest.mark.spec("OBSERVE-LATE.1")
@pytest.mark.parametrize("lane", [0, 1])
async def test_who_commits_after_the_window_is_late_and_unpaid(net: Testnet, lane: int) -> None:
    told = await ask(net, "late", lane)
    assert told.verdicts[lane] == "late"
    refused(told, lane)


@pytest.mark.spec("LEVEL-PROVED.1")
@pytest.mark.parametrize("lanes", [1, 2])
async def test_a_client_does_not_take_another_result_than_it_read_for_its_own(net: Testnet, lanes: int) -> None:
    told = await ask(net, "another", 0, lanes)
    # To the oracles, that see no tokens, it is a result like any other; only the reader knows.
    assert told.verdicts[0] == "ok"
    assert told.answer.level != "finalized"
    assert [reached.level for reached in told.answer.levels] in ([], ["committed"])
    assert told.answer.against == "another result"
    # It is paid for what its client has read and acknowledged, and for no more.
    assert told.spent_wei == len(told.answer.token_ids) + (told.fee_wei(1) if lanes > 1 else 0)
