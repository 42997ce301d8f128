"""OpenAI's routes over miners that say what a test tells them to: what is asked of them, and what is told of it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pnode.http.service import Request, Terms, open_service
from protocol.messages.tasks import EndReason
from tests.unit.p2pnode.http.net_at_hand import NetAtHand
from tests.unit.p2pnode.http.server_at_hand import MODEL, TOOLS, USER, Client, Server, events, fails, says, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


async def test_a_chat_is_ordered_as_it_was_asked_for(server: Server) -> None:
    response = await server.chat(
        says("in", " a", " wood"),
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": text} for text in ("Where does ", "it live?")],
            },
            {"role": "assistant", "content": None, "tool_calls": [_call('{"animal": "bear"}')]},
            {"role": "tool", "tool_call_id": "call1", "content": "wood"},
        ],
        temperature=0.5,
        top_p=0,
        presence_penalty=-1.5,
        frequency_penalty=2,
        stop=["\n", "User:"],
        logprobs=True,
        top_logprobs=3,
        unknown_field={"a": 1},
    )
    assert response.status_code == 200
    (order,) = server.net.orders
    turns = [(turn.role, turn.content, turn.call_id) for turn in order.messages]
    assert turns == [
        ("system", "Be brief.", ""),
        ("user", "Where does it live?", ""),
        ("assistant", "", ""),
        ("tool", "wood", "call1"),
    ]
    assert json.loads(order.messages[2].calls) == [_call('{"animal": "bear"}')]
    sampling = order.sampling
    assert (sampling.temperature_bp, sampling.top_p_bp) == (5_000, 1)
    assert (sampling.presence_penalty_bp, sampling.frequency_penalty_bp) == (-15_000, 20_000)
    assert (sampling.stop, sampling.logprobs) == ((b"\n", b"User:"), 4)
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == "in a wood"
    assert answer["usage"]["total_tokens"] == 10
    assert response.headers["x-receipt"] == answer["p2pnode"]["receipt"]


def _call(arguments: str) -> dict[str, Any]:
    return {"id": "call1", "type": "function", "function": {"name": "place_of", "arguments": arguments}}


@pytest.mark.parametrize(
    ("asked", "schema"),
    [
        ({"response_format": {"type": "text"}}, ""),
        ({"response_format": {"type": "json_object"}}, '{"type":"object"}'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "null"}}}},
            '{"type":"null"}',
        ),
        ({"tools": TOOLS, "tool_choice": "none"}, ""),
        ({"tools": TOOLS, "tool_choice": "auto"}, ""),
        ({"tools": TOOLS, "tool_choice": "required"}, "place_of"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "place_of"}}}, "place_of"),
    ],
)
async def test_what_an_answer_is_held_to(server: Server, asked: dict[str, Any], schema: str) -> None:
    assert (await server.chat(says("x"), **asked)).status_code == 200
    held_to = server.net.orders[0].sampling.schema
    assert schema in held_to if schema == "place_of" else schema == held_to


async def test_a_stream_has_role_words_end_usage_and_done(server: Server) -> None:
    response = await server.chat(
        says("in", " a", reason=EndReason.LENGTH), stream=True, stream_options={"include_usage": True}
    )
    first, one, two, last, usage, done = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [each["choices"][0]["delta"] for each in (one, two)] == [{"content": "in"}, {"content": " a"}]
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert last["p2pnode"]["receipt"] == response.headers["x-receipt"]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert done == "[DONE]"
    assert response.headers["content-type"].startswith("text/event-stream")
    assert {each["id"] for each in (first, one, two, last, usage)} == {first["id"]}


async def test_what_is_known_together_goes_out_together(autojump_clock: MockClock) -> None:
    """Each write costs a stream more than what is written."""
    net = NetAtHand()
    async with open_service(net, Terms()) as service:
        server, client = Server(net, service), Client()
        async with trio.open_nursery() as nursery:
            ask = {"model": MODEL, "messages": [USER], "stream": True, "stream_options": {"include_usage": True}}
            nursery.start_soon(lambda: client.post(server.app, "/v1/chat/completions", **ask))
            says("in", " a")(await net.order(0))
    _, *writes = client.got
    assert [message["body"].count(b"data: ") for message in writes] == [2, 1, 3]
    assert b'"role"' in writes[0]["body"] and b'"in"' in writes[0]["body"]
    assert b'"usage":{' in writes[2]["body"] and writes[2]["body"].endswith(b"data: [DONE]\n\n")


async def test_a_call_is_streamed_as_calls_are(server: Server) -> None:
    words = ('{"name": "place_of", ', '"arguments": {"animal": ', '"bear"}', "}")
    response = await server.chat(says(*words), stream=True, tools=TOOLS, tool_choice="required")
    _, begun, *more, last, _ = events(response)
    (call,) = begun["choices"][0]["delta"]["tool_calls"]
    assert (call["function"]["name"], call["type"]) == ("place_of", "function")
    arguments = [each["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for each in more]
    assert "".join(arguments) == '{"animal": "bear"}'
    assert last["choices"][0]["finish_reason"] == "tool_calls"


async def test_what_failed_with_nothing_shown_is_tried_in_another_session(server: Server) -> None:
    async def answer() -> None:
        (await server.net.order(0)).fail("session_expired")
        says("in")(await server.net.order(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        response = await server.chat()
    assert response.json()["choices"][0]["message"]["content"] == "in"
    assert response.headers["x-attempts"] == "2"
    assert server.net.opened == 2


async def test_room_that_was_not_asked_for_is_given_up_where_the_prompt_needs_it(server: Server) -> None:
    async def answer() -> None:
        (await server.net.order(0)).fail("prompt_too_long")
        says("in")(await server.net.order(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        response = await server.chat()
    assert response.status_code == 200
    assert server.net.opened == 1, "the session is as good as before"


async def test_a_text_is_gone_on_with(server: Server) -> None:
    response = await server.post(
        "/v1/completions", says(" upon", " a"), model=MODEL, prompt="Once", echo=True, stream=True
    )
    *said, done = events(response)
    assert "".join(each["choices"][0]["text"] for each in said) == "Once upon a"
    assert done == "[DONE]"
    (turn,) = server.net.orders[0].messages
    assert (turn.role, turn.content) == ("plain", "Once")


async def test_models_are_listed_and_found_by_name_or_digest(server: Server) -> None:
    (listed,) = (await server.http.get("/v1/models")).json()["data"]
    assert (listed["id"], listed["owned_by"]) == (MODEL, "p2pnode")
    for name in (MODEL, listed["p2pnode"]["digest"], listed["p2pnode"]["digest"][:8]):
        assert (await server.http.get(f"/v1/models/{name}")).json() == listed
    missing = await server.http.get("/v1/models/no/such")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_cancels_what_was_ordered(server: Server, stream: bool) -> None:
    client = Client()
    ask = {"model": MODEL, "messages": [USER], "stream": stream, "n": 2}
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(server.app, "/v1/chat/completions", **ask))
            orders = [await server.net.order(0), await server.net.order(1)]
            orders[0].say("in")
            client.left.set()
    assert [(order.cancelled, order.left) for order in orders] == [(True, True)] * 2
    assert all(not held.busy for held in server.service.pool.open)


async def test_a_stream_that_is_silent_shows_that_it_lives(autojump_clock: MockClock) -> None:
    net = NetAtHand()
    async with open_service(net, Terms(ping_s=15)) as service:
        server, client = Server(net, service), Client()
        async with trio.open_nursery() as nursery:
            ask = {"model": MODEL, "messages": [USER], "stream": True}
            nursery.start_soon(lambda: client.post(server.app, "/v1/chat/completions", **ask))
            order = await net.order(0)
            await trio.sleep(40)
            assert [message.get("status") for message in client.got] == [200, None, None]
            assert [message.get("body") for message in client.got[1:]] == [b": ping\n\n"] * 2
            order.fail("engine_failed")
    error = json.loads(client.got[-1]["body"].removeprefix(b"data: "))
    assert error["error"]["code"] == "engine_failed", "the status is told already"
    assert client.got[-1]["more_body"] is False


async def test_those_who_watch_hear_of_beginning_first_token_and_end(server: Server) -> None:
    told: list[str] = []
    seen: list[Request] = []

    class Watcher:
        def began(self, request: Request) -> None:
            told.append("began")
            seen.append(request)

        def first(self, request: Request) -> None:
            told.append("first")

        def ended(self, request: Request) -> None:
            told.append("ended")

    server.service.watchers.append(Watcher())
    await server.chat(says("in", " a"))
    await server.chat(fails("engine_failed"), max_tokens=5)
    assert told == ["began", "first", "ended", "began", "ended"]
    answered, failed = seen
    assert (answered.kind, answered.model, answered.completion_tokens, answered.code) == ("chat", MODEL, 2, "")
    assert 0 <= answered.overhead_ms < 10_000
    assert failed.code == "engine_failed"
