"""The HTTP surface holds to its OpenAPI document, and what no client should send does it no harm."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from tests.runtime.http_node import MODEL, HttpNode, http_node
from tests.runtime.malformed import Malformed, malformed
from tests.runtime.transports import eventually

PATIENCE_S = 60.0
AT_ONCE = 16
GROWTH_BYTES_MAX = 48 << 20
"""Less than one kept byte in ten of what is sent would show."""
HOOKS = "tests.runtime.contract_hooks"
"""Puts the model that there is into requests that are otherwise as generated."""
ASKS_ANYHOW = ("--exclude-path-regex", "/api/v1/completions")
"""Takes the model that there is where a request names none; what that one cannot answer no document can say."""
BETWEEN_FIELDS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
"""What is checked of requests that may mean something to a model and be refused for that."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpNode]:
    """A router and miner in one."""
    with http_node(tmp_path_factory.mktemp("contract")) as running:
        yield running


def conforms(node: HttpNode, folder: Path, examples: int, *arguments: str, hooks: str = "") -> None:
    """Schemathesis finds nothing."""
    config = folder / "schemathesis.toml"
    config.write_text(f'hooks = "{hooks}"\n' if hooks else "", encoding="utf-8")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    command += [f"{node.url}/openapi.json", "--url", node.url, "--max-examples", str(examples), "--no-color"]
    command += ["--phases", "coverage,fuzzing", "--request-timeout", "60", "--generation-deterministic", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_answer_is_in_the_document(node: HttpNode, tmp_path: Path) -> None:
    conforms(node, tmp_path, 8, "--checks", "all", *ASKS_ANYHOW)


@pytest.mark.long
def test_every_answer_is_in_the_document_at_length(node: HttpNode, tmp_path: Path) -> None:
    conforms(node, tmp_path, 500, "--checks", "all", "--phases", "coverage,fuzzing,stateful", *ASKS_ANYHOW)


@pytest.mark.long
def test_requests_that_a_model_answers_conform_at_length(node: HttpNode, tmp_path: Path) -> None:
    conforms(node, tmp_path, 150, "--checks", BETWEEN_FIELDS, "--include-method", "POST", hooks=HOOKS)


def test_requests_that_a_model_answers_conform(node: HttpNode, tmp_path: Path) -> None:
    fuzzed = ("--phases", "fuzzing", "--include-method", "POST")
    conforms(node, tmp_path, 6, "--checks", BETWEEN_FIELDS, *fuzzed, hooks=HOOKS)


def test_the_document_names_every_way_to_fail(node: HttpNode) -> None:
    document = httpx.get(f"{node.url}/openapi.json").json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    named = {"200", "400", "401", "403", "404", "405", "408", "413", "429", "499", "502", "503", "504"}
    assert set(chat["responses"]) == named
    assert "422" not in json.dumps(document["paths"])
    assert set(chat["responses"]["429"]["headers"]) == {"retry-after"}
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


async def send(node: HttpNode, wrong: Malformed) -> bytes:
    """What is answered, as far as anything is."""
    host, _, port = node.url.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    answered = b""
    async with stream:
        try:
            await stream.send_all(wrong.data)
            if wrong.cut:
                return b""
            await stream.send_eof()
            async for part in stream:
                answered += part
        except trio.BrokenResourceError:
            pass  # refused before all of it was sent
    return answered


async def send_all(node: HttpNode, count: int, seed: int) -> None:
    """Some at the same time; each is answered, if at all, with a refusal that is no fault of the server's."""
    random_ = random.Random(seed)
    wrongs = (malformed(random_) for _ in range(count))

    async def some() -> None:
        for wrong in wrongs:
            with trio.fail_after(PATIENCE_S):
                answered = await send(node, wrong)
            assert not answered.startswith(b"HTTP/1.1 500"), wrong.data[:2_000]

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(some)


async def assert_harmless(node: HttpNode, count: int) -> None:
    await send_all(node, count // 5, 1)
    held, open_ = node.memory_bytes, node.descriptors
    await send_all(node, count, 2)
    assert node.memory_bytes - held < GROWTH_BYTES_MAX
    await eventually(lambda: node.descriptors <= open_ + 4)
    asked = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Where does a bear live?"}]}
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        assert (await client.get(f"{node.url}/ready")).json() == {"status": "ready"}
        answer = await client.post(f"{node.url}/v1/chat/completions", json=asked)
        assert answer.json()["choices"][0]["message"]["content"]
    assert "a bug" not in node.errors.read_text()


async def test_malformed_requests_do_no_harm(node: HttpNode) -> None:
    await assert_harmless(node, 500)


@pytest.mark.long
async def test_ten_thousand_malformed_requests_do_no_harm(node: HttpNode) -> None:
    await assert_harmless(node, 10_000)
