"""What the counting mode counts, by hand."""

import pytest

from p2pnode.sim.counting_tally import CountingKeys, StreamCounts, Tally, percentile
from p2pnode.sim.crypto import KeyedHashes
from p2pnode.sim.host import Boot, Host, Part
from p2pnode.sim.links import Profile
from p2pnode.sim.world import World
from protocol.core.codec import encode
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest
from protocol.core.signing import Domain
from protocol.light.levels import Level
from protocol.messages.envelope import seal
from protocol.messages.greeting import ClientHello
from protocol.messages.sessions import Bid
from protocol.roles.client import TaskLevel

GENESIS = Genesis("tally")


class Idle:
    """A program that runs nothing."""

    def start(self, boot: Boot) -> list[Part]:
        return []


def tallied() -> tuple[Tally, Host, Host]:
    keys, tally = KeyedHashes(1), Tally()
    world = World(1, GENESIS, Profile(), keys)
    one, other = (Host(world, name, keys.key(name), Idle()) for name in ("miner-1", "router-1"))
    world.watched_by((tally,))
    return tally, one, other


def shown(level: Level, after_ms: int, against: str = "") -> TaskLevel:
    return TaskLevel(
        level=level,
        proved=(level,),
        after_ms=after_ms,
        agreeing=3,
        members=4,
        final=None,
        against=against,
        evidence=0,
    )


def test_streams_are_counted_by_protocol_and_nobody_s_talk_with_itself() -> None:
    tally, miner, router = tallied()
    before = tally.streams_now()
    for receiver in (router, router, miner):
        tally.wire(miner, receiver, "client", ClientHello())
    tally.wire(router, miner, "task", ClientHello())
    size = len(encode(ClientHello()))
    assert before == {}
    assert tally.streams_now() == {"client": StreamCounts(2, 2 * size), "task": StreamCounts(1, size)}
    assert StreamCounts(5, 70).since(StreamCounts(2, 30)) == StreamCounts(3, 40)


def test_bids_are_counted_by_session_and_receipts_are_none() -> None:
    tally, miner, router = tallied()
    domain, sign = Domain(GENESIS.network_id(), 0), KeyedHashes(1).key("miner-1").sign
    for session in (1, 1, 2):
        bid = Bid(bytes([session]) * 32, miner.node, bytes(32), 0, 1, 1, 0, 0, 1, 0)
        tally.wire(miner, router, "bid", seal(domain, sign, bid))
    tally.wire(router, miner, "bid", seal(domain, sign, ClientHello()))
    assert tally.bids == {b"\1" * 32: 2, b"\2" * 32: 1}
    assert tally.streams["bid"].messages == 4


def test_a_level_that_was_skipped_is_reached_with_the_next() -> None:
    tally, *_ = tallied()
    for level, after_ms in ((Level.CERTIFIED, 30), (Level.CERTIFIED, 40), (Level.FINALIZED, 90)):
        tally._delivered("client-1", 3, shown(level, after_ms))
    tally._delivered("client-1", 4, shown(Level.COMMITTED, 7, "late"))
    assert tally.waits_us == {"committed": [30_000, 7_000], "certified": [30_000], "finalized": [90_000]}
    assert tally.ends == {"result late": 1}


def test_keys_count_what_is_signed_and_checked() -> None:
    keys = CountingKeys(KeyedHashes(1))
    key, digest = keys.key("a"), Digest(bytes(32))
    signature = key.sign(digest)
    assert keys.recover(digest, signature) == keys.recover(digest, key.sign(digest)) == key.node_id
    assert (keys.signed, keys.checked) == (2, 2)


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 5), (90, 9), (91, 10), (99, 10), (100, 10)])
def test_a_percentile_is_one_of_the_values(percent: int, value: int) -> None:
    assert percentile([7, 3, 10, 1, 2, 9, 4, 8, 5, 6], percent) == value
    assert percentile([], percent) is None
