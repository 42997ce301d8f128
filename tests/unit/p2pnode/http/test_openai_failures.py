"""How requests to OpenAI's routes fail: statuses, error bodies and events, and what is refused before it is ordered."""

import gc
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import trio

from p2pnode.http.errors import TOLD
from protocol.session.lifecycle import TERMINAL_CODES
from tests.unit.p2pnode.http.server_at_hand import MODEL, TOOLS, USER, Server, events, fails, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def test_every_way_to_end_has_a_status() -> None:
    assert set(TOLD) == set(TERMINAL_CODES)
    assert all(told.again == (told.status in (429, 503)) or told.code == "insufficient_quota" for told in TOLD.values())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("prompt_too_long", 400, "context_length_exceeded"),
        ("schema_refused", 400, "invalid_json_schema"),
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("queue_full", 503, "queue_full"),
        ("no_capacity", 503, "no_capacity"),
        ("deadline_exceeded", 504, "deadline_exceeded"),
        ("transcript_broken", 502, "transcript_broken"),
        ("engine_failed", 502, "engine_failed"),
    ],
)
async def test_before_the_first_token_an_error_is_a_status(
    server: Server, code: str, status: int, told: str, stream: bool
) -> None:
    response = await server.chat(fails(code), stream=stream, max_tokens=5)
    assert (response.status_code, response.json()["error"]["code"]) == (status, told)
    assert response.headers.get("retry-after") == ("3" if status in (429, 503) else None)
    assert "x-request-id" in response.headers


async def test_after_the_first_token_an_error_is_an_event_and_nothing_is_done(server: Server) -> None:
    response = await server.chat(fails("miner_lost", "in", " a"), stream=True)
    *said, error = events(response)
    assert response.status_code == 200
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in said) == "in a"
    assert error["error"]["code"] == "miner_lost"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"model": "nope"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"n": 17}, "n"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"stop": ["a" * 300]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 900_000}, "max_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"functions": [{}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": TOOLS * 2}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(server: Server, asked: dict[str, Any], param: str) -> None:
    response = await server.chat(**asked)
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param
    assert server.net.orders == []


async def test_bodies_that_are_none(server: Server) -> None:
    path, kind = "/v1/chat/completions", {"content-type": "application/json"}
    half = b'{"model": "\\ud800", "messages": 1}'
    for body in (b"", b"{", b"[]", b"nope", b"\xff", half, b"[" * 100_000, b"9" * 9_000):
        response = await server.http.post(path, content=body, headers=kind)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    "more",
    [
        '"logit_bias": {"\\ud800": "x"}',
        '"messages": [{"role": "user", "content": "\\ud800"}]',
        '"messages": [{"role": "user", "content": [{"type": "\\ud800"}]}]',
        '"stop": "\\ud800"',
        '"temperature": NaN',
        '"seed": 9223372036854775808',
        '"tools": [{"type": "function", "function": {"name": "a\\ud800"}}]',
        f'"response_format": {{"type": "json_schema", "json_schema": {{"schema": {_nested(3_000)}}}}}',
    ],
)
async def test_values_that_no_order_can_carry(server: Server, more: str) -> None:
    content = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "x"}}], {more}}}'.encode()
    path, kind = "/v1/chat/completions", {"content-type": "application/json"}
    response = await server.http.post(path, content=content, headers=kind)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("rate_limited", openai.RateLimitError),
        ("no_capacity", openai.InternalServerError),
        ("deadline_exceeded", openai.InternalServerError),
        ("prompt_too_long", openai.BadRequestError),
    ],
)
async def test_openais_client_knows_each_error(server: Server, code: str, kind: type[openai.APIStatusError]) -> None:
    client = openai.AsyncOpenAI(http_client=server.http, base_url="http://test/v1", api_key="none", max_retries=0)

    async def answer() -> None:
        (await server.net.order(0)).fail(code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(kind) as refused:
            await client.chat.completions.create(model=MODEL, messages=[USER], max_tokens=4)  # type: ignore[list-item]
    assert refused.value.code == TOLD[code].code


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_openais_client_knows_an_error_in_the_middle(server: Server) -> None:
    client = openai.AsyncOpenAI(http_client=server.http, base_url="http://test/v1", api_key="none", max_retries=0)

    async def answer() -> None:
        fails("miner_lost", "in", " a")(await server.net.order(0))

    said = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        stream = await client.chat.completions.create(model=MODEL, messages=[USER], stream=True)  # type: ignore[list-item]
        with pytest.raises(openai.APIError, match="miner_lost"):
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
        await stream.close()
    assert said == "in a"
    del stream
    gc.collect()  # the client leaves generators that are not at their end: here, not in the midst of another test


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
    ],
)
async def test_texts_that_cannot_be_gone_on_with(server: Server, asked: dict[str, Any], param: str) -> None:
    response = await server.post("/v1/completions", model=MODEL, **asked)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
