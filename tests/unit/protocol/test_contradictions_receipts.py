"""Two receipts that contradict each other convict whoever signed both; two that do not convict nobody."""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import msgspec
import pytest

from protocol.core.codec import unpack
from protocol.core.errors import DecodeError
from protocol.core.signing import typed_digest
from protocol.light.levels import Level
from protocol.light.receipt.altered import alterations
from protocol.messages.committee import SignedBatch
from protocol.messages.evidence import (
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    FalseReveal,
)
from protocol.messages.receipts import RECEIPT_BYTES_MAX, Receipt, Tokens
from protocol.results.contradictions import Statements
from protocol.results.evidence import Evidence, convict
from tests.receipts_made import MINERS, ORACLES, Maker
from tests.unit.protocol.keys import Key


@dataclass(frozen=True)
class Lying(Maker):
    """The same session, order and lease, and another answer: all who sign here signed the first one too."""

    @cached_property
    def shown(self) -> Tokens:
        """Other words."""
        return Tokens(super().shown.ids, tuple(text.upper() for text in super().shown.texts))


@dataclass(frozen=True)
class LyingLater(Lying):
    """The same, and the oracles say it in batches of their own, after those of the first answer."""

    def batch(self, oracle: Key, **value: Any) -> SignedBatch:
        """A later one."""
        said = super().batch(oracle, **value)
        batch = msgspec.structs.replace(said.batch, number=3)
        return SignedBatch(batch, oracle.sign(typed_digest(self.domain, batch)), said.content)


def found(maker: Maker, *receipts: Receipt) -> tuple[Evidence, ...]:
    """What is found in receipts of one network."""
    statements = Statements(maker.domain)
    for receipt in receipts:
        statements.receipt(receipt)
    return statements.find().evidence


@pytest.mark.spec("EVIDENCE-FIND.1")
@pytest.mark.parametrize("redacted", [False, True])
@pytest.mark.parametrize(("lying", "batches"), [(Lying(), ConflictingBatches), (LyingLater(), ConflictingValues)])
def test_two_answers_under_one_lease(lying: Maker, batches: type, redacted: bool) -> None:
    honest = Maker()
    pieces = found(honest, honest.receipt(), lying.receipt(redacted=redacted))
    of_oracles, of_the_miner = {ConflictingStatements, batches}, {ConflictingFrames, ConflictingCommits, FalseReveal}
    assert {type(piece) for piece in pieces} == of_oracles | of_the_miner
    for kinds, who in ((of_oracles, {oracle.node for oracle in ORACLES[:3]}), (of_the_miner, {MINERS[0].node})):
        for kind in kinds:
            assert {convict(honest.domain, piece) for piece in pieces if isinstance(piece, kind)} == who


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        (Level.STREAMED, {ConflictingFrames}),
        (Level.COMMITTED, {ConflictingFrames, ConflictingCommits, FalseReveal}),
        (Level.CERTIFIED, {ConflictingFrames, ConflictingCommits, FalseReveal, ConflictingBatches}),
    ],
)
def test_a_lower_receipt_holds_less_to_contradict(level: Level, kinds: set[type]) -> None:
    pieces = found(Maker(), Maker().receipt(), Lying(level=level).receipt())
    assert {type(piece) for piece in pieces} == kinds


def test_an_end_against_a_cut_in_the_other_receipt() -> None:
    """One receipt has the lane end where the other has it go on at the next miner."""

    whole = Maker(failover=True, level=Level.STREAMED)
    cut = len(whole.shown.ids) // 3
    short = Maker(tokens=cut, level=Level.STREAMED)
    assert short.order == whole.order
    assert found(whole, whole.receipt(), short.receipt()) == (), "the lane may have gone on after that end's tokens"

    other = Lying(tokens=cut, level=Level.STREAMED)
    (piece,) = found(whole, whole.receipt(), other.receipt())
    assert isinstance(piece, ConflictingFrames)
    assert piece.closing is not None, "of the end frame, to be compared with the frame that is none"
    assert convict(whole.domain, piece) == MINERS[0].node


@pytest.mark.spec("EVIDENCE-FIND.1")
@pytest.mark.parametrize(
    "makers",
    [
        [Maker(), Maker(level=Level.STREAMED), Maker(level=Level.CERTIFIED)],
        [Maker(failover=True), Maker(failover=True, acks=False)],
        [Maker(lanes=3)],
        [Maker(home=2, final_epoch=4, shift=1), Maker(home=2, final_epoch=4, shift=1, skip=True)],
        [Maker(settling=True, level=Level.SETTLED)],
    ],
)
def test_honest_receipts_convict_nobody(makers: list[Maker]) -> None:
    """Of one answer at every level, whole and redacted, with all that was signed for it."""
    receipts = [maker.receipt(redacted=redacted) for maker in makers for redacted in (False, True)]
    assert found(makers[0], *receipts) == ()


@pytest.mark.spec("EVIDENCE-FIND.1", "EVIDENCE-SIGNER.1")
def test_whoever_changes_a_receipt_convicts_nobody() -> None:
    maker = Maker(tokens=3, failover=True, home=2, final_epoch=3, shift=1, level=Level.SETTLED, settling=True)
    honest, tried = maker.receipt(), 0
    for _, data in islice(alterations(honest), 0, None, 2):
        try:
            changed = unpack(Receipt, data, limit_bytes=RECEIPT_BYTES_MAX)
        except DecodeError:
            continue
        assert found(maker, honest, changed) == ()
        tried += 1
    assert tried > 300
