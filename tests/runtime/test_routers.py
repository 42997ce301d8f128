"""Several routers on real parts: kill -9 of the one that serves, in the middle of an answer."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from p2pnode.client import connect
from p2pnode.control import ask_control
from tests.runtime.test_network import P2PNODE, STORY, Network, process_of, run, start_testnet

CHAT = ("--seed", "kill", "--temperature", "1")


class Routed:
    """A testnet with two routers, and what it answers when nothing happens."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.routers = [name for name in network.nodes if name.startswith("router")]
        named = [option for name in self.routers for option in ("--router", self.address(name))]
        self.chat = ["chat", *named, *CHAT]
        done = run(*self.chat, "--json", STORY, env=network.env)
        assert done.returncode == 0, done.stderr
        self.undisturbed = json.loads(done.stdout)["text"]
        # Found now: an answer may be over before a process is.
        self.processes = {name: process_of(network, self.node(name)) for name in self.routers}

    def address(self, name: str) -> str:
        addresses = self.network.nodes[name]["addresses"]
        assert isinstance(addresses, list)
        return str(addresses[0])

    def node(self, name: str) -> str:
        return str(self.network.nodes[name]["node"])

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(10)

    def asking(self, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = [*P2PNODE, *self.chat, *arguments, STORY]
        return subprocess.Popen(command, env=self.network.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Routed]:
    env = {**os.environ, "P2PNODE_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}
    network = start_testnet(tmp_path / "net", env, "--routers", "2", "--miners", "2")
    yield Routed(network)
    network.process.send_signal(signal.SIGINT)
    network.process.wait(20)
    assert network.process.stdout is not None
    network.process.stdout.close()


def test_chat_goes_on_at_the_next_router_and_says_so(routed: Routed) -> None:
    assert routed.routers == ["router", "router-2"]
    asking = routed.asking()
    assert asking.stdout is not None
    first = os.read(asking.stdout.fileno(), 1)  # the answer has begun
    routed.kill("router")
    rest, said = asking.communicate(timeout=60)

    assert asking.returncode == 0, said
    assert (first + rest).decode().rstrip("\n") == routed.undisturbed
    assert "the router is lost; looking for it, or for the next one" in said.decode()
    assert f"failed over to router {routed.node('router-2')}" in said.decode()

    told = json.loads(run("explain", "last", "--json", env=routed.network.env).stdout)
    assert [a["router"] for a in told["assignments"]] == [routed.node("router"), routed.node("router-2")]
    numbers = [assignment["number"] for assignment in told["assignments"]]
    assert numbers[0] <= 1_024 < numbers[1]
    assert run("explain", env=routed.network.env).stdout.count("\nassignment ") == 2

    # The only router that is left is lost as well: an error and a next step, in bounded time.
    asking = routed.asking("--max-tokens", "200")
    assert asking.stdout is not None
    os.read(asking.stdout.fileno(), 1)
    since = time.monotonic()
    routed.kill("router-2")
    _, said = asking.communicate(timeout=60)
    assert asking.returncode == 1
    assert time.monotonic() - since < 25
    error, following = said.decode().splitlines()[-2:]
    assert error.startswith("error: no router of the session took it on in time")
    assert following == "next:  check that the router runs, or name another one"


def test_an_answer_for_machines_and_the_sdk_go_on_as_well(routed: Routed) -> None:
    folder = Path(str(routed.network.nodes["router"]["log"])).parent
    asking = routed.asking("--json")
    end = time.monotonic() + 30
    while not ask_control(folder / "control.sock", "status")["router"]["tasks"]:
        assert time.monotonic() < end
    routed.kill("router")
    out, said = asking.communicate(timeout=60)

    answer = json.loads(out)
    assert asking.returncode == 0, said
    assert (answer["text"], answer["router"]) == (routed.undisturbed, routed.node("router-2"))


def test_the_sdk_goes_on_and_opens_the_next_session_where_somebody_answers(routed: Routed) -> None:
    async def use() -> list[str]:
        addresses = [routed.address(name) for name in routed.routers]
        texts = []
        async with connect(*addresses) as net:
            async with net.session() as session, session.ask(STORY, seed=b"s" * 32) as answer:
                texts.append(await answer.read())
            async with net.session() as session, session.ask(STORY, seed=b"s" * 32) as answer:
                async for _ in answer:
                    if len(answer.token_ids) < 12 and routed.processes["router"].is_running():
                        await trio.to_thread.run_sync(routed.kill, "router")
                texts.append(answer.text)
                session.look()
                assert "0x" + session.router.hex() == routed.node("router-2")
            async with net.session() as session, session.ask(STORY, seed=b"s" * 32) as answer:
                texts.append(await answer.read())
        return texts

    texts = trio.run(use)
    assert texts == [texts[0]] * 3
    assert len(texts[0]) > 50
