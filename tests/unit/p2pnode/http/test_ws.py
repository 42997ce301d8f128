"""Requests on a WebSocket: what is said to each, how one goes on after a cut, and what is refused."""

import itertools
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode.answer import RequestFailed
from p2pnode.http.limits import LimitTerms
from p2pnode.http.ws import MISTAKES_MAX, WsTerms
from p2pnode.http.ws_journal import KeepTerms
from protocol.light.levels import Level
from tests.unit.p2pnode.http.net_at_hand import PROMPT_TOKENS
from tests.unit.p2pnode.http.ws_at_hand import CLIENT, SocketAtHand, caller_named, served

TURNS = '[{"role": "user", "content": "Hello"}]'

Autojump = trio.testing.MockClock


def text_of(heard: list[dict[str, Any]]) -> str:
    """What the answer says."""
    chunks = [choice for each in heard if each["type"] == "token" for choice in each["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in chunks)


async def test_a_request_is_told_from_its_acceptance_to_its_last_level(autojump_clock: Autojump) -> None:
    async with served() as app:
        socket = await app.socket()
        await socket.ask("a")
        order = await app.net.order()
        order.say("Hel", "lo")
        order.end()
        heard = await socket.hear_to("done")
        order.rise(Level.CERTIFIED, 60)
        order.rise(Level.FINALIZED, 120)
        heard += [await socket.hear() for _ in range(3)]

    assert [each["seq"] for each in heard] == list(range(len(heard)))
    assert {each["request_id"] for each in heard} == {"a"}
    kinds = [kind for kind, _ in itertools.groupby(each["type"] for each in heard)]
    assert kinds == ["accepted", "token", "usage", "done", "level"]
    assert text_of(heard) == "Hello"
    last = next(each for each in heard if each.get("p2pnode"))
    assert last["choices"][0]["finish_reason"] == "stop"
    told = [(each["level"], each["after_ms"], each["receipt"]) for each in heard if each["type"] == "level"]
    receipt = last["p2pnode"]["receipt"]
    assert told == [("committed", 60, receipt), ("certified", 60, receipt), ("finalized", 120, receipt)]
    usage = next(each["usage"] for each in heard if each["type"] == "usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, 2)


async def test_several_requests_share_a_socket_and_each_has_its_own_numbers(autojump_clock: Autojump) -> None:
    async with served() as app:
        socket = await app.socket()
        await socket.ask("a")
        await socket.ask("b", n=2)
        orders = [await app.net.order(number) for number in range(3)]
        for word in ("x", "y"):
            for order in orders:
                order.say(word)
        for order in orders:
            order.end()
        heard = [*await socket.hear_to("done"), *await socket.hear_to("done")]
    for request_id, answers in (("a", 1), ("b", 2)):
        own = [each for each in heard if each["request_id"] == request_id]
        assert [each["seq"] for each in own] == list(range(len(own)))
        assert sorted(text_of(own)) == sorted("xy" * answers)
        assert [each["type"] for each in own][-2:] == ["usage", "done"]
    assert heard[0]["request_id"] != heard[1]["request_id"], "they are told in turn"


async def test_cancelling_one_leaves_the_other(autojump_clock: Autojump) -> None:
    async with served() as app:
        socket = await app.socket()
        await socket.ask("a")
        await socket.ask("b")
        first, second = await app.net.order(0), await app.net.order(1)
        await socket.say("cancel", request_id="a")
        assert (await socket.hear_to("done"))[-1] == {"type": "done", "request_id": "a", "seq": 1, "cancelled": True}
        assert (first.cancelled, first.left, second.cancelled) == (True, True, False)
        second.say("on")
        second.end()
        heard = await socket.hear_to("done")
    assert text_of(heard) == "on"
    assert not heard[-1]["cancelled"]


async def test_a_socket_that_was_cut_off_goes_on_with_every_message_once(autojump_clock: Autojump) -> None:
    async with served() as app:
        caller = caller_named("alice")
        socket = await app.socket(caller)
        await socket.ask("a")
        order = await app.net.order()
        order.say("one ", "two ")
        heard = [await socket.hear() for _ in range(3)]
        await socket.drop()
        order.say("three ")
        await trio.testing.wait_all_tasks_blocked()
        again = await app.socket(caller)
        order.say("four")
        order.end()
        await again.say("resume", request_id="a", from_seq=3)
        heard += await again.hear_to("done")
        assert text_of(heard) == "one two three four"
        assert [each["seq"] for each in heard] == list(range(len(heard)))
        # All of it is there a while longer, for one who did not get the end.
        await again.drop()
        third = await app.socket(caller)
        await third.say("resume", request_id="a", from_seq=0)
        assert await third.hear_to("done") == heard
        assert caller.running == 0


async def test_what_goes_on_without_a_socket_is_cancelled_in_time(autojump_clock: Autojump) -> None:
    async with served() as app:
        caller = caller_named("alice")
        socket = await app.socket(caller)
        await socket.ask("a")
        order = await app.net.order()
        await socket.drop()
        await trio.sleep(59)
        assert not order.cancelled
        await trio.sleep(2)
        assert order.cancelled
        assert caller.running == 0
        again = await app.socket(caller)
        await again.say("resume", request_id="a", from_seq=0)
        refused = await again.hear()
    assert (refused["type"], refused["request_id"]) == ("error", "a")
    assert refused["error"]["code"] == "unknown_request"


async def test_only_the_same_key_and_client_resume(autojump_clock: Autojump) -> None:
    async with served() as app:
        socket = await app.socket(caller_named("alice"))
        await socket.ask("a")
        await socket.drop()
        for caller, client in (
            (caller_named("bob"), CLIENT),
            (caller_named("alice"), "another-name-that-was-drawn"),
            (caller_named("alice", key=False), CLIENT),
        ):
            other = await app.socket(caller, client=client)
            for kind, told in (("resume", {"from_seq": 0}), ("cancel", {})):
                await other.say(kind, request_id="a", **told)
                assert (await other.hear())["error"]["code"] == "unknown_request"
        back = await app.socket(caller_named("alice"))
        await back.say("resume", request_id="a", from_seq=0)
        assert (await back.hear())["type"] == "accepted"


async def test_who_has_no_key_and_no_name_loses_its_requests_with_the_socket(autojump_clock: Autojump) -> None:
    async with served() as app:
        for client in ("", "short", "with/slash/and/long/enough"):
            before = len(app.net.orders)
            socket = await app.socket(caller_named("address", key=False), client=client)
            await socket.ask("a")
            order = await app.net.order(before)
            await socket.drop()
            await trio.testing.wait_all_tasks_blocked()
            assert order.cancelled


async def test_the_newest_socket_has_a_request(autojump_clock: Autojump) -> None:
    async with served() as app:
        old = await app.socket()
        await old.ask("a")
        order = await app.net.order()
        assert (await old.hear())["type"] == "accepted"
        new = await app.socket()
        await new.say("resume", request_id="a", from_seq=0)
        assert (await new.hear())["type"] == "accepted"
        order.say("word")
        order.end()
        assert text_of(await new.hear_to("done")) == "word"
        await old.ask("b")
        (await app.net.order(1)).end()
        assert {each["request_id"] for each in await old.hear_to("done")} == {"b"}, "it heard nothing of the rest"


async def test_a_failure_is_told_once_and_ends_the_request(autojump_clock: Autojump) -> None:
    async with served() as app:
        socket = await app.socket()
        app.net.refused = RequestFailed("no_capacity", "all miners are busy", retry_after_ms=2_500)
        await socket.ask("a")
        assert (await socket.hear())["type"] == "accepted"
        before = await socket.hear()
        app.net.refused = None
        await socket.ask("b")
        order = await app.net.order()
        order.say("half an ans")
        order.fail("miner_lost")
        after = await socket.hear_to("error", "done")
        await socket.say("ping")
        assert (await socket.hear())["type"] == "pong"
    assert (before["type"], before["request_id"], before["seq"]) == ("error", "a", 1)
    assert before["error"]["code"] == "no_capacity"
    assert before["retry_after_s"] == 3
    assert text_of(after) == "half an ans"
    assert after[-1]["error"]["code"] == "miner_lost"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_message"),
        ("[]", "invalid_message"),
        ("null", "invalid_message"),
        ("[" * 100_000, "too_deep"),
        ('{"type": "request", "request_id": "a", "messages": ' + "[" * 100_000, "too_deep"),
        ('{"type": "request", "request_id": "a", "messages": ' + "[" * 150 + "]" * 150 + "}", "too_deep"),
        (
            '{"type": "request", "request_id": "a", "messages": ' + "[" * 100 + "]" * 100 + "}",
            "missing_required_parameter",
        ),
        ('{"request_id": "a"}', "invalid_message"),
        ('{"type": "sing", "request_id": "a"}', "invalid_message"),
        ('{"type": "cancel", "request_id": ""}', "invalid_message"),
        ('{"type": "cancel", "request_id": 5}', "invalid_message"),
        ('{"type": "cancel", "request_id": "%s"}' % ("a" * 65), "invalid_message"),
        ('{"type": "resume", "request_id": "a", "from_seq": -1}', "invalid_message"),
        ('{"type": "resume", "request_id": "a", "from_seq": 1e400}', "invalid_message"),
        ('{"type": "resume", "request_id": "a"}', "invalid_message"),
        ('{"type": "resume", "request_id": "a", "from_seq": 0}', "unknown_request"),
        ('{"type": "request", "request_id": "a"}', "missing_required_parameter"),
        (
            '{"type": "request", "request_id": "a", "model": "x", "messages": [{"role": "user", "content": "y"}]}',
            "model_not_found",
        ),
        ('{"type": "request", "request_id": "a", "model": "tiny", "messages": []}', "invalid_value"),
        ('{"type": "ping", "id": "\\ud800"}', "invalid_message"),
    ],
)
async def test_what_is_no_message_is_told_and_all_goes_on(autojump_clock: Autojump, text: str, code: str) -> None:
    async with served() as app:
        socket = await app.socket()
        await socket.text(text)
        told = await socket.hear()
        assert (told["type"], told["error"]["code"]) == ("error", code)
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong", "id": ""}
        assert app.net.orders == []


async def test_bounds_of_a_socket(autojump_clock: Autojump) -> None:
    async with served(WsTerms(at_once=2, message_characters=1_000)) as app:
        socket = await app.socket()
        for name in ("a", "b"):
            await socket.ask(name)
            assert (await socket.hear())["type"] == "accepted"
        await socket.ask("a")
        await socket.ask("c")
        refused = [(await socket.hear())["error"]["code"] for _ in range(2)]
        assert refused == ["rate_limit_exceeded", "rate_limit_exceeded"]
        (await app.net.order(0)).end()
        await socket.hear_to("done")
        await socket.ask("b")
        assert (await socket.hear())["error"]["code"] == "request_id_in_use"
        await socket.say("resume", request_id="b", from_seq=2)
        assert (await socket.hear())["error"]["param"] == "from_seq"
        await socket.ask("a")
        assert (await socket.hear())["seq"] == 0, "an id whose request is over may be used again"

        await socket.say("ping", id="x" * 1_000)
        assert await socket.hear() == {}
        assert socket.closed == 1009


async def test_limits_of_the_caller_hold_for_each_request(autojump_clock: Autojump) -> None:
    async with served() as app:
        socket = await app.socket(caller_named("alice", limits=LimitTerms(0, 0, at_once=1)))
        await socket.ask("a")
        await socket.ask("b")
        told = [await socket.hear() for _ in range(2)]
        refused = next(each for each in told if each["request_id"] == "b")
        assert (refused["error"]["code"], refused["retry_after_s"]) == ("rate_limit_exceeded", 1)
        (await app.net.order()).end()
        await socket.hear_to("done")
        await socket.ask("b")
        assert (await socket.hear())["type"] == "accepted"


async def _many_mistakes(socket: SocketAtHand) -> None:
    for _ in range(MISTAKES_MAX):
        await socket.text("{")
        assert (await socket.hear())["type"] == "error"


async def _binary(socket: SocketAtHand) -> None:
    await socket.data(b"\x00")


async def _nothing(socket: SocketAtHand) -> None:
    await trio.sleep(299)


@pytest.mark.parametrize(("does", "code"), [(_many_mistakes, 1008), (_binary, 1003), (_nothing, 1000)])
async def test_a_socket_is_closed_that_does_no_good(autojump_clock: Autojump, does: Any, code: int) -> None:
    async with served() as app:
        socket = await app.socket()
        await does(socket)
        assert await socket.hear() == {}
        assert socket.closed == code


async def test_one_that_takes_nothing_costs_no_more_than_its_bounds(autojump_clock: Autojump) -> None:
    terms = WsTerms(keep=KeepTerms(bytes_each=2_000))
    async with served(terms, buffered=0) as app:
        socket = await app.socket()
        await socket.ask("a", max_tokens=64)
        order = await app.net.order()
        order.say(*(f"word{number} " for number in range(60)))
        order.end()
        await trio.testing.wait_all_tasks_blocked()
        assert (await socket.hear())["type"] == "accepted"
        told = await socket.hear()
        assert (told["type"], told["error"]["code"]) == ("error", "resume_too_late")
        await socket.say("resume", request_id="a", from_seq=0)
        assert (await socket.hear())["error"]["code"] == "resume_too_late"


async def test_a_server_that_is_stopped_answers_what_runs_and_takes_nothing_more(autojump_clock: Autojump) -> None:
    async with served() as app:
        idle, busy = await app.socket(client=""), await app.socket()
        await busy.ask("a")
        order = await app.net.order()
        app.service.ending.set()
        assert await idle.hear() == {}
        assert idle.closed == 1001
        await busy.ask("b")
        order.say("all ", "of it")
        order.end()
        heard = await busy.hear_to("done")
        assert text_of(heard) == "all of it"
        refused = [each["error"]["code"] for each in heard if each["request_id"] == "b"]
        assert refused == ["shutting_down"]
        assert await busy.hear() == {}
        assert busy.closed == 1001


async def test_a_browser_names_its_key_in_a_subprotocol_and_gets_another_one_back(autojump_clock: Autojump) -> None:
    async with served() as app:
        key = "openai-insecure-api-key.p2p-secret"
        assert (await app.socket(offered=(key, "p2pnode"))).subprotocol == "p2pnode"
        assert (await app.socket(offered=(key,))).subprotocol is None
