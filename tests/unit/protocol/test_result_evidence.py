"""Evidence about results: what convicts a miner or an oracle, and what convicts nobody."""

from dataclasses import replace

import msgspec
import pytest

from protocol.core.codec import pack
from protocol.core.errors import EvidenceError
from protocol.core.ids import NetworkId, NodeId
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.messages.committee import SignedBatch
from protocol.messages.evidence import CommitteeNews, ConflictingCommits, ConflictingValues, FalseReveal
from protocol.messages.results import Content, SignedReveal, Verdict
from protocol.results.evidence import Evidence, conflicting_places, convict, evidence_id, observations_at_start
from protocol.roles.oracle.news import VALUES_BYTES_MAX, News, evidence_in
from tests.unit.protocol.committee_at_hand import KEYS, keyed, members_of  # noqa: F401
from tests.unit.protocol.desk_at_hand import batch_of
from tests.unit.protocol.results_at_hand import DOMAIN, MALLORY, MINERS, Job, signed_commit

ONE, TWO = Job(), Job(lanes=2)
MINER = MINERS[0]
OTHER = Domain(NetworkId(b"\1" * 32))


def commits() -> ConflictingCommits:
    return ConflictingCommits(TWO.commit(0), TWO.commit(0, count=11))


def reveal() -> FalseReveal:
    return FalseReveal(TWO.commit(0), TWO.reveal(0, salt=b"\x08" * 32))


def values() -> ConflictingValues:
    late = ONE.failed(Verdict.LATE)
    return ConflictingValues(ONE.session, 1, 0, batch_of(1, ONE.ok()), batch_of(1, late, TWO.ok(), number=2))


@pytest.mark.spec("EVIDENCE-COMMITS.1", "EVIDENCE-REVEAL.1", "EVIDENCE-VALUES.1", "EVIDENCE-ID.1")
@pytest.mark.parametrize(
    ("evidence", "who"),
    [(commits(), MINER.node_id), (reveal(), MINER.node_id), (values(), KEYS[1].node_id)],
    ids=["commits", "reveal", "values"],
)
def test_it_convicts_who_signed_both(evidence: Evidence, who: NodeId) -> None:
    assert convict(DOMAIN, evidence) == who
    if not isinstance(evidence, FalseReveal):
        turned = msgspec.structs.replace(evidence, first=evidence.second, second=evidence.first)  # type: ignore[union-attr]
        assert convict(DOMAIN, turned) == who
        assert evidence_id(DOMAIN, who, turned) == evidence_id(DOMAIN, who, evidence)
    with pytest.raises(EvidenceError):
        convict(OTHER, evidence)


@pytest.mark.spec("EVIDENCE-COMMITS.1", "EVIDENCE-SIGNER.1")
def test_commits_that_do_not_contradict() -> None:
    first = TWO.commit(0)
    forged = signed_commit(MALLORY, TWO.commit(0, count=11).commit)
    for second, link in [
        (first, "conflict"),
        (TWO.commit(1), "place"),
        (replace(TWO, generation=2).commit(0, count=11), "place"),
        (replace(TWO, miners=MINERS[2:4]).commit(0), "place"),
        (forged, "signature"),
    ]:
        for pair in ((first, second), (second, first)):
            with pytest.raises(EvidenceError) as error:
                convict(DOMAIN, ConflictingCommits(*pair))
            assert error.value.link == link


@pytest.mark.spec("EVIDENCE-REVEAL.1", "EVIDENCE-SIGNER.1")
def test_reveals_that_show_nothing() -> None:
    wrong = TWO.reveal(0, salt=b"\x08" * 32)
    forged = SignedReveal(wrong.reveal, MALLORY.sign(typed_digest(DOMAIN, wrong.reveal)))
    for commit, shown, link in [
        (TWO.commit(0), TWO.reveal(0), "conflict"),
        (TWO.commit(0), TWO.reveal(1), "place"),
        (TWO.commit(0), replace(TWO, generation=2).reveal(0), "place"),
        (TWO.commit(0), forged, "signature"),
        (signed_commit(MALLORY, TWO.commit(0).commit), wrong, "signature"),
    ]:
        with pytest.raises(EvidenceError) as error:
            convict(DOMAIN, FalseReveal(commit, shown))
        assert error.value.link == link


@pytest.mark.spec("EVIDENCE-VALUES.1", "EVIDENCE-SIGNER.1")
def test_values_that_do_not_contradict() -> None:
    ok, late = ONE.ok(), ONE.failed(Verdict.LATE)
    first = batch_of(1, ok)
    garbage = SignedBatch(first.batch, first.signature, b"\xc1")
    forged = batch_of(1, late, number=2)
    forged = msgspec.structs.replace(forged, signature=KEYS[2].sign(typed_digest(DOMAIN, forged.batch)))
    for second, link in [
        (batch_of(1, ok, number=2), "conflict"),
        (batch_of(1, TWO.ok(), number=2), "conflict"),
        (batch_of(2, late), "place"),
        (garbage, "conflict"),
        (forged, "signature"),
    ]:
        with pytest.raises(EvidenceError) as error:
            convict(DOMAIN, ConflictingValues(ONE.session, 1, 0, first, second))
        assert error.value.link == link
    both = batch_of(1, ok, late)
    assert convict(DOMAIN, ConflictingValues(ONE.session, 1, 0, both, both)) == KEYS[1].node_id


@pytest.mark.spec("EVIDENCE-VALUES.2")
def test_a_content_is_read_up_to_what_is_not_canonical() -> None:
    said = tuple(msgspec.structs.replace(ONE.ok(), task=task, count=task * 4_097) for task in range(40))
    for count in (0, 1, 15, 16, 40):
        content = pack(Content(observations=said[:count]))
        assert tuple(observations_at_start(content)) == said[:count]
        assert tuple(observations_at_start(content + b"more")) == said[:count]
        cut = [len(tuple(observations_at_start(content[:length]))) for length in range(len(content))]
        assert cut == sorted(cut), "no more from less"
    content = pack(Content(observations=said[:3]))
    second = content.index(pack(said[1]))
    wide = content.replace(pack(said[1]), pack(said[1]).replace(b"\x01\x00\x01", b"\xcc\x01\x00\x01", 1))
    assert len(wide) == len(content) + 1
    assert tuple(observations_at_start(wide)) == said[:1], "an integer of more bytes than it needs"
    other = content[:second] + b"\x97" + content[second + 1 :]
    assert tuple(observations_at_start(other)) == said[:1]
    for start in (
        b"",
        b"\x90",
        b"\xa1",
        b"\xdc\x00\x08",
        b"\x91",
        b"\x91\xdc\x00\x01",
        b"\x91\xc0",
        b"\x91\xdd\0\0\0\1",
    ):
        assert tuple(observations_at_start(start + pack(said[0]))) == ()


@pytest.mark.spec("EVIDENCE-VALUES.1", "EVIDENCE-VALUES.2")
def test_the_places_of_two_values() -> None:
    assert conflicting_places(values()) == (0, 0)
    late = ONE.failed(Verdict.LATE)
    first = batch_of(1, TWO.ok(), ONE.ok(), number=2)
    assert conflicting_places(ConflictingValues(ONE.session, 1, 0, first, batch_of(1, TWO.ok(), TWO.ok(), late))) == (
        1,
        2,
    )
    rotten = tampered(first, first.content + b"\0")
    assert convict(DOMAIN, ConflictingValues(ONE.session, 1, 0, rotten, batch_of(1, late))) == KEYS[1].node_id


def tampered(signed: SignedBatch, content: bytes) -> SignedBatch:
    """The batch of the same oracle with another content."""
    batch = msgspec.structs.replace(signed.batch, content=keccak(content))
    return SignedBatch(batch, KEYS[1].sign(typed_digest(DOMAIN, batch)), content)


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_every_kind_is_told_and_read_again() -> None:
    news, homes = News(KEYS[0].node_id), {1: members_of()}
    pieces: list[Evidence] = [values(), commits(), reveal()]
    assert [news.conflict(DOMAIN, piece, homes) for piece in pieces] == [KEYS[1].node_id, MINER.node_id, MINER.node_id]
    assert news.conflict(DOMAIN, commits(), homes) is None, "it is known"
    told: list[Evidence] = []
    for at_ms in (1_000, 2_000):
        message = news.message(at_ms)
        assert isinstance(message, CommitteeNews)
        told += evidence_in(message)
    assert told == pieces


@pytest.mark.spec("COMMITTEE-NEWS.1")
def test_two_batches_that_do_not_fit_a_message_are_known_and_not_told() -> None:
    padding = [replace(ONE, number=number).ok() for number in range(60)]
    ok, late = ONE.ok(), ONE.failed(Verdict.LATE)
    pair = ConflictingValues(ONE.session, 1, 0, batch_of(1, ok, *padding), batch_of(1, late, *padding, number=2))
    news = News(KEYS[0].node_id)
    assert 2 * len(pair.first.content) > VALUES_BYTES_MAX
    assert news.conflict(DOMAIN, pair, {1: members_of()}) == KEYS[1].node_id
    assert news.evidence == 1
    assert news.message(1_000) is None


def test_who_is_no_oracle_convicts_itself_of_nothing_by_values() -> None:
    pair = ConflictingValues(ONE.session, 1, 0, batch_of(9, ONE.ok()), batch_of(9, ONE.failed(Verdict.LATE), number=2))
    assert News(KEYS[0].node_id).conflict(DOMAIN, pair, {1: members_of()}) is None
