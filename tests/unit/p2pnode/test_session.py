"""What a session can be asked, with real machines and drivers over the memory network: only engines are fakes."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2pnode import client as sdk
from p2pnode.answer import Answer
from p2pnode.client import LightClient, RequestFailed, connect
from p2pnode.embeddings import TEXTS_MAX, requests_of
from p2pnode.engine.fake import EMBEDDING_SIZE, FakeConfig
from p2pnode.session import Session
from protocol.core.params import Params
from protocol.light.levels import Final, Level
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.roles.client import TaskLevel
from tests.simulation.fast_path import World, wall_clock

TOKENS = 24
QUICK = FakeConfig(slots=4, first_token_s=0.05, token_s=0.02, answer_tokens=TOKENS)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "open_clock", wall_clock)


@asynccontextmanager
async def opened(*engines: FakeConfig) -> AsyncIterator[tuple[World, LightClient]]:
    """A router, a miner for each engine, and a client."""
    world = World(7, faulty=False)
    async with trio.open_nursery() as nodes:
        await nodes.start(world.run_router)
        for engine in engines or (QUICK,):
            world.engine = engine
            await nodes.start(world.run_miner)
        await trio.sleep(3)
        key = world.key()
        assert world.address is not None
        async with world.network.open(key) as transport, connect(world.address, key=key, transport=transport) as net:
            yield world, net
        await trio.sleep(300)
        world.check_empty()
        nodes.cancel_scope.cancel()


async def code_of(session: Session, **asked: Any) -> str:
    """What an order fails with."""
    with pytest.raises(RequestFailed) as failed:
        async with session.ask("question", **asked) as answer:
            await answer.read()
    return str(failed.value.code)


# Several orders at once


async def read_all(session: Session, count: int) -> list[Answer]:
    """So many answers to one prompt, each with a choice of its own, asked for at once."""
    answers: list[Answer] = []

    async def read(choice: int) -> None:
        async with session.ask("question", sampling=SamplingParams(choice=choice), max_tokens=TOKENS) as answer:
            answers.append(answer)
            await answer.read()

    async with trio.open_nursery() as nursery:
        for choice in range(count):
            nursery.start_soon(read, choice)
    return answers


@pytest.mark.spec("ORDER-PARALLEL.1")
@pytest.mark.parametrize(("slots", "rounds"), [(4, 1), (2, 2), (1, 4)])
async def test_orders_of_a_session_run_at_once_as_far_as_its_miner_has_slots(
    autojump_clock: trio.abc.Clock, slots: int, rounds: int
) -> None:
    slow = FakeConfig(slots=slots, first_token_s=0.5, token_s=0.5, answer_tokens=TOKENS)
    async with opened(slow) as (_, net), net.session() as session:
        began = trio.current_time()
        answers = await read_all(session, 4)
        assert {answer.finish and answer.finish.completion_tokens for answer in answers} == {TOKENS}
        assert len({answer.text for answer in answers}) == 4, "each choice has noise of its own"
        took = (trio.current_time() - began) / (0.5 * TOKENS)
        assert rounds <= took < rounds + 0.8


@pytest.mark.spec("ORDER-PARALLEL.1")
async def test_what_finds_no_slot_to_spare_waits_for_an_order_of_its_own_session(
    autojump_clock: trio.abc.Clock,
) -> None:
    slow = FakeConfig(slots=2, first_token_s=0.5, token_s=0.5, answer_tokens=TOKENS)
    async with opened(slow) as (_, net), net.session() as first, net.session() as second:
        began = trio.current_time()
        answers = await read_all(first, 2)
        assert all(answer.finish for answer in answers)
        took = (trio.current_time() - began) / (0.5 * TOKENS)
        assert 2 <= took < 2.8, "the other session holds the other slot"
        assert (await read_all(second, 1))[0].finish


@pytest.mark.spec("ORDER-PARALLEL.1", "CHAIN-TAKEOVER.1")
async def test_all_orders_of_a_lost_miner_go_on_elsewhere(autojump_clock: trio.abc.Clock) -> None:
    async with opened(QUICK, QUICK) as (world, net), net.session() as session:
        holder = next(miner for miner in world.miners if miner.key.node_id == session.miner)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_later, holder.scope)
            answers = await read_all(session, 4)
        assert [answer.finish and answer.finish.completion_tokens for answer in answers] == [TOKENS] * 4
        for answer in answers:
            assert answer.heads[0].start_index == 0
            assert len({head.miner for head in answer.heads}) == 2
            world.ledger.check(answer, session.id, answer.heads[0].task)
        world.miners.remove(holder)


async def test_a_session_is_waited_for_until_its_answers_are_certain(autojump_clock: trio.abc.Clock) -> None:
    async with opened() as (_, net), net.session() as session:
        (answer,) = await read_all(session, 1)
        async with session.ask("question", max_tokens=TOKENS) as left:
            left.cancel()
        done = trio.Event()

        async def wait() -> None:
            await session.decided()
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for level in (Level.CERTIFIED, Level.FINALIZED):
                await trio.sleep(60)
                assert not done.is_set()
                final = Final(1, 2, 3, 4) if level is Level.FINALIZED else None
                answer.rise(TaskLevel(level, (level,), 17, 4, 4, final, "", 0))
            with trio.fail_after(1):
                await done.wait()


async def _kill_later(scope: trio.CancelScope) -> None:
    await trio.sleep(0.4)
    scope.cancel()


# What an order says


@pytest.mark.spec("LOGPROBS-SIGNED.1")
async def test_log_probabilities_come_with_every_token_if_they_were_ordered(autojump_clock: trio.abc.Clock) -> None:
    async with opened() as (_, net), net.session() as session:
        async with session.ask("question", logprobs=3) as answer:
            pieces = [piece async for piece in answer.pieces()]
        assert answer.text == "".join(piece.text for piece in pieces)
        assert [token.id for token in answer.logprobs] == answer.token_ids
        assert all(len(piece.logprobs) == len(piece.ids) for piece in pieces)
        for token in answer.logprobs:
            assert token.logprob == pytest.approx(-0.125)
            assert len(token.top) == 3
            assert token.top[0].logprob >= token.top[-1].logprob
        assert b"".join(token.text for token in answer.logprobs).decode() == answer.text
        async with session.ask("question", logprobs=0) as answer:
            await answer.read()
        assert [token.top for token in answer.logprobs] == [()] * len(answer.token_ids)
        async with session.ask("question") as answer:
            await answer.read()
        assert (answer.logprobs, len(answer.token_ids)) == ([], TOKENS)


async def test_an_answer_holds_to_its_schema_and_a_bad_schema_is_refused(autojump_clock: trio.abc.Clock) -> None:
    async with opened() as (_, net), net.session() as session:
        async with session.ask("question", schema={"type": "object"}) as answer:
            assert await answer.read() == "{}"
        assert await code_of(session, schema="{") == "schema_refused"
        assert await code_of(session, schema={"type": "poem"}) == "schema_refused"
        async with session.ask("question") as answer:
            await answer.read()
        assert answer.heads[0].task == 4, "the session stands, and its miner"


async def test_tools_reach_the_chat_template_or_are_refused(autojump_clock: trio.abc.Clock) -> None:
    async with opened() as (_, net), net.session() as session:
        turns = [
            PromptMessage("user", "Is it warm?"),
            PromptMessage("assistant", "", calls='[{"type":"function","function":{"name":"weather","arguments":{}}}]'),
            PromptMessage("tool", "19 degrees", call_id="call_1"),
        ]
        sizes = []
        for given in (turns[:1], turns):
            for tools in ("", TOOLS):
                async with session.ask(given, tools=tools) as answer:
                    await answer.read()
                assert answer.finish is not None
                sizes.append(answer.finish.prompt_tokens)
        assert sizes == sorted(set(sizes)), "tools and calls are read"
    async with opened(FakeConfig(takes_tools=False)) as (_, net), net.session() as session:
        assert await code_of(session, tools=TOOLS) == "tools_refused"


@pytest.mark.spec("ORDER-PLAIN.1")
async def test_a_plain_prompt_stands_alone(autojump_clock: trio.abc.Clock) -> None:
    async with opened() as (_, net), net.session() as session:
        async with session.ask("Once upon a time", plain=True) as answer:
            await answer.read()
        plain = answer.finish
        async with session.ask("Once upon a time") as answer:
            await answer.read()
        assert plain is not None
        assert answer.finish is not None
        assert plain.prompt_tokens < answer.finish.prompt_tokens, "no template is filled"
        assert await code_of(session, plain=True, tools=TOOLS) == "bad_request"
        with pytest.raises(TypeError, match="one text"):
            async with session.ask([PromptMessage("user", "a")], plain=True):
                pass


# Vectors


@pytest.mark.spec("EMBED-SIGNED.1", "EMBED-RELAYED.1", "EMBED-SERVED.1")
async def test_texts_are_embedded_in_their_order_under_the_miners_signature(autojump_clock: trio.abc.Clock) -> None:
    async with opened() as (_, net), net.session() as session:
        texts = [f"text {number}" for number in range(40)]
        said = await session.embed(texts)
        assert [len(vector) for vector in said.vectors] == [EMBEDDING_SIZE] * 40
        assert said.miner == session.miner
        assert said.prompt_tokens == sum(1 + len(text) for text in texts)
        for vector in said.vectors:
            assert math.fsum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
        again = await session.embed(texts[7:8])
        assert again.vectors == said.vectors[7:8]


async def test_vectors_and_answers_do_not_wait_for_each_other(autojump_clock: trio.abc.Clock) -> None:
    slow = FakeConfig(slots=1, token_s=1.0, answer_tokens=TOKENS)
    async with opened(slow) as (_, net), net.session() as session, session.ask("question") as answer:
        began = trio.current_time()
        await session.embed(["a", "b"])
        assert trio.current_time() - began < 2
        await answer.read()


@pytest.mark.spec("EMBED-RELAYED.1")
async def test_vectors_come_from_another_miner_when_the_lease_ran_out_or_its_miner_is_lost(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with opened(QUICK, QUICK) as (world, net), net.session() as session:
        first = await session.embed(["a"])
        holder = next(miner for miner in world.miners if miner.key.node_id == session.miner)
        holder.scope.cancel()
        world.miners.remove(holder)
        second = await session.embed(["a"])
        assert second.vectors == first.vectors
        assert second.miner != first.miner
        await trio.sleep(Params().lease_idle_ms / 1_000 + 30)
        assert (await session.embed(["a"])).vectors == first.vectors


async def test_what_cannot_be_embedded_is_refused_with_a_code(autojump_clock: trio.abc.Clock) -> None:
    cases = [
        ([], "bad_request"),
        ([""], "bad_request"),
        (["a"] * (TEXTS_MAX + 1), "bad_request"),
        (["x" * 262_145], "prompt_too_long"),
        (["x" * 250_000] * 5, "bad_request"),
        (["x" * 20_000], "prompt_too_long"),
        (["\ud800"], "bad_request"),
    ]
    async with opened() as (_, net):
        async with net.session() as session:
            for texts, code in cases:
                with pytest.raises(RequestFailed) as failed:
                    await session.embed(texts)
                assert failed.value.code == code
            assert len((await session.embed(["a"])).vectors) == 1
        with pytest.raises(RequestFailed, match="not open"):
            await session.embed(["a"])


def test_texts_are_asked_in_as_few_requests_as_may_be() -> None:
    params = Params()
    assert list(requests_of(["a"] * 33, params)) == [("a",) * 16, ("a",) * 16, ("a",)]
    half = "x" * (params.prompt_bytes_max // 2)
    assert [len(request) for request in requests_of([half, half, "a", half], params)] == [2, 2]
