"""What the simulator found in the committee's code, each fault with the smallest test that shows it."""

from dataclasses import replace

from protocol.committee.tree import Base, Tree
from protocol.core.ids import Digest
from protocol.core.machine import Close, DeadlineReached
from protocol.messages.committee import Certified
from protocol.messages.evidence import CommitteeNews, ConflictingStatements
from protocol.roles.oracle import Include
from protocol.roles.oracle.syncing import ANSWER_TIMEOUT_DELTAS, DOUBLINGS_MAX
from tests.unit.protocol.committee_at_hand import (
    KEYS,
    LEDGER,
    NULLIFY,
    PARAMS,
    STRANGER,
    VOTE,
    build,
    chain,
    keyed,  # noqa: F401
    nullification,
    opening,
    others,
    say,
)
from tests.unit.protocol.oracle_at_hand import Oracle

ONE, OTHER, THIRD = others(3)


def test_a_batch_survives_the_crash_that_came_before_it_left() -> None:
    """The next batch names it, so without it none of this oracle's would enter a block again."""
    oracle = Oracle().started()
    oracle.tell(Include(b"content"))
    oracle.restart()
    oracle.join()
    (waiting,) = oracle.machine.simplex.waiting.all()
    assert waiting.content == b"content"


def test_nothing_is_signed_that_nobody_would_take_up() -> None:
    """A batch beyond what members hold was signed, dropped, and missed by all that followed it."""
    oracle = Oracle(params=replace(PARAMS, batches_waiting_max=2)).started()
    for number in range(4):
        oracle.tell(Include(b"%d" % number))
    assert oracle.machine.signer.last_batch(1) == 2
    assert oracle.notes() == ["oracle.not-included"]


def test_a_page_is_awaited_longer_after_each_that_was_late() -> None:
    """With real delays above 4Δ / 7 nobody ever caught up: the answer came when the next was asked already."""
    oracle = Oracle().started()
    blocks = chain(PARAMS.epoch_blocks)
    oracle.say(ONE, Certified(blocks[3].finalization(), blocks[3].header))
    waits_ms = []
    while len(waits_ms) < DOUBLINGS_MAX + 2:
        while (question := oracle.question()) is None:
            oracle.wait(1)
        channel, asked_ms = question[0], oracle.now_ms
        while Close(channel) not in oracle.did:
            oracle.wait(1)
        waits_ms.append(oracle.now_ms - asked_ms)
    shortest = ANSWER_TIMEOUT_DELTAS * PARAMS.delta_ms
    assert waits_ms == [shortest << min(DOUBLINGS_MAX, k) for k in range(DOUBLINGS_MAX + 2)]


def test_who_hears_a_later_epoch_by_gossip_catches_up() -> None:
    """A member of the next epoch that had missed the close heard only statements of it, by gossip, and ignored them."""
    oracle = Oracle().started()
    statement = say(ONE, NULLIFY, 1, epoch=2)
    oracle.gossip(ONE, CommitteeNews(KEYS[ONE].node_id, oracle.now_ms, (), (statement,)))
    assert oracle.question() is not None


def test_evidence_does_not_keep_a_node_awake_that_is_no_member() -> None:
    """It had something to tell and was not to tell it: its timer rang every millisecond, for ever."""
    oracle = Oracle(key=STRANGER)
    assert not oracle.machine.member
    evidence = ConflictingStatements(say(ONE, VOTE, 1, b"\1" * 32), say(ONE, VOTE, 1, b"\2" * 32))
    news = CommitteeNews(KEYS[OTHER].node_id, oracle.now_ms, conflicting_statements=(evidence,))
    oracle.gossip(OTHER, news)
    rings = 0
    until_ms = oracle.now_ms + PARAMS.resend_interval_ms
    while (at := oracle.machine.next_deadline()) is not None and at <= until_ms:
        oracle.now_ms = max(oracle.now_ms, at)
        oracle.tell(DeadlineReached())
        rings += 1
    assert rings <= 3


def test_what_is_missing_is_found_again_after_a_later_certificate() -> None:
    """The search goes on from where nothing was missing; a height that was given up may turn out notarized."""
    first = opening()
    tree = Tree(Base(first.header, Digest(first.digest), first.state), LEDGER, PARAMS.epoch_blocks)
    blocks = chain(3)
    tree.add_certificate(nullification(1))
    assert tree.incomplete(below=2) is None
    assert tree.incomplete(below=3) == 2
    tree.add_certificate(blocks[1].notarization())
    tree.bodies.pop(blocks[1].digest, None)
    assert tree.incomplete(below=3) == 1
    tree.add_block(blocks[1].digest, blocks[1].header, blocks[1].body)
    assert tree.incomplete(below=3) == 2
    assert tree.incomplete(below=2) is None


def test_a_finalization_that_contradicts_what_is_final_is_not_followed() -> None:
    """Beyond f faulty members nothing is promised, but that no message makes a node stumble."""
    first = opening()
    tree = Tree(Base(first.header, Digest(first.digest), first.state), LEDGER, PARAMS.epoch_blocks)
    one, other = build(first, 1), build(first, 2)
    for block in (one, other):
        tree.add_block(block.digest, block.header, block.body)
    tree.add_certificate(one.finalization())
    tree.add_certificate(other.finalization())
    assert tree.state_after(other.digest) is not None
    tree.finalizations.pop(2)
    certificate = tree.settleable()
    assert certificate is not None
    tree.settle(certificate)
    tree.add_certificate(other.finalization())
    assert tree.settleable() is None
