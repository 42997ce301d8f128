"""What goes over gossip, once and in time, and what others' gossip does to an oracle."""

from unittest.mock import patch

import pytest

from p2pnode.sim.crypto import Key
from protocol.committee.evidence import convict
from protocol.core.machine import DeadlineReached
from protocol.core.signing import typed_digest
from protocol.messages.committee import Certificate, Certified, Offer
from protocol.messages.evidence import CommitteeNews, ConflictingFrames, ConflictingStatements, SignedFrame
from protocol.messages.tasks import Frame, SegmentHead
from protocol.roles.oracle import Accuse
from protocol.roles.oracle.news import EVIDENCE_MAX, EVIDENCE_OF_NODE_MAX, INTERVAL_MS, News
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    FINALIZATION,
    FINALIZE,
    KEYS,
    ME,
    MINE,
    NULLIFICATION,
    NULLIFY,
    PARAMS,
    STRANGER,
    VOTE,
    batch,
    certify,
    chain,
    keyed,  # noqa: F401
    leader,
    members_of,
    nullification,
    propose,
    say,
    signed_by,
)
from tests.unit.protocol.oracle_at_hand import ALL, Oracle

ONE, OTHER, THIRD = ALL
BLOCKS = chain(PARAMS.epoch_blocks)


def finals(oracle: Oracle) -> list[int]:
    """Heights of the finalizations that it just told everybody."""
    return [
        told.certificate.height
        for news in oracle.published()
        for told in news.certified
        if told.certificate.kind is FINALIZATION
    ]


def makes_final(oracle: Oracle, height: int) -> None:
    """A height becomes final at an oracle."""
    for block in BLOCKS[1 : height + 1]:
        oracle.say(ONE, Certified(block.notarization(), block.header))
    oracle.say(ONE, Certified(BLOCKS[height].finalization(), BLOCKS[height].header))


def news(*certified: Certified, place: int = ONE, **more: object) -> CommitteeNews:
    """What a member tells."""
    return CommitteeNews(KEYS[place].node_id, 1, certified, **more)  # type: ignore[arg-type]


# Finalizations


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_the_leader_of_a_height_tells_at_once_that_it_is_final() -> None:
    oracle = Oracle().started()
    makes_final(oracle, MINE)
    assert finals(oracle) == [MINE]
    (told,) = oracle.published()
    assert told.certified[0].header == BLOCKS[MINE].header
    assert told.author == KEYS[ME].node_id


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_the_others_tell_if_it_is_not_heard_and_not_if_it_is() -> None:
    assert leader(2) != ME
    oracle = Oracle().started()
    makes_final(oracle, 2)
    assert oracle.published() == []
    oracle.wait(PARAMS.resend_interval_ms)
    assert finals(oracle) == [2]
    oracle.wait(PARAMS.resend_interval_ms)
    assert finals(oracle) == [], "once"
    oracle = Oracle().started()
    makes_final(oracle, 2)
    oracle.gossip(ONE, news(Certified(BLOCKS[2].finalization(), BLOCKS[2].header)))
    oracle.wait(PARAMS.resend_interval_ms)
    assert finals(oracle) == []


@pytest.mark.spec("COMMITTEE-NEWS.1")
@pytest.mark.parametrize(
    "heard",
    [
        Certified(Certificate(FINALIZATION, 99, 5, b"\1" * 32, nullification(1).signatures), None),
        Certified(certify(NULLIFICATION, 7), None),
        Certified(BLOCKS[2].notarization(), BLOCKS[2].header),
        Certified(Certificate(FINALIZATION, 1, 50, b"\1" * 32, nullification(1).signatures), None),
    ],
    ids=["forged, of a later epoch", "a nullification", "a notarization", "forged"],
)
def test_what_is_no_finalization_silences_nobody(heard: Certified) -> None:
    oracle = Oracle().started()
    oracle.gossip(ONE, news(heard))
    makes_final(oracle, 2)
    oracle.wait(PARAMS.resend_interval_ms)
    assert finals(oracle) == [2]


@pytest.mark.spec("COMMITTEE-NEWS.1", "SIMPLEX-JUMP.1")
def test_a_finalization_that_comes_by_gossip_counts() -> None:
    oracle = Oracle(key=STRANGER)
    oracle.gossip(ONE, news(Certified(BLOCKS[1].finalization(), BLOCKS[1].header)))
    assert oracle.machine.simplex.tree.base.header.height == 1
    assert "oracle.final" in oracle.notes()
    assert oracle.wait(10_000) is not None
    assert oracle.published() == [], "who is no member tells nothing"


def test_forged_news_change_nothing() -> None:
    oracle = Oracle().started()
    forged = Certificate(FINALIZATION, 1, 1, BLOCKS[1].digest, nullification(1).signatures)
    oracle.gossip(ONE, news(Certified(forged, BLOCKS[1].header)))
    assert oracle.notes() == ["oracle.broke-rule"]
    assert oracle.machine.simplex.height == 1
    assert oracle.disk == {}


# Statements round a broken link


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_with_a_broken_link_its_own_statements_and_latest_certificate_go_by_gossip() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, propose(BLOCKS[1]))
    oracle.wait(PARAMS.resend_interval_ms)
    assert oracle.published() == [], "all links stand"
    oracle.close(oracle.into[THIRD])
    oracle.say(ONE, Certified(BLOCKS[1].notarization(), BLOCKS[1].header))
    oracle.wait(PARAMS.resend_interval_ms)
    (told,) = oracle.published()
    assert [(own.kind, own.height) for own in told.statements] == [(VOTE, 1), (FINALIZE, 1)]
    assert [item.certificate for item in told.certified] == [BLOCKS[1].notarization()]


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_statements_that_come_by_gossip_count() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, propose(BLOCKS[1]))
    for place in (ONE, THIRD):
        vote = say(place, VOTE, 1, BLOCKS[1].digest)
        oracle.gossip(place, news(place=place, statements=(vote,)))
    assert oracle.machine.simplex.height == 2


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_a_notarization_round_a_broken_link_does_not_stand_in_for_the_finalization() -> None:
    oracle = Oracle().started()
    oracle.close(oracle.into[THIRD])
    oracle.say(ONE, Certified(BLOCKS[1].notarization(), BLOCKS[1].header))
    oracle.wait(PARAMS.resend_interval_ms)
    assert oracle.published()
    oracle.say(ONE, Certified(BLOCKS[1].finalization(), BLOCKS[1].header))
    oracle.wait(PARAMS.resend_interval_ms)
    assert finals(oracle) == [1]


# Evidence


def conflict(height: int = 1, place: int = ONE, other: bytes = b"\2") -> ConflictingStatements:
    """Two votes of one slot."""
    return ConflictingStatements(say(place, VOTE, height, b"\1" * 32), say(place, VOTE, height, other * 32))


@pytest.mark.spec("COMMITTEE-NEWS.1", "EVIDENCE-STATEMENTS.1")
def test_evidence_is_told_to_everybody_once() -> None:
    oracle = Oracle().started()
    evidence = conflict()
    oracle.say(ONE, evidence.first)
    oracle.say(ONE, evidence.second)
    assert oracle.notes() == ["oracle.evidence"]
    oracle.wait(1)
    (told,) = oracle.published()
    assert told.conflicting_statements == (evidence,)
    assert convict(DOMAIN, told.conflicting_statements[0]) == KEYS[ONE].node_id
    oracle.say(ONE, evidence.second)
    oracle.gossip(OTHER, news(place=OTHER, conflicting_statements=(evidence,)))
    oracle.wait(10 * INTERVAL_MS)
    assert not any(item.conflicting_statements for item in oracle.published())


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_evidence_that_comes_by_gossip_is_looked_at_and_told_on() -> None:
    oracle = Oracle().started()
    oracle.gossip(OTHER, news(place=OTHER, conflicting_statements=(conflict(),)))
    assert oracle.notes() == ["oracle.evidence"]
    assert KEYS[ONE].node_id in oracle.machine.simplex.waiting.convicted
    harmless = ConflictingStatements(say(OTHER, VOTE, 1, b"\1" * 32), say(OTHER, NULLIFY, 1))
    oracle.gossip(ONE, news(conflicting_statements=(harmless,)))
    assert oracle.notes() == []
    assert KEYS[OTHER].node_id not in oracle.machine.simplex.waiting.convicted


@pytest.mark.spec("COMMITTEE-NEWS.1", "EVIDENCE-HAND-IN.1")
def test_evidence_that_is_handed_in_is_told_as_if_it_had_come_by_gossip() -> None:
    oracle, evidence = Oracle().started(), conflict()
    oracle.tell(Accuse(evidence))
    assert oracle.notes() == ["oracle.evidence"]
    oracle.wait(1)
    assert [told.conflicting_statements for told in oracle.published()] == [(evidence,)]
    for nothing in (evidence, ConflictingStatements(evidence.first, evidence.first)):
        oracle.tell(Accuse(nothing))
        assert oracle.notes() == []
    oracle.wait(10 * INTERVAL_MS)
    assert not any(item.conflicting_statements for item in oracle.published())


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_a_flood_of_evidence_keeps_its_pace_and_its_bounds() -> None:
    told = News(KEYS[ME].node_id)
    homes = {1: members_of()}
    pairs = [frames(STRANGER, number) for number in range(EVIDENCE_MAX + 3)]
    with patch("protocol.roles.oracle.news.EVIDENCE_OF_NODE_MAX", len(pairs)):
        assert sum(told.conflict(DOMAIN, pair, homes) is not None for pair in pairs) == EVIDENCE_MAX == told.evidence
    assert told.conflict(DOMAIN, conflict(), homes) == KEYS[ONE].node_id, "for an oracle's there is always room"
    assert told.message(1_000) is not None
    assert told.message(1_000 + INTERVAL_MS - 1) is None
    second = told.message(1_000 + INTERVAL_MS)
    assert second is not None
    assert len(second.conflicting_frames) == 2


def frames(miner: Key, number: int) -> ConflictingFrames:
    """Two frames of one token of a miner."""
    zero, generation = bytes(32), number.to_bytes(24, "big")
    head = SegmentHead(
        zero, 1, 0, generation, miner.node_id, zero, zero, miner.node_id, 0, zero, 0, zero, zero, 0, zero
    )
    made = [Frame(typed_digest(DOMAIN, head), 1, bytes([at]) * 32, False) for at in (1, 2)]
    first, second = (SignedFrame(head, frame, miner.sign(typed_digest(DOMAIN, frame))) for frame in made)
    return ConflictingFrames(first, second)


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_who_contradicts_itself_for_ever_is_told_of_a_few_times() -> None:
    oracle = Oracle().started()
    for number in range(2, 50):
        oracle.say(ONE, say(ONE, VOTE, 1, number.to_bytes(1, "big") * 32))
    assert oracle.machine.news.evidence == EVIDENCE_OF_NODE_MAX


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_throwaway_keys_do_not_crowd_out_the_evidence_against_a_member() -> None:
    oracle = Oracle().started()
    for number in range(EVIDENCE_MAX + 1):
        pair = ConflictingStatements(
            signed_by(STRANGER, VOTE, number + 1, b"\1" * 32), signed_by(STRANGER, VOTE, number + 1, b"\2" * 32)
        )
        oracle.gossip(OTHER, news(place=OTHER, conflicting_statements=(pair,)))
    assert oracle.machine.news.evidence <= EVIDENCE_MAX
    oracle.gossip(OTHER, news(place=OTHER, conflicting_statements=(conflict(),)))
    assert "oracle.evidence" in oracle.notes()
    assert KEYS[ONE].node_id in oracle.machine.simplex.waiting.convicted


@pytest.mark.spec("COMMITTEE-NEWS.1", "CUT-FAIR.1")
def test_a_batch_with_two_contents_is_told_as_well() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, Offer(batch(ONE, 1)))
    oracle.say(ONE, Offer(batch(ONE, 1, content=b"another")))
    oracle.tell(DeadlineReached())
    assert [len(item.conflicting_batches) for item in oracle.published()] == [1]
