"""A small real network to attack: a router that mines too, a miner and an attacker, in a process each.

The honest client is in the process of the test. Gossip reaches the miner from the router, which relays what it takes
from the attacker beside what it says itself.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import trio

from p2pnode.client import LightClient, RequestFailed
from protocol.core.errors import P2PNodeError

ROOT = Path(__file__).parents[3]
SLOTS = 8
QUESTION, SEED = "Where does a bear live?", b"\x07" * 32
TOKENS = 16
PAUSE_S = 0.05
"""Between two questions: far below gossip's budget, of which every session takes a message."""


class Victim:
    """A node in a process of its own, and what it holds."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None and process.stdin is not None
        self._in, self._out = process.stdin, process.stdout
        self.ready = json.loads(self._out.readline())
        self._memory = psutil.Process(process.pid)

    @property
    def address(self) -> str:
        return str(self.ready["addresses"][0])

    @property
    def node(self) -> str:
        return str(self.ready["node"]).removeprefix("0x")

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""
        return int(self._memory.memory_info().rss)

    def levels(self) -> dict[str, Any]:
        """What it holds now; blocks until it answers."""
        self._in.write(b"\n")
        self._in.flush()
        return dict(json.loads(self._out.readline()))


@dataclass(frozen=True)
class Stage:
    """The network, standing."""

    router: Victim
    miner: Victim


@contextmanager
def open_stage(folder: Path) -> Iterator[Stage]:
    """Start the network; it ends with the block."""
    with ExitStack() as stack:
        router = stack.enter_context(_victim(folder / "router", "router,miner"))
        miner = stack.enter_context(_victim(folder / "miner", "miner", bootstrap=router.address))
        while not router.levels()["adverts"] >= 2:
            pass  # the miner introduces itself within a fraction of a second of its start
        yield Stage(router, miner)


@contextmanager
def _victim(folder: Path, role: str, bootstrap: str = "") -> Iterator[Victim]:
    folder.mkdir(parents=True)
    settings = {
        "P2PNODE_NODE_NAME": folder.name,
        "P2PNODE_NODE_ROLES": role,
        "P2PNODE_NODE_STATE_DIR": str(folder),
        "P2PNODE_KEYS_KEYSTORE": str(folder / "node-key.json"),
        "P2PNODE_MINER_SLOTS": str(SLOTS),
        **({"P2PNODE_NETWORK_BOOTSTRAP": bootstrap} if bootstrap else {}),
    }
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.adversaries.victim"],
            cwd=ROOT,
            env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield Victim(process)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


@dataclass
class Asked:
    """What became of the honest client's questions."""

    first_s: list[float] = field(default_factory=list)
    """From the wish for a session to the first token: announcement, bid and lease are in it."""
    answers: set[tuple[int, ...]] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    async def ask(self, client: LightClient, timeout_ms: int = 20_000) -> None:
        """One session with one question."""
        began, first_s = trio.current_time(), 0.0
        try:
            with trio.fail_after(2 * timeout_ms / 1_000):
                async with (
                    client.session(timeout_ms=timeout_ms) as session,
                    session.ask(QUESTION, seed=SEED, max_tokens=TOKENS, timeout_ms=timeout_ms) as answer,
                ):
                    async for _ in answer:
                        first_s = first_s or trio.current_time() - began
                    self.first_s.append(first_s)
                    self.answers.add(tuple(answer.token_ids))
        except (P2PNodeError, trio.TooSlowError) as error:
            code = error.code if isinstance(error, RequestFailed) else type(error).__name__
            self.failed.append(f"{code}: {error}")

    async def times(self, client: LightClient, count: int) -> "Asked":
        """So many questions, one after the other."""
        for _ in range(count):
            await self.ask(client)
            await trio.sleep(PAUSE_S)
        return self


@asynccontextmanager
async def attacking(name: str, *targets: str) -> AsyncIterator[None]:
    """An attack in a process of its own, under way when the block begins and over when it ends."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.runtime.adversaries.attacker", name, *targets],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        with trio.fail_after(30):
            said = await process.stdout.receive_some()
            assert said == b"under way\n", f"the attacker did not start: {said!r}"
        yield
        assert process.poll() is None, f"the attacker ended by itself with status {process.returncode}"
    finally:
        with trio.CancelScope(shield=True):
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def levels_of(victim: Victim) -> dict[str, Any]:
    """As :meth:`Victim.levels`, while others go on."""
    return await trio.to_thread.run_sync(victim.levels)


def held(levels: dict[str, Any], names: Sequence[str]) -> dict[str, int]:
    """Some of the levels."""
    return {name: levels[name] for name in names}
