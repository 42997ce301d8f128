"""The main job on real parts: processes of their own, real libp2p, a real GGUF through llama.cpp, real clients."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from p2pnode.testnet import TestnetPlan
from tests.runtime.load import stretched
from tests.runtime.local_chain import needs_anvil
from tests.runtime.served import served

P2PNODE = [sys.executable, "-m", "p2pnode.cli.entry"]
STORY = "Tell me a story about a rabbit."
LEVELS = ("committed", "certified", "finalized")
COMMAND_S = 300.0


@dataclass(frozen=True)
class Network:
    """A running testnet of one router and three miners; ``test_committee`` has the oracles."""

    process: subprocess.Popen[str]
    nodes: dict[str, dict[str, object]]
    env: dict[str, str]

    @property
    def address(self) -> str:
        addresses = self.nodes["router"]["addresses"]
        assert isinstance(addresses, list)
        return str(addresses[0])

    def chat(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return run("chat", "--router", self.address, *arguments, env=self.env, text=text)


def run(*arguments: str, env: dict[str, str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """One command as its user types it."""
    return subprocess.run(
        [*P2PNODE, *arguments],
        env=env,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


def start_testnet(folder: Path, env: dict[str, str], *options: str) -> Network:
    process = subprocess.Popen(
        [*P2PNODE, "testnet", "up", "--json", "--slots", "2", "--oracles", "0", "--folder", str(folder), *options],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            return Network(process, json.loads("".join(lines)), env)
    raise AssertionError(f"the testnet ended with {process.wait()}: {''.join(lines)}")


def stop_testnet(network: Network) -> None:
    """As its user stops it; what is left after a failure would take the processor from the tests that follow."""
    try:
        network.process.send_signal(signal.SIGINT)
        network.process.wait(60)
    finally:
        network.process.kill()
        assert network.process.stdout is not None
        network.process.stdout.close()


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "P2PNODE_HOME": str(tmp_path_factory.mktemp("home")), "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Network]:
    network = start_testnet(tmp_path_factory.mktemp("testnet"), env)
    yield network
    stop_testnet(network)


@pytest.mark.parametrize("chain", ["embedded", pytest.param("anvil", marks=needs_anvil)])
def test_demo_shows_every_step_within_a_minute_and_leaves_nothing(env: dict[str, str], chain: str) -> None:
    done = run("demo", "--json", "--miners", "2", "--chain", chain, "Where does a bear live?", env=env)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["steps"]
    steps = [step["step"] for step in told]
    decided = [step for step in told if step["step"].startswith("height ")]
    heights = [int(step["step"].split()[1]) for step in decided]
    leaders = [re.findall(r"leader (oracle-\d)", step["detail"])[0] for step in decided]
    assert steps == [
        "chain up",
        "network up",
        "light client connected",
        "bids countersigned and scored",
        "lease granted",
        "first signed frame",
        "signed end verified",
        *LEVELS,
        "miner killed",
        "another miner took over",
        "same answer",
        *LEVELS,
        "settled",
        "settled",
        "session closed",
        "receipt verified offline",
        "redacted receipt verified",
        "receipt verified with the chain",
        "paid",
        "client's account",
        *(f"height {height} final" for height in heights[:4]),
        "oracle killed",
        f"height {heights[4]} final",
        "network down",
    ]
    assert told[0]["detail"].startswith(f"{chain}, chain id 31337")
    assert told[-1]["at_ms"] < 1_000 * stretched(60)
    assert heights == sorted(set(heights))
    assert len(set(leaders[:4])) > 1
    victim = next(step["detail"].partition(",")[0] for step in told if step["step"] == "oracle killed")
    assert leaders[4] != victim


def test_one_question_one_answer(network: Network) -> None:
    done = network.chat("--temperature", "0", "Where does a bear live?")

    assert done.returncode == 0, done.stderr
    assert "bear" in done.stdout
    assert "level streamed" in done.stderr


def test_the_prompt_may_come_on_standard_input(network: Network) -> None:
    done = network.chat("--temperature", "0", text="Where does a bear live?\n")

    assert done.returncode == 0, done.stderr
    assert "bear" in done.stdout


def test_the_same_seed_gives_the_same_answer_whoever_serves(network: Network) -> None:
    answers = [json.loads(network.chat("--json", "--seed", "7", STORY).stdout) for _ in range(3)]

    assert len({answer["text"] for answer in answers}) == 1
    assert answers[0]["finish_reason"] == "stop"
    assert answers[0]["completion_tokens"] > 20


def test_an_address_without_a_network_is_served_and_told_so(network: Network) -> None:
    done = run("chat", "--router", network.address.partition("?")[0], "Hello!", env=network.env)

    assert done.returncode == 0, done.stderr
    assert "level capped at streamed" in done.stderr


def test_more_clients_than_slots_are_all_served(network: Network) -> None:
    with ThreadPoolExecutor(9) as pool:
        done = list(pool.map(lambda number: network.chat("--json", "--seed", str(number), STORY), range(9)))

    assert [item.returncode for item in done] == [0] * 9, [item.stderr for item in done]


def test_an_engine_that_is_killed_goes_on_from_its_next_token(network: Network) -> None:
    undisturbed = json.loads(network.chat("--json", "--seed", "kill", "--temperature", "1", STORY).stdout)
    asking = subprocess.Popen(
        [*P2PNODE, "chat", "--router", network.address, "--seed", "kill", "--temperature", "1", STORY],
        env=network.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert asking.stdout is not None
    first = os.read(asking.stdout.fileno(), 1)  # the answer has begun
    for worker in engine_workers(network):
        worker.kill()
    text = (first + asking.stdout.read()).decode()
    asking.stdout.close()

    assert asking.wait(60) == 0
    assert text.rstrip("\n") == undisturbed["text"]


def test_a_miner_that_is_killed_mid_answer_is_replaced(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the serving miner: the answer completes, says that it failed over, and is the undisturbed one."""
    monkeypatch.setenv("LIES", "miner-1=calm,miner-2=calm")
    plan = TestnetPlan(tmp_path, miners=2, miner_module="tests.runtime.lying_miner")
    with served(plan) as running:
        chat = ["chat", "--router", running.net.address, "--seed", "kill", "--temperature", "1"]
        undisturbed = json.loads(run(*chat, "--json", STORY, env=env).stdout)["text"]
        with Terminal([*P2PNODE, *chat], env) as terminal:
            serving = re.findall("with miner (0x[0-9a-f]{40})", terminal.expect("> "))[0]
            terminal.type(STORY + "\n")
            shown = terminal.expect(r"rabbit\.\r\n.*\w+ \w+ \w+")
            running.kill(running.child(serving))
            shown += terminal.expect("failed over to miner")
            terminal.type("\n")
            assert terminal.wait() == 0

    answer = shown.partition("rabbit.\r\n")[2].rpartition("\r\nfailed over")[0]
    assert answer.replace("\r\n", "\n") == undisturbed


def engine_workers(network: Network) -> list[psutil.Process]:
    found = psutil.Process(network.process.pid).children(recursive=True)
    return [process for process in found if "p2pnode.engine.worker" in " ".join(process.cmdline())]


def test_a_conversation_remembers_and_ctrl_c_stops_an_answer(network: Network) -> None:
    with Terminal([*P2PNODE, "chat", "--router", network.address, "--seed", "a"], network.env) as terminal:
        terminal.expect("> ")
        terminal.type("Where does a fox live?\n")
        assert "fox" in terminal.expect("\n> ")
        terminal.type("And a bear?\n")
        assert "bear" in terminal.expect("\n> ")
        terminal.type(STORY + "\n")
        terminal.expect(r"rabbit\.\r\n.*\w+ \w+")
        terminal.type("\x03")
        terminal.expect("> ")
        terminal.type("\n")
        assert terminal.wait() == 0


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._screen, self._inside = pty.openpty()
        self._process = subprocess.Popen(
            command,
            env=env,
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        self._seen = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)
        os.close(self._inside)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def expect(self, pattern: str, timeout_s: float = 30.0) -> str:
        """Wait for a pattern; returns and forgets what was shown up to its end."""
        end = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self._seen, re.DOTALL)):
            left = end - time.monotonic()
            assert left > 0 and select.select([self._screen], [], [], left)[0], f"no {pattern!r} in {self._seen!r}"
            self._seen += os.read(self._screen, 4_096).decode(errors="replace")
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def wait(self) -> int:
        return self._process.wait(20)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_status_and_peers_of_a_running_node(network: Network) -> None:
    log = network.nodes["router"]["log"]
    folder = str(Path(str(log)).parent)

    status = json.loads(run("status", "--json", "--state-dir", folder, env=network.env).stdout)
    peers = json.loads(run("peers", "--json", "--state-dir", folder, env=network.env).stdout)

    assert status["roles"] == ["router"]
    assert [model["slots"] for model in status["models"]] == [6]
    assert len(peers) >= 3


def test_a_session_is_explained_and_its_miners_kept_their_bids(network: Network, tmp_path: Path) -> None:
    answer = json.loads(network.chat("--json", "Hello!").stdout)
    told = json.loads(run("explain", answer["session"], "--json", env=network.env).stdout)

    (assignment,), (segment,) = told["assignments"], told["segments"]
    assert (assignment["pool"], assignment["widening"]) == (3, 0)
    assert (segment["task"], segment["miner"], segment["assignment"]) == (1, assignment["miner"], 1)
    assert segment["lease"] == assignment["lease"]
    for name in ("miner-1", "miner-2", "miner-3"):
        if network.nodes[name]["node"] in {bid["miner"] for bid in assignment["bids"]}:
            folder, file = Path(str(network.nodes[name]["log"])).parent, str(tmp_path / name)
            kept = run("bids", answer["session"], "--export", file, "--state-dir", str(folder), env=network.env)
            assert kept.returncode == 0, kept.stderr
            judged = run("explain", answer["session"], "--bid", file, env=network.env)
            assert judged.stdout.splitlines()[-1].endswith("is in the bid set")


def test_one_bootstrap_address_is_enough(network: Network, tmp_path: Path) -> None:
    """A miner that is told of another miner only is found by the router, and serves it."""
    addresses = network.nodes["miner-1"]["addresses"]
    assert isinstance(addresses, list)
    command = ["run", "--role", "miner", "--slots", "3", "--bootstrap", addresses[0], "--json"]
    newcomer = subprocess.Popen(
        [*P2PNODE, *command, "--state-dir", str(tmp_path)], env=network.env, stdout=subprocess.PIPE, text=True
    )
    assert newcomer.stdout is not None
    try:
        assert json.loads(newcomer.stdout.readline())["roles"] == ["miner"]
        slots = 0
        end = time.monotonic() + 30
        while slots != 9 and time.monotonic() < end:
            models = json.loads(network.chat("--json", "--models").stdout)["models"]
            slots = models[0]["slots"]
        assert slots == 9
    finally:
        newcomer.terminate()
        newcomer.wait(20)
        newcomer.stdout.close()


def test_killing_the_parent_takes_every_node_down(network: Network) -> None:
    children = psutil.Process(network.process.pid).children(recursive=True)
    assert len(children) >= 7  # four nodes and three engine workers

    network.process.kill()

    assert psutil.wait_procs(children, timeout=60)[1] == []
