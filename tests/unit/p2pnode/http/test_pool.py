"""Sessions that are kept open: who gets which, how many there are, and what becomes of those that nobody wants."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pnode.answer import RequestFailed
from p2pnode.http.pool import Pool, PoolTerms, Want
from tests.unit.p2pnode.http.net_at_hand import NetAtHand

TERMS = PoolTerms(sessions_max=3, waiting_max=2, idle_s=10, orders_max=5, age_s=100)


@pytest.fixture
async def net() -> NetAtHand:
    return NetAtHand()


@pytest.fixture
async def pool(net: NetAtHand) -> AsyncIterator[Pool]:
    async with trio.open_nursery() as nursery:
        yield Pool(net, nursery, TERMS)
        nursery.cancel_scope.cancel()


def want(model: str = "bear", **about: object) -> Want:
    return Want(model, 16, 5_000, **about)  # type: ignore[arg-type]


async def test_a_session_is_used_again(net: NetAtHand, pool: Pool, autojump_clock: MockClock) -> None:
    for _ in range(3):
        async with pool.take(want()) as held:
            assert held.session.id == (1).to_bytes(32, "big")
    assert net.opened == 1


async def test_requests_that_run_at_once_have_sessions_of_their_own(
    net: NetAtHand, pool: Pool, autojump_clock: MockClock
) -> None:
    async with pool.take(want()) as first, pool.take(want()) as second, pool.take(want("fox")) as third:
        assert len({first.session.id, second.session.id, third.session.id}) == 3
    assert net.opened == 3


async def test_a_session_that_nobody_wants_is_closed(net: NetAtHand, pool: Pool, autojump_clock: MockClock) -> None:
    async with pool.take(want()):
        await trio.sleep(60)
        assert len(pool.open) == 1, "not while its order runs"
    await trio.sleep(9)
    assert len(pool.open) == 1
    await trio.sleep(2)
    assert len(pool.open) == 0


@pytest.mark.parametrize(("deciding_s", "closed_s"), [(3.0, 13.0), (60.0, 15.0)])
async def test_a_session_stays_until_its_answers_are_final_but_not_for_long(
    net: NetAtHand, autojump_clock: MockClock, deciding_s: float, closed_s: float
) -> None:
    net.certifies, net.deciding_s = True, deciding_s
    async with trio.open_nursery() as nursery:
        pool = Pool(net, nursery, replace(TERMS, linger_s=5))
        async with pool.take(want()):
            pass
        await trio.sleep(closed_s - 0.5)
        assert (len(pool.open), net.closed) == (0, []), "nobody is given it any more"
        await trio.sleep(1)
        assert len(net.closed) == 1
        async with pool.take(want()), pool.take(want()), pool.take(want()):
            pass  # all the room is there again


async def test_one_that_only_stays_makes_room_for_one_that_is_wanted(net: NetAtHand, autojump_clock: MockClock) -> None:
    net.certifies, net.deciding_s = True, 60.0
    async with trio.open_nursery() as nursery:
        pool = Pool(net, nursery, replace(TERMS, linger_s=1_000))
        async with pool.take(want()), pool.take(want()), pool.take(want()):
            pass
        await trio.sleep(11)
        assert (len(pool.open), net.closed) == (0, [])
        async with pool.take(want()):
            await trio.sleep(1)
            assert len(net.closed) == 1
        nursery.cancel_scope.cancel()


async def test_a_session_is_opened_for_more_than_a_little_first_order(net: NetAtHand, pool: Pool) -> None:
    async with pool.take(want()), pool.take(Want("bear", 2_000, 5_000)):
        assert net.asked_tokens == [TERMS.tokens_min, 2_000]


async def test_whoever_waits_gets_the_next_that_is_free(net: NetAtHand, pool: Pool, autojump_clock: MockClock) -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        async with pool.take(want()):
            order.append(number)
            await trio.sleep(1 + number / 10)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(use, number)
            await wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]
    assert net.opened == 3


async def test_more_than_may_wait_are_refused_and_nobody_waits_for_ever(pool: Pool, autojump_clock: MockClock) -> None:
    async with pool.take(want()), pool.take(want()), pool.take(want()):
        failed: list[RequestFailed] = []

        async def wait() -> None:
            with pytest.raises(RequestFailed) as refused:
                async with pool.take(want()):
                    pass
            failed.append(refused.value)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
    assert sorted(error.code for error in failed) == ["no_capacity", "no_capacity", "queue_full"]
    assert pool.waiting == 0


async def test_a_session_of_another_model_makes_room(net: NetAtHand, pool: Pool, autojump_clock: MockClock) -> None:
    async with pool.take(want()), pool.take(want()), pool.take(want()):
        pass
    async with pool.take(want("fox")) as held:
        assert held.model == "fox"
    assert len(pool.open) == 3


async def test_why_no_session_is_opened_is_told(net: NetAtHand, pool: Pool, autojump_clock: MockClock) -> None:
    net.refused = RequestFailed("no_capacity", "every miner is busy", retry_after_ms=2_000)
    with pytest.raises(RequestFailed, match="every miner is busy"):
        async with pool.take(want()):
            pass
    net.refused = None
    async with pool.take(want()):
        pass


async def test_where_a_session_stands_a_request_waits_for_it_when_there_is_no_room_for_another(
    net: NetAtHand, pool: Pool, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery, pool.take(want()) as first:
        net.refused = RequestFailed("no_capacity", "every miner is busy")
        nursery.start_soon(_take_and_expect, pool, first.session.id)
        await wait_all_tasks_blocked()
        assert pool.waiting == 1


async def _take_and_expect(pool: Pool, session: bytes) -> None:
    async with pool.take(want()) as held:
        assert held.session.id == session


async def test_whoever_leaves_while_waiting_keeps_no_session(
    net: NetAtHand, pool: Pool, autojump_clock: MockClock
) -> None:
    async with pool.take(want()), pool.take(want()), pool.take(want()):
        with trio.move_on_after(1):
            async with pool.take(want()):
                raise AssertionError("there was none")
        assert pool.waiting == 0
    async with pool.take(want()), pool.take(want()), pool.take(want()):
        assert net.opened == 3


async def test_a_session_that_is_over_is_not_used_again(net: NetAtHand, pool: Pool, autojump_clock: MockClock) -> None:
    async with pool.take(want()) as held:
        held.end()
    async with pool.take(want()) as other:
        assert other.session.id != held.session.id
    for _ in range(TERMS.orders_max + 1):
        async with pool.take(want()) as held:
            pass
    assert held.session.id == (3).to_bytes(32, "big"), "after so many orders there is a new one"
    await trio.sleep(TERMS.age_s + 1)
    async with pool.take(want()) as held:
        assert held.session.id == (4).to_bytes(32, "big")


async def test_a_session_that_ends_is_replaced_for_whoever_waits(
    net: NetAtHand, pool: Pool, autojump_clock: MockClock
) -> None:
    done: list[bytes] = []

    async def wait() -> None:
        async with pool.take(want()) as held:
            done.append(held.session.id)

    async with trio.open_nursery() as nursery, pool.take(want()) as first, pool.take(want()), pool.take(want()):
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        first.over = True
        await wait_all_tasks_blocked()
        assert done == []
    assert len(done) == 1


async def test_a_conversation_comes_back_to_where_its_beginning_is(pool: Pool, autojump_clock: MockClock) -> None:
    async with pool.take(want()) as first, pool.take(want()) as second:
        first.beginnings = frozenset((b"a", b"ab"))
        second.beginnings = frozenset((b"a", b"ac"))
    async with pool.take(want(beginnings=(b"a", b"ab", b"abc"))) as held:
        assert held is first
    async with pool.take(want(beginnings=(b"a", b"ac"))) as held:
        assert held is second


async def test_a_session_that_is_asked_for_by_name_is_given_to_its_owner_only(
    pool: Pool, autojump_clock: MockClock
) -> None:
    async with pool.take(want(owner="ann", label="mine")) as first, pool.take(want(owner="ben")) as second:
        pass
    async with pool.take(want(owner="ann", label="mine")) as held:
        assert held is first
    async with pool.take(want(owner="ben", label=second.session.id.hex())) as held:
        assert held is second
    async with pool.take(want(owner="cat", label="mine")) as held:
        assert held is second, "the one that was free last, as if it had named none"
