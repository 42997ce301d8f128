"""What proves more of a lane than that it was streamed: kept as it comes in, and put into its receipt."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from protocol.committee.members import Committee
from protocol.committee.storage import FIRST_EPOCH
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, recover
from protocol.light.handovers import HandOverBook
from protocol.messages.committee import MemberSignature, SignedBatch, StatementKind, statement_digest
from protocol.messages.handover import HandOver
from protocol.messages.receipts import (
    COMMITTEES_CARRIED_MAX,
    HAND_OVERS_CARRIED_MAX,
    EpochMembers,
    Finality,
    Receipt,
    Settlement,
)
from protocol.messages.results import SignedCommit, SignedReveal


@dataclass(slots=True)
class Proofs:
    """Of one lane's own result; whoever fills it in has checked each piece."""

    commit: SignedCommit | None = None
    reveal: SignedReveal | None = None
    batches: dict[NodeId, SignedBatch] = field(default_factory=dict)
    """By oracle: one that says that this is the result. None of them is kept once that is final."""
    final: Finality | None = None
    claims: dict[Digest, Settlement] = field(default_factory=dict)
    """By header: of which an oracle says that the contract accepted it."""
    settled: Settlement | None = None


def with_proofs(receipt: Receipt, proofs: Proofs, home: Committee) -> Receipt:
    """The receipt with what proves it, and no more: a quorum of batches of its home epoch's committee, and none once
    the outcome is final."""
    agreeing = [proofs.batches[oracle] for oracle in home.members if oracle in proofs.batches]
    batches = tuple(agreeing[: home.quorum]) if proofs.final is None and len(agreeing) >= home.quorum else ()
    return replace(
        receipt,
        commit=proofs.commit,
        reveal=proofs.reveal,
        batches=batches,
        final=proofs.final,
        settled=proofs.settled,
    )


def needed_epochs(receipt: Receipt) -> tuple[int, ...]:
    """Those whose committees signed something of a receipt."""
    epochs = {receipt.order.home_epoch} if receipt.batches else set()
    for proved in (receipt.final, receipt.settled):
        if proved is not None:
            epochs.add(proved.certified.certificate.epoch)
    if receipt.settled is not None and receipt.settled.evm is not None:
        epochs.add(receipt.settled.evm.anchored.certificate.epoch)
    return tuple(sorted(epochs))


def with_committees(domain: Domain, receipt: Receipt, book: HandOverBook) -> Receipt:
    """The receipt with the hand-overs that lead to the committees that signed in it, as far as they are known here.

    Where they do not reach back to the genesis, the members that they begin with come along, for whoever knows their
    root.
    """
    epochs = needed_epochs(receipt)
    paths = {each.epoch: each for epoch in epochs for each in book.path(epoch)}
    found = [paths[epoch] for epoch in sorted(paths)][-HAND_OVERS_CARRIED_MAX:]
    # Those that nothing leads to from the genesis begin with whom their first one followed from.
    roots = {*epochs, *(_before(book, each.epoch + 1) for each in found[:1])} - {each.epoch + 1 for each in found}
    committees = _members(book, roots)
    hand_overs = _carried(domain, book.trust.members_of(FIRST_EPOCH), committees, found)
    if hand_overs is None:
        return replace(receipt, hand_overs=(), committees=_members(book, epochs))
    return replace(receipt, hand_overs=hand_overs, committees=committees)


def _before(book: HandOverBook, epoch: int) -> int:
    """The epoch whose committee handed over."""
    return book.trust.handed_over_by(epoch) or epoch - 1


def _members(book: HandOverBook, epochs: Iterable[int]) -> tuple[EpochMembers, ...]:
    """The committees of epochs, as far as they are known; the genesis names the first one."""
    known = [(epoch, book.trust.members_of(epoch)) for epoch in sorted(epochs) if epoch > FIRST_EPOCH]
    return tuple(EpochMembers(epoch, members) for epoch, members in known if members)[-COMMITTEES_CARRIED_MAX:]


def _carried(
    domain: Domain, first: tuple[NodeId, ...], committees: Iterable[EpochMembers], found: Iterable[HandOver]
) -> tuple[HandOver, ...] | None:
    """Hand-overs as a receipt has them: one that skips is signed by f+1 of the latest committee that is named, by their
    places in that one, and by nobody else. None if one cannot be shown so. Spec: [RECEIPT-SKIP.1]"""
    named: dict[int, tuple[bytes, ...]] = {FIRST_EPOCH: first, **{each.epoch: each.members for each in committees}}
    carried: list[HandOver] = []
    for hand_over in found:
        shown: HandOver | None = hand_over
        if hand_over.epoch not in named:
            base = max(epoch for epoch in named if epoch < hand_over.epoch)
            shown = _skipping(domain, named[base], hand_over)
        if shown is None:
            return None
        carried.append(shown)
        named[hand_over.epoch + 1] = hand_over.members
    return tuple(carried)


def _skipping(domain: Domain, base: tuple[bytes, ...], hand_over: HandOver) -> HandOver | None:
    certificate = hand_over.certified.certificate
    slot = (certificate.epoch, certificate.height, certificate.header)
    said = statement_digest(domain, StatementKind.FINALIZE, *slot)
    signed: dict[bytes, bytes] = {recover(said, each.signature): each.signature for each in certificate.signatures}
    places = [place for place, member in enumerate(base) if member in signed][: (len(base) - 1) // 3 + 1]
    if not base or len(places) <= (len(base) - 1) // 3:
        return None
    signatures = tuple(MemberSignature(place, signed[base[place]]) for place in places)
    certified = replace(hand_over.certified, certificate=replace(certificate, signatures=signatures))
    return replace(hand_over, certified=certified)
