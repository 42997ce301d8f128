"""Programs that use a network: the client on asyncio, the examples, and WebSockets, on real processes."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_socket

from p2pnode.asyncio_client import RequestFailed, connect
from p2pnode.receipts import save_receipt
from p2pnode.testnet import Testnet, TestnetPlan
from tests.runtime.cli import ENTRY
from tests.runtime.served import served

EXAMPLES = Path(__file__).parents[1] / "examples"
STORY = "Tell me a story about a rabbit."
CLIENT = "a-name-that-no-other-client-has"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": STORY}], "max_tokens": 80, "seed": 7}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    plan = TestnetPlan(tmp_path_factory.mktemp("net"), miners=2, slots=4, oracles=4, http="127.0.0.1:0")
    with served(plan) as running:
        yield running.net


def example(name: str, *arguments: str) -> str:
    """What an example prints, run as its first lines say."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# The client on asyncio


def test_the_client_on_asyncio_streams_verifies_and_waits_for_levels(net: Testnet, tmp_path: Path) -> None:
    async def use() -> None:
        async with connect(net.address) as client:
            assert client.certifies
            assert client.model("tiny") == client.models[0]
            assert client.router == client.routers[0].node
            async with client.session() as session:
                async with session.ask(STORY, seed=b"s" * 32, max_tokens=48, logprobs=1) as answer:
                    texts = [text async for text in answer]
                assert answer.finish is not None
                assert len(answer.token_ids) == len(answer.logprobs) == answer.finish.completion_tokens
                assert "".join(texts) == answer.text
                assert [head.miner for head in answer.heads] == [session.miner]
                assert await answer.wait_for("finalized", timeout_ms=60_000)
                assert answer.levels[-1].level == answer.level == "finalized"
                with pytest.raises(ValueError, match="a level is one of"):
                    await answer.wait_for("proved")
                async with session.ask(STORY, seed=b"s" * 32, max_tokens=48) as again:
                    assert await again.read() == answer.text
                record = await session.record()
                assert record.opening == session.assigned.opening
                save_receipt(receipt, answer.receipt())

    receipt = tmp_path / "answer.receipt"
    asyncio.run(use())
    command = [*ENTRY, "verify", "--genesis", str(net.plan.folder / "genesis.json"), str(receipt)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def free_slots(net: Testnet) -> int:
    """Of all miners."""
    return sum(status["miner"]["slots_free"] for _, status in net.statuses() if "miner" in status)


def test_cancelling_a_task_on_asyncio_frees_the_miners(net: Testnet) -> None:
    async def use() -> None:
        async with connect(net.address) as client:
            began = [asyncio.Event() for _ in range(4)]

            async def long(first: asyncio.Event) -> None:
                async with client.session() as session, session.ask(STORY, max_tokens=400) as answer:
                    async for _ in answer:
                        first.set()
                    await asyncio.Event().wait()

            before = await asyncio.to_thread(free_slots, net)
            tasks = [asyncio.create_task(long(first)) for first in began]
            for first in began:
                await first.wait()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended)
            # Left alone, sessions would be held for an hour.
            async with asyncio.timeout(60):
                while await asyncio.to_thread(free_slots, net) < before:
                    pass
            async with client.session() as session, session.ask(STORY, max_tokens=8) as answer:
                assert await answer.read()

    asyncio.run(use())


def test_failures_on_asyncio_are_typed_and_the_client_goes_on(net: Testnet) -> None:
    async def use() -> list[str]:
        codes = []
        async with connect(net.address) as client:
            with pytest.raises(RequestFailed) as failed:
                async with client.session("a-model-nobody-has"):
                    pytest.fail("opened")
            codes.append(failed.value.code)
            async with client.session() as session:
                for prompt, schema in (("word " * 4_000, ""), (STORY, "{")):
                    with pytest.raises(RequestFailed) as failed:
                        async with session.ask(prompt, schema=schema) as answer:
                            await answer.read()
                    codes.append(failed.value.code)
                with pytest.raises(RequestFailed) as failed:
                    async with session.ask(STORY, max_tokens=8) as answer:
                        answer.receipt()
                codes.append(failed.value.code)
        return codes

    assert asyncio.run(use()) == ["model_not_found", "prompt_too_long", "schema_refused", "no_receipt"]


# The examples


def test_the_example_of_one_question(net: Testnet, tmp_path: Path) -> None:
    receipt = tmp_path / "answer.receipt"
    said = example("ask.py", net.address, "Where does a bear live?", str(receipt)).splitlines()
    assert said[0]
    assert said[-1].split()[0] == "finalized"
    assert receipt.stat().st_size > 0


def test_the_example_of_several_questions_on_asyncio(net: Testnet) -> None:
    said = example("ask_asyncio.py", net.address).splitlines()
    assert [line.partition("?")[0] for line in said[:2]] == ["Where does a bear live", "Where does a frog live"]
    assert said[2].removeprefix(STORY).count(".") == 1
    assert said[3].startswith("model_not_found: ")


def test_the_example_of_a_websocket(net: Testnet) -> None:
    said = example("websocket.py", net.http_urls[0]).splitlines()
    assert said[0] == "cut off after 6 messages"
    assert len(said) == 3


# WebSockets


@contextlib.contextmanager
def open_socket(net: Testnet, client: str = CLIENT) -> Iterator[ClientConnection]:
    """A WebSocket at the router."""
    url = f"{net.http_urls[0].replace('http', 'ws', 1)}/v1/ws?client={client}"
    with connect_socket(url, open_timeout=30) as opened:
        yield opened


def say(opened: ClientConnection, kind: str, **told: Any) -> None:
    opened.send(json.dumps({"type": kind, **told}))


def hear(opened: ClientConnection) -> dict[str, Any]:
    told = json.loads(opened.recv(timeout=60))
    assert isinstance(told, dict)
    return told


def hear_to(opened: ClientConnection, *kinds: str) -> list[dict[str, Any]]:
    heard = [hear(opened)]
    while heard[-1]["type"] not in kinds:
        heard.append(hear(opened))
    return heard


def text_of(heard: list[dict[str, Any]]) -> str:
    tokens = [each for each in heard if each["type"] == "token"]
    return "".join(choice["delta"].get("content", "") for each in tokens for choice in each["choices"])


def test_a_socket_cut_off_in_the_middle_of_an_answer_has_every_token_once(net: Testnet) -> None:
    with open_socket(net) as opened:
        say(opened, "request", request_id="whole", **ASK)
        whole = hear_to(opened, "done", "error")
    assert whole[-1]["type"] == "done"

    heard: list[dict[str, Any]] = []
    # The first cuts are in the middle whatever happens: an answer is told in more messages.
    for cut_after in (1, 1, 1, 2, 4, 8, 1_000):
        with open_socket(net) as opened:
            if heard:
                say(opened, "resume", request_id="cut", from_seq=len(heard))
            else:
                say(opened, "request", request_id="cut", **ASK)
            while cut_after and not (heard and heard[-1]["type"] in ("done", "error")):
                heard.append(hear(opened))
                cut_after -= 1
            opened.socket.shutdown(socket.SHUT_RDWR)
    assert [each["seq"] for each in heard] == list(range(len(heard)))
    assert [each["type"] for each in heard].count("accepted") == 1
    assert heard[-1]["type"] == "done"
    assert text_of(heard) == text_of(whole)


def test_a_socket_tells_how_certain_an_answer_becomes(net: Testnet) -> None:
    with open_socket(net) as opened:
        say(opened, "request", request_id="levels", **ASK)
        heard = hear_to(opened, "done", "error")
        levels = []
        while not levels or levels[-1]["level"] != "finalized":
            levels.append(hear(opened))
    provenance = next(each["p2pnode"] for each in heard if "p2pnode" in each)
    assert {each["receipt"] for each in levels} == {provenance["receipt"]}
    assert [each["seq"] for each in (*heard, *levels)] == list(range(len(heard) + len(levels)))


def test_requests_of_one_socket_run_beside_each_other_and_one_is_cancelled(net: Testnet) -> None:
    with open_socket(net) as opened:
        for name in ("a", "b", "c"):
            say(opened, "request", request_id=name, **ASK)
        say(opened, "cancel", request_id="b")
        told: list[dict[str, Any]] = []
        while sum(each["type"] in ("done", "error") for each in told) < 3:
            told.append(hear(opened))
    ends = {each["request_id"]: each for each in told if each["type"] in ("done", "error")}
    assert {name: end["cancelled"] for name, end in ends.items()} == {"a": False, "b": True, "c": False}
    for name in ends:
        numbers = [each["seq"] for each in told if each["request_id"] == name]
        assert numbers == list(range(len(numbers)))
        assert text_of([each for each in told if each["request_id"] == name]) or name == "b"
    # The sessions are free again for others.
    with open_socket(net) as opened:
        for number in range(4):
            say(opened, "request", request_id=f"after-{number}", **{**ASK, "max_tokens": 8})
        over = 0
        while over < 4:
            told_now = hear(opened)
            assert told_now["type"] != "error"
            over += told_now["type"] == "done"


def test_a_socket_outlives_nonsense(net: Testnet) -> None:
    with open_socket(net) as opened:
        for text in ("", "{", "[" * 200_000, '{"type": "request", "request_id": "x"}', '{"type": "\x00"}'):
            opened.send(text)
            assert hear(opened)["type"] == "error"
        say(opened, "ping", id="still here")
        assert hear(opened) == {"type": "pong", "id": "still here"}
