"""The node pool as a router follows it, against oracles that leave out, forge or hold back."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.errors import RemoteProtocolError
from protocol.core.sparse import EMPTY_TREE
from protocol.ledger.miners import PoolState
from protocol.ledger.records import Section
from protocol.light.pool import PoolFollower
from protocol.messages.results import Change, LedgerNews
from tests.unit.protocol.light_at_hand import EPOCH, certify, header_of, known_trust
from tests.unit.protocol.machines import MALLORY, MINERS, MODEL, ORACLES, PARAMS
from tests.unit.protocol.pool_at_hand import Pool, record_of

FIRST, SECOND, THIRD = (miner.node for miner in MINERS[:3])
OTHER_MODEL = b"\x21" * 32

pytestmark = pytest.mark.spec("POOL-FOLLOW.1")


def follower() -> PoolFollower:
    return PoolFollower(PARAMS, known_trust())


def told(pool: PoolFollower, news: Sequence[LedgerNews]) -> bool:
    return [pool.take(page) for page in news][-1]


def test_the_first_news_hold_all_of_it_and_the_next_what_changed() -> None:
    said, pool = Pool([FIRST, SECOND]), follower()
    assert told(pool, said.news())
    assert pool.available(FIRST, MODEL) and pool.available(SECOND, MODEL) and not pool.available(THIRD, MODEL)
    said.tree = said.tree.delete(FIRST).set(THIRD, record_of())
    assert told(pool, said.news())
    assert not pool.available(FIRST, MODEL) and pool.available(THIRD, MODEL)
    assert told(pool, said.news()), "a height at which nothing changed"
    assert (len(pool), pool.count(MODEL)) == (2, 2)
    assert pool.header is not None and pool.header.height == said.height


@pytest.mark.spec("POOL-GATE.1")
def test_only_who_is_available_for_the_model_may_bid() -> None:
    said, pool = Pool([FIRST]), follower()
    for miner, state in zip((SECOND, THIRD, MINERS[3].node), set(PoolState) - {PoolState.AVAILABLE}, strict=True):
        said.tree = said.tree.set(miner, record_of(MODEL, state))
    said.tree = said.tree.set(MINERS[4].node, record_of(MODEL)).set(MINERS[5].node, record_of(OTHER_MODEL))
    said.tree = said.tree.set(MALLORY.node, b"\xc1")
    assert told(pool, said.news())
    assert [miner for miner in MINERS if pool.available(miner.node, MODEL)] == [MINERS[0], MINERS[4]]
    assert [miner for miner in MINERS if pool.available(miner.node, OTHER_MODEL)] == [MINERS[0], MINERS[5]]
    assert (pool.count(MODEL), pool.count(OTHER_MODEL), pool.count(b"\x22" * 32)) == (2, 2, 1)
    assert not pool.available(MALLORY.node, MODEL)


def test_a_large_pool_comes_in_pages() -> None:
    said, pool = Pool([miner.node for miner in MINERS]), follower()
    pages = said.news(page=2)
    assert [pool.take(page) for page in pages] == [False, False, True]
    assert pool.count(MODEL) == len(MINERS)


def bad_news(said: Pool) -> list[list[LedgerNews]]:
    """What a lying oracle may say instead of the next height's news; ``said`` has one change to tell."""
    (good,) = said.news()
    (page,) = good.changes
    forged = msgspec.structs.replace
    wrong_roots = list(good.sections)
    wrong_roots[Section.MINERS] = EMPTY_TREE.set(page.key, page.value or b"").root
    header = good.certified.header
    assert header is not None
    return [
        [forged(good, changes=())],
        [forged(good, changes=(Change(page.key, record_of(OTHER_MODEL)),))],
        [forged(good, changes=(page, Change(MALLORY.node, record_of())))],
        [forged(good, changes=(Change(page.key, None),))],
        [forged(good, changes=(Change(page.key, None),), sections=tuple(wrong_roots))],
        [forged(good, sections=good.sections[:-1])],
        [forged(good, sections=())],
        [forged(good, certified=certify(header, places=(0, 1)))],
        [forged(good, certified=certify(header, signers=[*ORACLES[:2], MALLORY]))],
        [forged(good, more=True), forged(good, certified=certify(header_of(99)), changes=())],
        [good, good],
        [good, forged(good, certified=certify(header_of(1, EPOCH)))],
    ]


@pytest.mark.parametrize("number", range(12))
def test_what_does_not_lead_to_the_signed_root_is_not_taken(number: int) -> None:
    said, pool = Pool([FIRST, SECOND]), follower()
    told(pool, said.news())
    said.tree = said.tree.set(THIRD, record_of())
    news = bad_news(said)[number]
    held = pool.header
    with pytest.raises(RemoteProtocolError):
        told(pool, news)
    if len(news) == 1:
        assert pool.header == held and not pool.available(THIRD, MODEL), "it stays as it was"
    assert not pool.available(MALLORY.node, MODEL)
    assert told(pool, said.news(all_of_it=True)), "asked anew, from the start"
    assert [pool.available(miner, MODEL) for miner in (FIRST, SECOND, THIRD)] == [True] * 3


def test_after_a_lie_changes_alone_are_not_enough() -> None:
    said, pool = Pool([FIRST, SECOND]), follower()
    told(pool, said.news())
    said.tree = said.tree.set(THIRD, record_of())
    with pytest.raises(RemoteProtocolError):
        told(pool, bad_news(said)[0])
    said.tree = said.tree.delete(FIRST)
    with pytest.raises(RemoteProtocolError):
        told(pool, said.news())
    assert pool.available(FIRST, MODEL)


def test_another_oracle_may_be_behind_and_catches_up() -> None:
    ahead, behind, pool = Pool([FIRST], height=20), Pool([FIRST, SECOND], height=10), follower()
    assert told(pool, ahead.news())
    pool.restart()
    assert not told(pool, behind.news()), "nothing that is older replaces what is known"
    assert not pool.available(SECOND, MODEL)
    behind.height, behind.tree = 30, behind.tree.set(THIRD, record_of())
    assert told(pool, behind.news())
    assert pool.available(SECOND, MODEL) and pool.available(THIRD, MODEL)


def test_headers_of_others_tell_that_news_are_held_back() -> None:
    said, pool = Pool([FIRST]), follower()
    told(pool, said.news())
    assert pool.see(certify(header_of(50)))
    assert not pool.see(certify(header_of(49)))
    assert pool.newest is not None and pool.header is not None
    assert (pool.newest.height, pool.header.height) == (50, 11)
    with pytest.raises(RemoteProtocolError):
        pool.see(certify(header_of(51), places=(0, 1)))


def test_a_pool_larger_than_there_can_be_is_not_built() -> None:
    said, pool = Pool(), follower()
    (news,) = said.news()
    with pytest.raises(RemoteProtocolError, match="at most"):
        for first in range(0, 2 * PARAMS.miners_max + 1, 500):
            many = tuple(Change(number.to_bytes(20, "big"), b"x") for number in range(first, first + 500))
            pool.take(msgspec.structs.replace(news, changes=many, more=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 3), st.booleans()), max_size=12))
def test_whatever_happens_the_copy_is_the_pool_of_its_header(steps: list[tuple[int, bool, int, bool]]) -> None:
    said, pool = Pool([FIRST]), follower()
    told(pool, said.news())
    for at, listed, page, tamper in steps:
        miner = MINERS[at].node
        said.tree = said.tree.set(miner, record_of()) if listed else said.tree.delete(miner)
        news = said.news(page=page)
        if tamper:
            lie = Change(MALLORY.node, record_of())
            news[-1] = msgspec.structs.replace(news[-1], changes=(*news[-1].changes, lie))
        try:
            told(pool, news)
        except RemoteProtocolError:
            assert told(pool, said.news(all_of_it=True, page=page))
        assert {m for m in MINERS if pool.available(m.node, MODEL)} == {
            m for m in MINERS if said.tree.get(m.node) is not None
        }
        assert pool.header is not None and pool.header.height == said.height
