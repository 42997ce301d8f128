"""A router that lies in each way it can, beside an honest one, over real libp2p: what the light client says each time.

Both routers can lie; the first one does, as each test tells it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from p2pnode.answer import Answer, RequestFailed
from p2pnode.client import LightClient, connect
from p2pnode.routers import routers_line
from p2pnode.testnet import Child, Testnet, TestnetPlan
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from protocol.roles.client import watching
from protocol.roles.client.levels import FINAL_WITHIN_MS, NO_HEADER
from tests.runtime.lying_router import tell
from tests.runtime.measured import STATUS
from tests.runtime.served import served

PARAMS = Params(heartbeat_ms=500, checkpoint_ms=1_000)
QUESTION = "Tell me a story about a rabbit."
"""Answered in several frames."""
TOKENS = 32
MEMORY_BYTES = 120_000_000
ROUND_MS = 400
"""Of the watch, so that a test need not wait for its default."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    plan = TestnetPlan(
        tmp_path_factory.mktemp("liars"),
        routers=2,
        miners=1,
        oracles=4,
        genesis=Genesis("liars", params=PARAMS.validate()),
        router_module="tests.runtime.lying_router",
    )
    with served(plan) as running:
        yield running.net


@pytest.fixture
def liar(network: Testnet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """The first router; at the end it is honest again."""
    monkeypatch.setattr(watching, "ROUND_MS", ROUND_MS)
    child = next(each for each in network.children if each.name == "router")
    yield child
    tell(child.folder, "")


def address(network: Testnet, name: str) -> str:
    return str(next(each for each in network.children if each.name == name).addresses[0])


def state(net: LightClient, place: int = 0) -> str:
    return net.routers[place].state


async def becomes(net: LightClient, wanted: str, place: int = 0) -> None:
    """Wait until the client thinks so of a router."""
    with trio.fail_after(60):
        while state(net, place) != wanted:
            await net.routers_changed()


async def ask(net: LightClient, timeout_ms: int = 20_000) -> Answer:
    """One answer; its levels rise as long as its session is open, so that is for whoever wants to see them."""
    async with net.session(tokens=TOKENS) as session:
        async with session.ask(QUESTION, max_tokens=TOKENS, timeout_ms=timeout_ms) as answer:
            await answer.read()
        await answer.wait_for("finalized", timeout_ms=FINAL_WITHIN_MS + 30_000)
    return answer


async def refused(net: LightClient, timeout_ms: int = 20_000) -> RequestFailed:
    """How an answer fails."""
    try:
        answer = await ask(net, timeout_ms)
    except RequestFailed as failed:
        return failed
    pytest.fail(f"no lie was found in {answer.text!r}, asked of 0x{net.router.hex()[:8]}; {routers_line(net.routers)}")


async def at_the_liar(net: LightClient) -> None:
    """Have sessions opened at the liar: one that is slow to answer, or behind by a header, is passed over at first."""
    await becomes(net, "alive")
    await becomes(net, "alive", 1)
    if net.router != net.routers[0].node:
        await net.greet(net.routers[0].node)


async def answers_elsewhere(net: LightClient) -> None:
    """The next session is opened at the honest router, and its answer is as good as any."""
    answer = await ask(net)
    assert (answer.level, answer.against) == ("finalized", "")
    assert net.router == net.routers[1].node


@pytest.mark.parametrize(
    ("lie", "link"),
    [
        ("text", "frame.signature"),
        ("token", "frame.signature"),
        ("own-frames", "frame.signature"),
        ("miner", "head.miner"),
        ("end", "frame.signature"),
    ],
)
@pytest.mark.spec("LIGHT-WATCH.3")
async def test_an_altered_answer_is_not_shown_and_its_router_is_left(
    network: Testnet, liar: Child, lie: str, link: str
) -> None:
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await at_the_liar(net)
        tell(liar.folder, lie)
        failed = await refused(net)
        assert failed.code == "transcript_broken"
        assert str(failed).startswith(link)
        assert state(net) == "lying"
        await answers_elsewhere(net)
        print(f"\n{lie}: {failed.code}, {str(failed)[:60]}; router {state(net)}: {net.routers[0].note[:60]}")


async def test_a_miner_that_the_bids_do_not_name_is_not_taken(network: Testnet, liar: Child) -> None:
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await at_the_liar(net)
        tell(liar.folder, "lease")
        failed = await refused(net)
        assert failed.code == "router_lost"
        assert "broke a rule" in str(failed)
        assert state(net) == "lying"
        await answers_elsewhere(net)


async def test_an_answer_that_is_cut_off_is_no_answer(network: Testnet, liar: Child) -> None:
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await at_the_liar(net)
        tell(liar.folder, "cut")
        failed = await refused(net, 2_500)
        assert failed.code == "deadline_exceeded"
        assert "no signed end record" in str(failed)
        assert failed.text, "what its miner signed was shown"


@pytest.mark.spec("LIGHT-OMISSION.1")
@pytest.mark.parametrize(("lie", "known_for"), [("omit", "withholding"), ("level", "lying")])
async def test_what_became_of_an_answer_another_router_tells(
    network: Testnet, liar: Child, lie: str, known_for: str
) -> None:
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await at_the_liar(net)
        async with net.session(tokens=TOKENS) as session:
            tell(liar.folder, lie)
            async with session.ask(QUESTION, max_tokens=TOKENS) as answer:
                await answer.read()
            with trio.fail_after(60):
                while not answer.unfinalized and answer.level != "finalized":
                    await answer.changed()
            assert answer.unfinalized, "it is told before it is known elsewhere"
            assert answer.level == "streamed"
            assert await answer.wait_for("finalized", timeout_ms=40_000)
            assert answer.news is not None
            assert not answer.news.overdue
        await becomes(net, known_for)
        await answers_elsewhere(net)
        print(f"\n{lie}: unfinalized, then {answer.level} by the other; router {state(net)}: {net.routers[0].note}")


@pytest.mark.spec("LIGHT-OMISSION.1")
async def test_where_no_router_tells_it_stays_unfinalized(network: Testnet, liar: Child) -> None:
    async with connect(address(network, "router")) as net, net.session(tokens=TOKENS) as session:
        tell(liar.folder, "omit")
        async with session.ask(QUESTION, max_tokens=TOKENS) as answer:
            await answer.read()
        assert not await answer.wait_for("committed", timeout_ms=FINAL_WITHIN_MS + 1_500)
        assert answer.unfinalized
        assert (answer.level, answer.against) == ("streamed", "")
        tell(liar.folder, "")
        assert await answer.wait_for("finalized", timeout_ms=40_000), "it is asked again"


@pytest.mark.spec("LIGHT-WATCH.1")
async def test_a_router_whose_headers_are_old_is_behind(network: Testnet, liar: Child) -> None:
    async with connect(address(network, "router-2")) as net:
        await becomes(net, "alive")
    tell(liar.folder, "stale")
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await becomes(net, "behind")
        assert state(net, 1) == "alive"
        print(f"\nstale: router {state(net)}: {net.routers[0].note}")
        await answers_elsewhere(net)


@pytest.mark.spec("LIGHT-OMISSION.1")
async def test_a_router_that_hides_the_committee_is_seen_through_where_another_is_named(
    network: Testnet, liar: Child
) -> None:
    tell(liar.folder, "headless")
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        assert not net.shows_header
        async with net.session(tokens=TOKENS) as session:
            async with session.ask(QUESTION, max_tokens=TOKENS) as answer:
                await answer.read()
            assert await answer.wait_for("finalized", timeout_ms=FINAL_WITHIN_MS + 30_000)
        await becomes(net, "behind")
    async with connect(address(network, "router")) as net, net.session(tokens=TOKENS) as session:
        async with session.ask(QUESTION, max_tokens=TOKENS) as answer:
            await answer.read()
        with trio.fail_after(40):
            while not answer.against:
                await answer.changed()
        assert (answer.level, answer.against) == ("streamed", NO_HEADER)


@pytest.mark.spec("LIGHT-WATCH.3")
async def test_a_header_that_nobody_signed_convicts_who_shows_it(network: Testnet, liar: Child) -> None:
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await becomes(net, "alive")
        tell(liar.folder, "header")
        await becomes(net, "lying")
        print(f"\nheader: router {state(net)}: {net.routers[0].note}")
        await answers_elsewhere(net)


@pytest.mark.spec("HANDOVER-TAKEN.1")
async def test_a_forged_hand_over_convicts_who_shows_it(network: Testnet, liar: Child) -> None:
    tell(liar.folder, "hand-over")
    async with connect(address(network, "router"), address(network, "router-2")) as net:
        await becomes(net, "lying")
        print(f"\nhand-over: router {state(net)}: {net.routers[0].note}")
        await answers_elsewhere(net)
    async with connect(address(network, "router")) as net:
        await becomes(net, "lying")
        failed = await refused(net)
        assert failed.code == "router_lost"
        assert "these are not the members that epoch 1 named" in str(failed)


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells what a process had at most")
def test_a_light_client_of_several_routers_needs_little_memory(network: Testnet, tmp_path: Path) -> None:
    """The whole of it, Python and libp2p included, at its peak."""
    routers = [option for name in ("router", "router-2") for option in ("--router", address(network, name))]
    taken = tmp_path / "taken.json"
    module = [sys.executable, "-m", "tests.runtime.measured", str(taken)]
    chat = ["chat", *routers, "--json", "--level", "finalized", "--max-tokens", "64", QUESTION]
    env = {**os.environ, "P2PNODE_HOME": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run([*module, *chat], env=env, capture_output=True, text=True, timeout=60, check=True)
    answer, took = json.loads(done.stdout), json.loads(taken.read_text())
    assert answer["level"] == "finalized"
    assert [router["state"] for router in answer["routers"]] == ["alive", "alive"]
    print(f"\nlight client: {took['peak_bytes'] / 1e6:.0f} MB at its peak")
    assert took["peak_bytes"] <= MEMORY_BYTES
    assert not {name.split(".")[0] for name in took["modules"]} & {"llama_cpp", "numpy", "eth_account", "web3"}
    assert "protocol.roles.router" not in took["modules"]
