"""The signer log: one slot, one signature, through whatever comes between."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.committee.certificates import verify_batch
from protocol.committee.signer import PREFIXES, Signer
from protocol.core.ids import ZERO_DIGEST
from protocol.messages.committee import NO_HEADER, StatementKind
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    FINALIZE,
    KEYS,
    ME,
    NULLIFY,
    PROPOSAL,
    VOTE,
    Member,
    batch,
    batches,
    build,
    chain,
    digest_of,
    keyed,  # noqa: F401
    nullification,
    opening,
    others,
    propose,
    said,
    say,
    signed_by,
)

KEY = KEYS[ME]
A, B = b"\xaa" * 32, b"\xbb" * 32


def signer(records: Mapping[bytes, bytes] | None = None) -> Signer:
    """A log that is known to be whole."""
    made = Signer(DOMAIN, KEY.node_id, KEY.sign, records)
    made.ready = True
    return made


# Once


@pytest.mark.spec("SIGNER-ONCE.1")
@pytest.mark.parametrize("kind", [PROPOSAL, VOTE, FINALIZE])
def test_asked_again_it_gives_what_it_has_and_refuses_anything_else(kind: StatementKind) -> None:
    log = signer()
    first = log.sign(kind, 1, 5, A)
    assert first is not None
    assert first.statement == signed_by(KEY, kind, 5, A)
    ((name, value),) = first.records
    for again in (log, signer({name: value})):
        stored = again.sign(kind, 1, 5, A)
        assert stored is not None
        assert stored.statement == first.statement
        assert stored.records == (), "it is durable"
        assert again.sign(kind, 1, 5, B) is None
        assert again.sign(kind, 1, 6, B) is not None
        assert again.sign(kind, 2, 5, B) is not None


@pytest.mark.spec("SIGNER-ONCE.1")
@pytest.mark.parametrize(("first", "second"), [(NULLIFY, FINALIZE), (FINALIZE, NULLIFY)])
def test_nullify_and_finalize_of_a_slot_exclude_each_other(first: StatementKind, second: StatementKind) -> None:
    headers = {NULLIFY: NO_HEADER, FINALIZE: A}
    log = signer()
    one = log.sign(first, 1, 5, headers[first])
    assert one is not None
    for again in (log, signer(dict(one.records))):
        assert again.sign(second, 1, 5, headers[second]) is None
        assert again.signed(second, 1, 5) is None
        assert again.sign(VOTE, 1, 5, A) is not None, "a vote goes with either"


@pytest.mark.spec("SIGNER-ONCE.1")
def test_a_batchs_number_is_used_once_and_names_the_one_before() -> None:
    log, records, made = signer(), {}, []
    for number, content in enumerate((b"a", b"b", b"c"), 1):
        if number == 3:
            log = signer(records)
        result = log.sign_batch(1, content)
        assert result is not None
        signed, new = result
        verify_batch(DOMAIN, signed)
        records.update(new)
        made.append(signed)
    assert [signed.batch.number for signed in made] == [1, 2, 3]
    assert [signed.batch.previous for signed in made] == [ZERO_DIGEST, *map(digest_of, made[:2])]
    another = log.sign_batch(2, b"d")
    assert another is not None
    assert (another[0].batch.number, another[0].batch.previous) == (1, ZERO_DIGEST), "each home epoch has its own"
    assert log.last_batch(1) == 3


@pytest.mark.spec("SIGNER-ONCE.1")
@given(
    st.lists(st.tuples(st.sampled_from(StatementKind), st.integers(1, 2), st.integers(1, 3), st.sampled_from([A, B])))
)
def test_whatever_is_asked_in_whatever_order_nothing_contradicts(
    wishes: list[tuple[StatementKind, int, int, bytes]],
) -> None:
    log, records = signer(), dict[bytes, bytes]()
    given_out = {}
    for number, (kind, epoch, height, header) in enumerate(wishes):
        header = NO_HEADER if kind is NULLIFY else header
        made = log.sign(kind, epoch, height, header)
        if made is not None:
            records.update(made.records)
            assert given_out.setdefault((kind, epoch, height), made.statement) == made.statement
        if number % 3 == 2:
            log = signer(records)
    for kind, epoch, height in given_out:
        assert kind is not NULLIFY or (FINALIZE, epoch, height) not in given_out
    assert all(name.startswith(PREFIXES) for name in records)


@pytest.mark.spec("SIGNER-START.1")
def test_until_it_is_ready_nothing_is_signed_and_what_was_is_known() -> None:
    log = signer()
    made = log.sign(VOTE, 1, 5, A)
    assert made is not None
    log = Signer(DOMAIN, KEY.node_id, KEY.sign, dict(made.records))
    assert not log.may_sign(1)
    assert log.sign(VOTE, 1, 6, A) is None
    assert log.sign_batch(1, b"x") is None
    assert log.sign(VOTE, 1, 5, A) is not None, "what is durable may be said again"


# Lost


@pytest.mark.spec("SIGNER-LOST.1")
def test_a_lost_key_is_silent_before_the_epoch_it_is_told_also_after_a_restart() -> None:
    log = signer()
    records = log.silence(before_epoch=4)
    for again in (log, signer(dict(records))):
        for epoch in (1, 3):
            assert again.sign(VOTE, epoch, 1, A) is None
            assert again.sign_batch(epoch, b"x") is None
        assert again.sign(VOTE, 4, 1, A) is not None
        assert again.sign_batch(4, b"x") is not None
        assert again.silence(before_epoch=4) == ()
        assert again.silence(before_epoch=3) == (), "it never gets shorter"


@pytest.mark.spec("SIGNER-LOST.1")
def test_a_statement_of_its_key_that_it_lacks_shows_that_it_is_lost() -> None:
    log = signer()
    log.sign(VOTE, 1, 5, A)
    assert not log.lacks(say(ME, VOTE, 5, A))
    assert log.lacks(say(ME, VOTE, 6, A))
    assert log.lacks(say(ME, FINALIZE, 5, A))
    assert log.lacks_batch(batch(ME, 1).batch)


@pytest.mark.spec("SIGNER-LOST.1")
def test_what_was_forgotten_with_its_epoch_is_not_lacking() -> None:
    """Otherwise anybody could silence a whole log by showing it one of its own old statements."""
    log = signer()
    for epoch in (1, 2, 3, 4):
        assert log.sign(VOTE, epoch, 5, A) is not None
        assert log.sign_batch(epoch, b"x") is not None
    old = say(ME, VOTE, 5, A, epoch=1), batch(ME, 1, content=b"x", home_epoch=1).batch
    log.forget(before_epoch=3)
    assert not log.lacks(old[0])
    assert not log.lacks_batch(old[1])
    assert log.lacks(say(ME, VOTE, 6, A, epoch=3))
    assert log.lacks_batch(batch(ME, 2, home_epoch=4).batch)


@pytest.mark.spec("SIGNER-LOST.1")
def test_what_it_lacks_of_the_time_before_it_was_lost_does_not_silence_it_again() -> None:
    """Otherwise whoever keeps one of its old statements could silence it for ever."""
    log = signer()
    log.silence(before_epoch=4)
    assert not log.lacks(say(ME, VOTE, 5, A, epoch=3))
    assert not log.lacks_batch(batch(ME, 1, home_epoch=3).batch)
    assert log.lacks(say(ME, VOTE, 5, A, epoch=4))


@pytest.mark.spec("SIGNER-LOST.1")
@pytest.mark.parametrize("how", ["statement", "certificate", "proposal", "vote in time"])
def test_consensus_tells_of_any_statement_of_its_own_that_it_did_not_make(how: str) -> None:
    block, member = build(opening(), 1), Member()
    if how == "vote in time":
        member.hear(propose(block))
        member.hear(say(ME, VOTE, 1, block.digest))
        assert member.lost == []
        return
    shown = {
        "statement": say(ME, VOTE, 1, block.digest),
        "certificate": block.notarization([ME, *others(2)]),
        "proposal": say(ME, PROPOSAL, 3, A),
    }[how]
    member.hear(shown)
    assert len(member.lost) == 1


@pytest.mark.spec("SIGNER-LOST.1")
def test_a_log_that_is_merely_behind_is_whole() -> None:
    blocks = chain(3)
    member = Member()
    disk = dict(member.disk)
    member.hear(propose(blocks[1]))
    disk = dict(member.disk)
    for height in (2, 3, 4):
        member.hear(nullification(height))
    behind = Member(disk=disk)
    for height in (2, 3, 4):
        behind.hear(nullification(height))
    assert behind.lost == []
    behind.hear(say(ME, VOTE, 1, blocks[1].digest))
    assert behind.lost == []


# Order


@pytest.mark.spec("SIGNER-ONCE.1", "SIMPLEX-RESEND.1")
def test_statements_come_by_height_and_of_one_epoch() -> None:
    log = signer()
    for epoch, height in ((1, 300), (1, 2), (2, 1), (1, 30)):
        log.sign(VOTE, epoch, height, A)
        log.sign(NULLIFY, epoch, height)
    assert [own.height for own in log.statements(1, above=0)] == [2, 2, 30, 30, 300, 300]
    assert [own.height for own in log.statements(1, above=30)] == [300, 300]
    assert [own.epoch for own in log.statements(2, above=0)] == [2, 2]


@pytest.mark.spec("SIGNER-ONCE.1")
def test_a_member_that_is_silent_goes_on_following() -> None:
    member = Member(ready=False)
    blocks = chain(2)
    sent = member.hear(propose(blocks[1]))
    sent += member.hear(blocks[1].notarization())
    sent += member.hear(blocks[1].finalization())
    assert said(sent) == []
    assert [header.height for header in member.settled] == [1]
    member.hear(batches(others(1)[0], 1)[0])
    assert said(member.wait(1_000_000)) == []
    assert [name for name in member.disk if name.startswith(PREFIXES)] == []
