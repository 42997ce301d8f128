"""Results through trouble, on real processes: epochs that end under a session, oracles that die while they observe."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pnode.answer import Answer
from p2pnode.client import connect
from p2pnode.session import Session
from p2pnode.testnet import Child, Testnet, TestnetPlan, client_key, open_testnet
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from tests.runtime.compare_disks import compare
from tests.runtime.transports import eventually

QUESTION = "Where does a bear live?"
EPOCH_BLOCKS = 8
EPOCHS = 3
EPOCHS_WITHIN_S = 60
FINAL_MS = 20_000
KILLED_AFTER_MS = (0, 15, 40)
"""The signed end of an answer: when its miner commits, when values are signed, when the block comes."""


@asynccontextmanager
async def network(folder: Path, **changes: int) -> AsyncIterator[Testnet]:
    """A testnet of four oracles; when it is down, what they left on their disks is compared."""
    genesis = Genesis("results", params=Params(heartbeat_ms=1_000, **changes))
    async with open_testnet(TestnetPlan(folder, miners=2, oracles=4, genesis=genesis)) as net:
        yield net
    found = compare([oracle.folder for oracle in net.oracles])
    assert found.wrong == []
    assert found.signatures > 0


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


async def kill(child: Child) -> None:
    child.process.kill()
    await child.process.wait()


def spent_wei(net: Testnet, session: Session) -> int:
    """As it stands in the ledger of an oracle that runs."""
    answer = net.oracles[0].ask(f"ledger:session:{session.id.hex()}")
    return int(answer["record"]["spent_wei"])


async def all_paid(net: Testnet, session: Session, answers: list[Answer]) -> None:
    """Every token is paid for: of a lane that was decided before its session was reserved, a little later."""
    tokens = sum(len(answer.token_ids) for answer in answers)
    await eventually(lambda: spent_wei(net, session) == tokens)


@pytest.mark.spec("OUTCOME-HOME.1")
async def test_a_session_goes_on_across_epochs_and_every_answer_is_decided(tmp_path: Path) -> None:
    async with network(tmp_path, epoch_blocks=EPOCH_BLOCKS) as net, session_at(net) as session:
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
    tmp_path: Path, lanes: int
) -> None:
    async with network(tmp_path) as net, trio.open_nursery() as nursery, session_at(net, lanes) as session:
        for number, after_ms in enumerate(KILLED_AFTER_MS):
            oracle = net.oracles[number]
            answer = await ask(session)
            await trio.sleep(after_ms / 1_000)  # the fault's own timing, nothing is waited for
            await kill(oracle)
            assert await answer.wait_for("finalized", timeout_ms=FINAL_MS), (answer.levels, answer.against)
            await net.restart_oracle(oracle, nursery)
            assert answer.news is not None
            assert answer.news.evidence == 0, "nobody said two things"
        nursery.cancel_scope.cancel()


@pytest.mark.spec("OUTCOME-DECIDE.1")
async def test_a_committee_of_four_goes_on_when_one_is_lost_for_good(tmp_path: Path) -> None:
    async with network(tmp_path) as net, session_at(net) as session:
        await kill(net.oracles[2])
        answers = [await ask(session) for _ in range(3)]
        for answer in answers:
            assert await answer.wait_for("finalized", timeout_ms=FINAL_MS), (answer.levels, answer.against)
            assert answer.news is not None
            assert (answer.news.agreeing, answer.news.members) == (3, 4)
        await all_paid(net, session, answers)
