"""Who an oracle speaks with, what it says when a link stands again, and what it does with whoever breaks a rule."""

import pytest

from protocol.core.machine import (
    ChannelClosed,
    Close,
    DeadlineReached,
    Open,
    PeerConnected,
    PersistFailed,
    Received,
    Send,
)
from protocol.messages.committee import Certified, Offer, Recall, SyncPage, SyncRequest
from protocol.messages.evidence import CommitteeNews
from protocol.roles.oracle.events import Include
from protocol.roles.oracle.links import RETRY_MS_MAX, RETRY_MS_MIN
from tests.unit.protocol.committee_at_hand import (
    FINALIZE,
    KEYS,
    NULLIFY,
    PARAMS,
    STRANGER,
    VOTE,
    batch,
    build,
    chain,
    keyed,  # noqa: F401
    nullification,
    opening,
    propose,
)
from tests.unit.protocol.oracle_at_hand import ALL, ANSWER, Oracle

ONE, OTHER, THIRD = ALL


def opened(effects: list[object]) -> set[bytes]:
    """To whom links are opened."""
    return {effect.peer for effect in effects if isinstance(effect, Open) and effect.protocol == "member"}


# Links


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_it_opens_one_link_to_every_other_member_and_asks_at_once() -> None:
    oracle = Oracle()
    effects = oracle.tell(DeadlineReached())
    assert opened(effects) == {KEYS[place].node_id for place in ALL}
    for place in ALL:
        assert oracle.sent(place) == [Recall(1)]
    assert opened(oracle.tell(DeadlineReached())) == set()


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_a_new_link_is_told_all_that_may_have_been_lost() -> None:
    oracle = Oracle().started()
    block = build(opening(), 1)
    oracle.say(ONE, propose(block))
    oracle.say(ONE, Certified(block.notarization(), block.header))
    (channel,) = [at for at, peer in oracle.out.items() if peer == KEYS[OTHER].node_id]
    oracle.close(channel)
    assert oracle.sent(OTHER) == []
    oracle.wait(RETRY_MS_MIN)
    assert oracle.signed() == [(VOTE, 1), (FINALIZE, 1)]
    assert Certified(block.notarization(), block.header) in oracle.sent(OTHER)
    assert oracle.sent(ONE) == []


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_a_broken_link_is_tried_again_later_each_time_and_soon_when_its_peer_was_heard() -> None:
    oracle = Oracle().join(ONE)
    waited = []
    for _ in range(8):
        (channel,) = [at for at, peer in oracle.out.items() if peer == KEYS[OTHER].node_id]
        oracle.close(channel, "refused")
        start = oracle.now_ms
        while KEYS[OTHER].node_id not in opened(oracle.did):
            oracle.wait(1)
        waited.append(oracle.now_ms - start)
    assert waited == [min(RETRY_MS_MAX, RETRY_MS_MIN << doubled) for doubled in range(8)]
    (channel,) = [at for at, peer in oracle.out.items() if peer == KEYS[OTHER].node_id]
    oracle.close(channel)
    assert KEYS[OTHER].node_id in opened(oracle.tell(PeerConnected(KEYS[OTHER].node_id))), "it can be reached again"


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_every_interval_it_says_again_what_it_signed() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, propose(build(opening(), 1)))
    oracle.wait(PARAMS.resend_interval_ms)
    assert oracle.signed() == [(VOTE, 1)]
    oracle.wait(PARAMS.resend_interval_ms)
    assert oracle.signed() == [(VOTE, 1)]


def test_strangers_are_turned_away_and_a_second_stream_takes_the_firsts_place() -> None:
    oracle = Oracle().join()
    channel = oracle.open(30, node=STRANGER.node_id)
    assert Close(channel) in oracle.did
    first = oracle.into[ONE]
    oracle.open(ONE)
    assert Close(first) in oracle.did
    assert oracle.say(ONE, ANSWER) == []
    assert oracle.machine._starting.answers == 1


@pytest.mark.parametrize(
    "message",
    [SyncRequest(1, 1, 2), SyncPage(1, (), (), 1, 1), Certified(nullification(1), build(opening(), 1).header)],
)
def test_who_breaks_a_rule_loses_that_stream_and_no_more(message: object) -> None:
    oracle = Oracle().started()
    broken = oracle.into[ONE]
    effects = oracle.say(ONE, message)  # type: ignore[arg-type]
    assert Close(broken) in effects
    assert oracle.notes() == ["oracle.broke-rule"]
    oracle.open(ONE)
    oracle.say(ONE, propose(build(opening(), 1)))
    assert oracle.signed() == [(VOTE, 1)], "what it says on a new one is looked at again"


def test_what_comes_on_a_dead_stream_is_not_heard() -> None:
    oracle = Oracle().started()
    channel = oracle.into[ONE]
    oracle.tell(ChannelClosed(channel, "reset"))
    assert oracle.say(ONE, propose(build(opening(), 1))) == [Close(channel)]
    assert oracle.machine.signer.signed(VOTE, 1, 1) is None


def test_a_node_that_is_no_member_keeps_no_links_and_follows() -> None:
    oracle = Oracle(key=STRANGER)
    assert opened(oracle.wait(60_000)) == set()
    assert oracle.machine.signing == "no member of this committee"
    assert oracle.tell(Include(b"x"))
    assert oracle.notes() == ["oracle.not-included"]


# Batches


@pytest.mark.spec("BATCH-FORWARD.1", "BATCH-KEPT.1")
def test_what_the_node_includes_goes_out_in_a_batch_of_its_own_and_again_until_it_is_final() -> None:
    oracle = Oracle().started()
    oracle.tell(Include(b"something"))
    (offer,) = [message for message in oracle.sent(ONE) if isinstance(message, Offer)]
    assert (offer.signed.batch.number, offer.signed.content) == (1, b"something")
    oracle.restart()
    oracle.started()
    oracle.wait(PARAMS.resend_interval_ms)
    assert offer in oracle.sent(ONE), "also after a restart: nobody else may have it"
    block = build(opening(), 1, [offer.signed])
    oracle.say(ONE, propose(block))
    oracle.say(ONE, Certified(block.finalization(), block.header))
    oracle.wait(PARAMS.resend_interval_ms)
    assert not any(isinstance(message, Offer) for message in oracle.sent(ONE))


@pytest.mark.spec("BATCH-FORWARD.1")
def test_the_node_cannot_fill_more_batches_than_may_wait() -> None:
    oracle = Oracle().started()
    taken = 0
    for _ in range(3 * PARAMS.batches_waiting_max):
        oracle.tell(Include(b"x"))
        taken += "oracle.not-included" not in oracle.notes()
    assert taken == PARAMS.batches_waiting_max
    assert oracle.machine.signer.last_batch(1) == taken, "a batch that nobody takes would cut off all that follow"
    oracle.tell(Include(bytes(100_000)))
    assert oracle.notes() == ["oracle.not-included"]


@pytest.mark.spec("BATCH-FORWARD.1")
def test_anothers_batch_is_forwarded_to_all() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, Offer(batch(OTHER, 1)))
    for place in ALL:
        assert Offer(batch(OTHER, 1)) in oracle.sent(place)
    oracle.say(OTHER, Offer(batch(OTHER, 1)))
    assert oracle.sent() == []


# The disk


@pytest.mark.spec("SIGNER-DISK.1")
def test_when_the_disk_fails_it_signs_nothing_sends_nothing_and_goes_on_following() -> None:
    oracle = Oracle().started()
    blocks = chain(3)
    oracle.say(ONE, propose(blocks[1]))
    assert oracle.signed() == [(VOTE, 1)]
    streams = set(oracle.out) | set(oracle.into.values())
    effects = oracle.tell(PersistFailed(b"committee", "disk full"))
    assert {effect.channel for effect in effects if isinstance(effect, Close)} >= streams
    assert oracle.notes() == ["oracle.disk-failed"]
    assert "disk full" in oracle.machine.signing
    assert oracle.tell(PersistFailed(b"committee", "again")) == []
    did = oracle.wait(120_000)
    assert opened(did) == set()
    assert oracle.sent() == []
    assert oracle.published() == []
    assert oracle.machine.signer.signed(NULLIFY, 1, 1) is None, "the timer has fired in vain"
    # What is final still becomes known, by gossip.
    before = dict(oracle.disk)
    told = Certified(blocks[1].finalization(), blocks[1].header)
    oracle.gossip(ONE, CommitteeNews(KEYS[ONE].node_id, oracle.now_ms, (told,)))
    assert oracle.machine.simplex.tree.final_height == 1
    assert oracle.disk == before, "nothing is written any more"
    assert oracle.tell(Include(b"x"))
    assert oracle.notes() == ["oracle.not-included"]


@pytest.mark.spec("SIGNER-DISK.1")
def test_after_the_disk_failed_it_answers_no_questions_from_memory() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, propose(build(opening(), 1)))
    oracle.tell(PersistFailed(b"committee", "disk full"))
    channel = oracle.open(ONE, "sync")
    effects = oracle.tell(Received(channel, SyncRequest(1, 1, 5)))
    assert not any(isinstance(effect, Send) for effect in effects)
    assert Close(oracle.open(OTHER)) in oracle.did


@pytest.mark.spec("SIGNER-DISK.1", "SIGNER-START.1")
def test_a_disk_that_fails_before_the_start_is_over_keeps_it_silent() -> None:
    oracle = Oracle().join()
    oracle.say(ONE, ANSWER)
    oracle.tell(PersistFailed(b"committee", "disk full"))
    assert oracle.machine.signer.ready is False
    oracle.wait(10_000)
    assert oracle.signed() == []


@pytest.mark.spec("SIMPLEX-TIMER.1")
def test_a_machine_left_alone_nullifies_and_says_so_to_all() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, Offer(batch(ONE, 1)))
    oracle.wait(1_700)
    assert (NULLIFY, 1) in oracle.signed()
