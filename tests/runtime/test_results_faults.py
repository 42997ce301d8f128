"""Results through trouble, on real processes: epochs that end under a session, oracles that die while they observe."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from p2pnode.answer import Answer
from p2pnode.client import connect
from p2pnode.session import Session
from p2pnode.testnet import Testnet, TestnetPlan, client_key
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from tests.runtime.compare_disks import compare
from tests.runtime.served import Served, served
from tests.runtime.transports import eventually

QUESTION = "Where does a bear live?"
EPOCH_BLOCKS = 8
EPOCHS = 3
EPOCHS_WITHIN_S = 180
FINAL_MS = 60_000
KILLED_AFTER_MS = (0, 15, 40)
"""The signed end of an answer: when its miner commits, when values are signed, when the block comes."""


def plan(folder: Path, **changes: int) -> TestnetPlan:
    """A testnet of four oracles."""
    genesis = Genesis("results", params=Params(heartbeat_ms=1_000, **changes))
    return TestnetPlan(folder, miners=2, oracles=4, genesis=genesis)


@contextmanager
def network(plan: TestnetPlan) -> Iterator[Served]:
    """The testnet; when it is down, what the oracles left on their disks is compared."""
    with served(plan) as running:
        yield running
    found = compare([oracle.folder for oracle in running.net.oracles])
    assert found.wrong == []
    assert found.signatures > 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For the tests that kill oracles; the last of them leaves it with three."""
    with network(plan(tmp_path_factory.mktemp("results"))) as running:
        yield running


@asynccontextmanager
async def session_at(net: Testnet, lanes: int = 1) -> AsyncIterator[Session]:
    async with (
        connect(net.address, key=client_key(net.plan.folder)) as client,
        client.session(lanes=lanes, tokens=65_536) as session,
    ):
        yield session


async def ask(session: Session) -> Answer:
    async with session.ask(QUESTION, max_tokens=32) as answer:
        await answer.read()
    return answer


def spent_wei(net: Testnet, session: Session) -> int:
    """As it stands in the ledger of an oracle that runs."""
    answer = net.oracles[0].ask(f"ledger:session:{session.id.hex()}")
    return int(answer["record"]["spent_wei"])


async def all_paid(net: Testnet, session: Session, answers: list[Answer]) -> None:
    """Every token is paid for: of a lane that was decided before its session was reserved, a little later."""
    tokens = sum(len(answer.token_ids) for answer in answers)
    await eventually(lambda: spent_wei(net, session) == tokens)


@pytest.mark.spec("OUTCOME-HOME.1")
def test_a_session_goes_on_across_epochs_and_every_answer_is_decided(tmp_path: Path) -> None:
    with network(plan(tmp_path, epoch_blocks=EPOCH_BLOCKS)) as running:
        trio.run(_goes_on, running.net)


async def _goes_on(net: Testnet) -> None:
    async with session_at(net) as session:
        answers: list[Answer] = []
        epochs: set[int] = set()
        # Blocks come no faster than their interval, answers as fast as the machine is: only time bounds them.
        with trio.fail_after(EPOCHS_WITHIN_S):
            while len(epochs) < EPOCHS:
                answers.append(await ask(session))
                epochs.add(net.oracles[0].ask("status")["oracle"]["epoch"])
        for answer in answers:
            assert await answer.wait_for("finalized", timeout_ms=FINAL_MS), (answer.levels, answer.against)
        await all_paid(net, session, answers)


@pytest.mark.spec("OBSERVE-ONCE.2")
@pytest.mark.parametrize("lanes", [1, 2])
async def test_an_oracle_that_dies_while_it_observes_says_nothing_else_when_it_is_back(
    running: Served, lanes: int
) -> None:
    async with session_at(running.net, lanes) as session:
        for number, after_ms in enumerate(KILLED_AFTER_MS):
            oracle = running.net.oracles[number]
            answer = await ask(session)
            await trio.sleep(after_ms / 1_000)  # the fault's own timing, nothing is waited for
            await trio.to_thread.run_sync(running.kill, oracle)
            assert await answer.wait_for("finalized", timeout_ms=FINAL_MS), (answer.levels, answer.against)
            await trio.to_thread.run_sync(running.restart_oracle, oracle)
            assert answer.news is not None
            assert answer.news.evidence == 0, "nobody said two things"


@pytest.mark.spec("OUTCOME-DECIDE.1")
async def test_a_committee_of_four_goes_on_when_one_is_lost_for_good(running: Served) -> None:
    async with session_at(running.net) as session:
        await trio.to_thread.run_sync(running.kill, running.net.oracles[2])
        answers = [await ask(session) for _ in range(3)]
        for answer in answers:
            assert await answer.wait_for("finalized", timeout_ms=FINAL_MS), (answer.levels, answer.against)
            assert answer.news is not None
            assert (answer.news.agreeing, answer.news.members) == (3, 4)
        await all_paid(running.net, session, answers)
