"""Several routers on real parts: kill -9 of the one that serves, in the middle of an answer.

One testnet for all: each test names two routers that are left of it.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from p2pnode.client import connect
from p2pnode.testnet import Child, TestnetPlan
from tests.runtime.served import Served, served
from tests.runtime.test_network import P2PNODE, STORY, run

CHAT = ("--seed", "kill", "--temperature", "1")
ROUTERS = 5
"""The tests below kill four."""


class Routed:
    """Two routers of the testnet, and what it answers when nothing happens."""

    def __init__(self, running: Served, home: Path, undisturbed: str = "") -> None:
        self.env = {**os.environ, "P2PNODE_HOME": str(home), "NO_COLOR": "1"}
        self.undisturbed = undisturbed
        self._running = running
        alive = [router for router in running.net.routers if router.process.poll() is None]
        self.first, self.next = alive[:2]
        named = [option for router in (self.first, self.next) for option in ("--router", str(router.addresses[0]))]
        self._chat = ["chat", *named, *CHAT]

    def answer(self) -> str:
        """To the question."""
        done = run(*self._chat, "--json", STORY, env=self.env)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["text"])

    def kill(self, router: Child) -> None:
        """kill -9."""
        self._running.kill(router)

    def asking(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The question, as a command that runs."""
        pipe = subprocess.PIPE
        command = [*P2PNODE, *self._chat, *arguments, STORY]
        return subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    plan = TestnetPlan(
        tmp_path_factory.mktemp("routers"), routers=ROUTERS, miners=2, miner_module="tests.runtime.lying_miner"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIES", "miner-1=calm,miner-2=calm")
        with served(plan) as running:
            yield running


@pytest.fixture(scope="module")
def undisturbed(running: Served, tmp_path_factory: pytest.TempPathFactory) -> str:
    return Routed(running, tmp_path_factory.mktemp("home")).answer()


@pytest.fixture
def routed(running: Served, undisturbed: str, tmp_path: Path) -> Routed:
    return Routed(running, tmp_path, undisturbed)


def node(router: Child) -> str:
    return str(router.ready["node"])


def test_chat_goes_on_at_the_next_router_and_says_so(routed: Routed) -> None:
    asking = routed.asking()
    assert asking.stdout is not None
    first = os.read(asking.stdout.fileno(), 1)  # the answer has begun
    routed.kill(routed.first)
    rest, said = asking.communicate(timeout=60)

    assert asking.returncode == 0, said
    assert (first + rest).decode().rstrip("\n") == routed.undisturbed
    assert "the router is lost; looking for it, or for the next one" in said.decode()
    assert f"failed over to router {node(routed.next)}" in said.decode()

    told = json.loads(run("explain", "last", "--json", env=routed.env).stdout)
    assert [a["router"] for a in told["assignments"]] == [node(routed.first), node(routed.next)]
    numbers = [assignment["number"] for assignment in told["assignments"]]
    assert numbers[0] <= 1_024 < numbers[1]
    assert run("explain", env=routed.env).stdout.count("\nassignment ") == 2

    # The only router that is left is lost as well: an error and a next step, in bounded time.
    asking = routed.asking("--max-tokens", "200")
    assert asking.stdout is not None
    os.read(asking.stdout.fileno(), 1)
    since = time.monotonic()
    routed.kill(routed.next)
    _, said = asking.communicate(timeout=60)
    assert asking.returncode == 1
    assert time.monotonic() - since < 25
    error, following = said.decode().splitlines()[-2:]
    assert error.startswith("error: no router of the session took it on in time")
    assert following == "next:  check that the router runs, or name another one"


def test_an_answer_for_machines_and_the_sdk_go_on_as_well(routed: Routed) -> None:
    asking = routed.asking("--json")
    end = time.monotonic() + 30
    while not routed.first.ask("status")["router"]["tasks"]:
        assert time.monotonic() < end
    routed.kill(routed.first)
    out, said = asking.communicate(timeout=60)

    answer = json.loads(out)
    assert asking.returncode == 0, said
    assert (answer["text"], answer["router"]) == (routed.undisturbed, node(routed.next))


def test_the_sdk_goes_on_and_opens_the_next_session_where_somebody_answers(routed: Routed) -> None:
    async def use() -> list[str]:
        texts = []
        async with connect(*(str(router.addresses[0]) for router in (routed.first, routed.next))) as net:
            async with net.session() as session, session.ask(STORY, seed=b"s" * 32) as answer:
                texts.append(await answer.read())
            async with net.session() as session, session.ask(STORY, seed=b"s" * 32) as answer:
                async for _ in answer:
                    if len(answer.token_ids) < 12 and routed.first.process.poll() is None:
                        await trio.to_thread.run_sync(routed.kill, routed.first)
                texts.append(answer.text)
                session.look()
                assert "0x" + session.router.hex() == node(routed.next)
            async with net.session() as session, session.ask(STORY, seed=b"s" * 32) as answer:
                texts.append(await answer.read())
        return texts

    texts = trio.run(use)
    assert texts == [texts[0]] * 3
    assert len(texts[0]) > 50
