"""Settling on anvil, and what goes wrong with it: reorganisations, outages, another chain, an oracle that votes twice.

One network for all: the committee certifies whatever the chain does, and the contract catches up.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from chain.localchain import open_local_chain
from p2pnode.answer import Answer
from p2pnode.client import connect
from p2pnode.evidence_papers import write_evidence
from p2pnode.identity import read_keystore
from p2pnode.receipts import load_receipt, save_receipt
from p2pnode.session import Session
from p2pnode.testnet import Child, TestnetPlan, client_key
from p2pnode.testnet_chain import STAKE, ChainPlan
from p2pnode.testnet_folder import KEYSTORE
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.evidence import ConflictingCommits
from protocol.messages.results import Commit, SignedCommit
from protocol.results.convictions import make_file
from tests.runtime.cli import assert_refused, p2pnode
from tests.runtime.equivocating_oracle import tell
from tests.runtime.local_chain import needs_anvil
from tests.runtime.settling_net import OnChain, final, settling, until

pytestmark = needs_anvil
PARAMS = Params(
    heartbeat_ms=1_000, anchor_stride=2, checkpoint_ms=1_000, checkpoint_idle_ms=3_000, turn_ms=2_000
).validate()
SLOTS = 8
"""A block is final when twice as many stand on it: room for a reorganisation."""
DEPTH = 12
QUESTION = "Where does a bear live?"
SOON_S = 90.0
FINAL_MS, SETTLED_MS = 60_000, 90_000


@pytest.fixture(scope="module")
def on_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnChain]:
    plan = TestnetPlan(
        tmp_path_factory.mktemp("settling"),
        miners=1,
        oracles=4,
        genesis=Genesis("settling", params=PARAMS),
        oracle_module="tests.runtime.equivocating_oracle",
        chain=ChainPlan("anvil"),
    )
    with settling(plan) as found:
        found.start(found.stop(), SLOTS)
        found.mine(3 * SLOTS)
        yield found


@asynccontextmanager
async def session_of(on_chain: OnChain) -> AsyncIterator[Session]:
    net = on_chain.net
    async with (
        connect(net.address, key=client_key(net.plan.folder), rpc=net.rpc) as client,
        client.session(tokens=2_048) as session,
    ):
        yield session


async def certified(session: Session) -> Answer:
    """An answer that is final, whatever the chain does."""
    async with session.ask(QUESTION, max_tokens=32) as answer:
        await answer.read()
    assert await answer.wait_for("finalized", timeout_ms=FINAL_MS)
    return answer


def place(answer: Answer) -> int:
    """The height of the block that decided it."""
    assert answer.news is not None
    assert answer.news.final is not None
    return answer.news.final.height


async def holds(what: Callable[[], object], told: str) -> None:
    await trio.to_thread.run_sync(partial(until, what, SOON_S, told))


async def test_a_checkpoint_that_is_reorganised_away_lands_again(on_chain: OnChain) -> None:
    async with session_of(on_chain) as session:
        answer = await certified(session)
        await holds(lambda: on_chain.height() >= place(answer), "a checkpoint holds the answer")
        on_chain.rpc("anvil_reorg", DEPTH, [])
        assert on_chain.height() < place(answer), "the block that held it is in the chain no more"
        assert answer.level == "finalized"
        later = await certified(session)
        await holds(lambda: on_chain.height() >= place(later), "it lands again, or a newer one does")
        on_chain.mine(2 * SLOTS + 1)
        for each in (answer, later):
            assert await each.wait_for("settled", timeout_ms=SETTLED_MS)
    assert all(on_chain.status(oracle)["trouble"] == "" for oracle in on_chain.net.oracles)


async def test_without_the_chain_certification_goes_on_and_the_newest_header_lands_after(on_chain: OnChain) -> None:
    async with session_of(on_chain) as session:
        before = on_chain.checkpoint()
        assert before is not None
        port = await trio.to_thread.run_sync(on_chain.stop)
        answers = [await certified(session) for _ in range(5)]
        oracle = on_chain.net.oracles[0]
        await holds(lambda: on_chain.status(oracle)["trouble"], "an oracle says that it cannot ask the chain")
        down = final(oracle)[1]
        assert down > before.height
        await trio.to_thread.run_sync(on_chain.start, port, SLOTS)
        await holds(lambda: on_chain.height() >= down, "the contract catches up")
        after = on_chain.checkpoint()
        assert after is not None
        # One more may have been under way when the chain went down.
        assert after.sequence <= before.sequence + 2, "by the newest header, at once"
        on_chain.mine(2 * SLOTS + 1)
        for answer in answers:
            assert await answer.wait_for("settled", timeout_ms=SETTLED_MS)
        await holds(lambda: not on_chain.status(oracle)["trouble"], "the oracle can ask again")


def test_another_chain_is_refused_with_a_clear_error(on_chain: OnChain, tmp_path: Path) -> None:
    genesis = str(on_chain.net.plan.folder / "genesis.json")
    with open_local_chain(tmp_path / "other", "embedded", chain_id=1_337) as other:
        env = {"P2PNODE_NETWORK_GENESIS": genesis, "P2PNODE_CHAIN_URLS": other.url}
        assert_refused(p2pnode(tmp_path, "run", "--role", "oracle", **env), "chain 1337")
        address = on_chain.net.address
        assert_refused(p2pnode(tmp_path, "chat", "--router", address, "--rpc", other.url, QUESTION), "chain 1337")


@pytest.mark.spec("EVM-SETTLED.1", "CHAIN-PROOF.1", "RECEIPT-CHECKPOINT.1")
async def test_what_is_settled_is_proved_to_whoever_has_no_chain(on_chain: OnChain, tmp_path: Path) -> None:
    net, file, genesis = on_chain.net, tmp_path / "receipt", on_chain.net.plan.folder / "genesis.json"
    async with session_of(on_chain) as session:
        answer = await certified(session)
        save_receipt(file, answer.receipt())
    await holds(lambda: on_chain.height() >= place(answer), "a checkpoint holds the answer")
    on_chain.mine(2 * SLOTS + 1)

    def proved() -> bool:
        asked = ("--router", net.address, *(word for url in net.rpc for word in ("--rpc", url)))
        refreshed = p2pnode(tmp_path, "receipt", "refresh", file, *asked, "--json")
        assert refreshed.status == 0, refreshed
        settled = load_receipt(file).settled
        return settled is not None and settled.evm is not None

    await holds(proved, "a header anchors a block in which the contract has accepted the answer's")
    offline = await trio.to_thread.run_sync(partial(p2pnode, tmp_path, "verify", file, "--genesis", genesis, "--json"))
    assert offline.status == 0, offline
    assert json.loads(offline.out)["level"] == "settled"


def contradiction(genesis: Genesis, keystore: Path, file: Path) -> None:
    """An evidence file: two commits to one lane, by the key of a node."""
    key, domain = read_keystore(keystore, ""), genesis.domain()
    commits = [Commit(b"\1" * 32, 1, 0, bytes(24), key.node_id, bytes([number]) * 32) for number in (2, 3)]
    signed = [SignedCommit(commit, key.sign(typed_digest(domain, commit))) for commit in commits]
    write_evidence(file, make_file(genesis, [ConflictingCommits(*signed)]))


@pytest.mark.spec("EVIDENCE-HAND-IN.1")
async def test_evidence_handed_to_a_running_node_is_gossiped_and_slashed_by_the_oracles_in_turn(
    on_chain: OnChain, tmp_path: Path
) -> None:
    """What convicts the router, whose key anybody could have stolen, is handed to itself."""
    (router,), oracle, file = on_chain.net.routers, on_chain.net.oracles[0], tmp_path / "evidence"
    assert not on_chain.node(router).jailed
    contradiction(on_chain.genesis, router.folder / KEYSTORE, file)

    async def hand_in(to: Child) -> str:
        command = partial(p2pnode, tmp_path, "evidence", "submit", file, "--state-dir", to.folder)
        ended = await trio.to_thread.run_sync(command)
        assert ended.status == 0, ended
        return ended.out

    assert "gossiped to the oracles" in await hand_in(router)
    await holds(lambda: on_chain.node(router).jailed, "the registry has jailed it")
    assert on_chain.node(router).stake == STAKE // 2
    assert not any(on_chain.node(each).jailed for each in on_chain.net.oracles)
    told = await hand_in(oracle)
    assert "the oracle has it already" in told or "is jailed already" in told
    async with session_of(on_chain) as session:
        await certified(session)


async def test_an_oracle_that_votes_twice_ends_slashed_on_the_contract_and_no_other(on_chain: OnChain) -> None:
    *honest, liar = on_chain.net.oracles
    assert not on_chain.node(liar).jailed
    await trio.to_thread.run_sync(tell, liar.folder)
    await holds(lambda: on_chain.node(liar).jailed, "the registry has jailed it")
    assert on_chain.node(liar).stake == STAKE // 2
    assert not any(on_chain.node(oracle).jailed for oracle in honest)
    async with session_of(on_chain) as session:
        answer = await certified(session)
        await holds(lambda: on_chain.height() >= place(answer), "the others go on")
    assert not any(on_chain.node(oracle).jailed for oracle in honest)
