"""Nodes that are told to stop, as real processes: what runs ends well, what is open goes on elsewhere."""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from p2pnode.client import LightClient, Session, connect
from p2pnode.control import ControlError
from p2pnode.state_folder import STATE_FILES
from p2pnode.testnet import Child, Testnet, TestnetPlan
from tests.runtime.cli import ENTRY
from tests.runtime.served import served

TOKENS = 200
"""At a hundred a second at most: whatever happens at the first one happens within the answer."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    plan = TestnetPlan(
        tmp_path_factory.mktemp("stopping") / "net",
        routers=3,
        http="127.0.0.1:0",
        miners=3,
        oracles=4,
        miner_module="tests.runtime.patient_miner",
        tests_miners=False,  # none would pass: the fake runs no model
    )
    with served(plan) as it:
        yield it.net


def child_of(net: Testnet, node: bytes) -> Child:
    return next(child for child in net.children if child.ready["node"] == f"0x{node.hex()}")


@asynccontextmanager
async def session_at(net: Testnet) -> AsyncIterator[tuple[LightClient, Session]]:
    """A session that names all routers that run."""
    running = [router.addresses[0] for router in net.routers if router.process.poll() is None]
    async with connect(*running) as client, client.session() as session:
        yield client, session


async def stopped_at_first(lines: AsyncIterator[str], router: Child) -> AsyncIterator[str]:
    """The lines of a stream; at the first with text in it the router is told to stop."""
    told = False
    async for line in lines:
        if not told and '"content"' in line:
            told = True
            router.process.terminate()
        yield line


def parsed(line: str) -> list[dict[str, Any]]:
    """The choices of a chunk."""
    choices: list[dict[str, Any]] = json.loads(line)["choices"]
    return choices


async def ended(child: Child) -> int:
    """The exit status of a node that was told to stop."""
    with trio.fail_after(40):
        while (status := child.process.poll()) is None:  # noqa: ASYNC110  (it is waited for in another loop)
            await trio.sleep(0.02)
    return status


def assert_all_files_are_known(folder: Path) -> None:
    """What a node leaves in its folder is what the table says, and what the testnet keeps there."""
    forms = [f"{each.name}{beside}" for each in STATE_FILES for beside in ("", "-wal", "-shm", ".lock")]
    unknown = [path.name for path in folder.iterdir() if not any(fnmatch(path.name, form) for form in forms)]
    assert unknown in ([], ["log.txt"])


async def test_an_answer_that_streams_while_its_miner_is_stopped_ends_there_and_is_paid(net: Testnet) -> None:
    async with session_at(net) as (_, session):
        miner = child_of(net, session.miner)
        async with session.ask("Tell me of the bear.", max_tokens=TOKENS) as answer:
            texts = aiter(answer)
            await anext(texts)
            miner.process.terminate()
            async for _ in texts:
                pass
        assert answer.finish is not None
        assert answer.finish.completion_tokens == TOKENS
        assert [head.miner for head in answer.heads] == [session.miner], "nobody had to take over"
        assert await ended(miner) == 0
        assert await answer.wait_for("finalized", timeout_ms=20_000), "it waited for its results"
        async with session.ask("And of the wolf?", max_tokens=2) as answer:
            async for _ in answer:
                pass
        assert answer.heads[0].miner != bytes.fromhex(miner.ready["node"][2:]), "the session went on elsewhere"


async def test_a_second_signal_stops_at_once(net: Testnet) -> None:
    async with session_at(net) as (_, session):
        miner = child_of(net, session.miner)
        async with session.ask("Tell me of the fox.", max_tokens=TOKENS) as answer:
            texts = aiter(answer)
            await anext(texts)
            miner.process.send_signal(signal.SIGTERM)
            miner.process.send_signal(signal.SIGINT)
            async for _ in texts:
                pass
        assert len(answer.heads) == 2, "it was cut, and another miner went on"
        assert answer.finish is not None
        assert answer.finish.completion_tokens == TOKENS
        assert await ended(miner) == 0


async def test_a_plain_http_answer_that_streams_while_its_router_is_stopped_ends_there(net: Testnet) -> None:
    body = {"messages": [{"role": "user", "content": "Of the hen?"}], "max_tokens": TOKENS, "stream": True}
    body["model"] = net.router.ask("status")["models"][0]["name"]
    url = f"{net.http_urls[0]}/v1/chat/completions"
    async with httpx.AsyncClient(timeout=60) as client, client.stream("POST", url, json=body) as response:
        assert response.status_code == 200
        lines = [line async for line in stopped_at_first(response.aiter_lines(), net.router)]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    assert sum(len(choice["delta"].get("content") or "") > 0 for line in data[:-1] for choice in parsed(line)) > 1
    assert [choice["finish_reason"] for line in data[:-1] for choice in parsed(line)][-1] == "length"
    assert await ended(net.router) == 0
    assert_all_files_are_known(net.router.folder)


async def test_an_answer_that_streams_while_its_router_is_stopped_ends_there(net: Testnet) -> None:
    async with session_at(net) as (_, session):
        router = child_of(net, session.router)
        first = session.router
        async with session.ask("Tell me of the owl.", max_tokens=TOKENS) as answer:
            texts = aiter(answer)
            await anext(texts)
            router.process.terminate()
            async for _ in texts:
                pass
        assert answer.finish is not None
        assert answer.finish.completion_tokens == TOKENS
        assert [head.router for head in answer.heads] == [first], "no other router had to take over"
        assert await ended(router) == 0
        async with session.ask("And of the mouse?", max_tokens=2) as answer:
            async for _ in answer:
                pass
        session.look()
        assert session.router != first, "the session was handed on"


async def test_an_oracle_that_is_restored_from_a_backup_waits_until_it_is_safe(net: Testnet) -> None:
    oracle = net.oracles[-1]
    settings = net._settings(oracle.name, oracle.folder, ["oracle"], list(net.addresses))
    backup = oracle.folder.parent / "oracle.backup"

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [*ENTRY, *map(str, arguments)]
        return subprocess.run(words, env=os.environ | settings, capture_output=True, text=True, check=False)

    moved = await trio.to_thread.run_sync(command, "backup", "--move", backup)
    assert (moved.returncode, "stop that node" in moved.stderr) == (1, True), "not while it runs"
    done = await trio.to_thread.run_sync(command, "backup", backup)
    assert done.returncode == 0, done.stderr
    height = oracle.ask("status")["oracle"]["height"]
    oracle.process.terminate()
    assert await ended(oracle) == 0
    assert_all_files_are_known(oracle.folder)

    oracle.folder.rename(oracle.folder.with_name("dead-machine"))
    refused = await trio.to_thread.run_sync(command, "restore", backup)
    assert (refused.returncode, "may still run" in refused.stderr) == (1, True)
    done = await trio.to_thread.run_sync(command, "restore", "--replaces", backup)
    assert (done.returncode, "two epochs later" in done.stdout) == (0, True), done.stderr

    again = await trio.lowlevel.open_process([*ENTRY, "run"], env=os.environ | settings, stdout=subprocess.DEVNULL)
    try:
        with trio.fail_after(60):
            status: dict[str, Any] = {"height": 0}
            while status["height"] <= height or "silent" not in status["signing"]:
                await trio.sleep(0.1)
                with suppress(ControlError):
                    status = oracle.ask("status")["oracle"]
        assert "its signer log was lost" in status["signing"], "it follows, and signs nothing"
    finally:
        again.terminate()
        await again.wait()
    assert again.returncode == 0
