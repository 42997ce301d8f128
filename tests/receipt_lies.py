"""Receipts that lie, each in one way, where whoever tells the lie signed it rightly; and the link that it breaks."""

from collections.abc import Callable
from dataclasses import replace

from protocol.core.ids import ZERO_DIGEST
from protocol.light.levels import Level
from protocol.light.receipt import Link
from protocol.messages.committee import CertificateKind
from protocol.messages.handover import HandOver
from protocol.messages.receipts import EpochMembers, Receipt, Tokens
from protocol.messages.results import AckWord, Verdict
from tests.receipt_liars import (
    MALLORY,
    PLAIN,
    SETTLED,
    SKIPPING,
    TWO,
    Lying,
    ack_of,
    another_commit,
    batches_of,
    by_strangers,
    certified,
    changed,
    cut_short,
    evm_otherwise,
    finality,
    lying,
    opened_otherwise,
    opened_with_more,
    reopened,
    segment,
    strangers_anchor,
    strangers_skip,
    with_epoch,
    with_fields,
)
from tests.receipts_made import MINERS, ORACLES, Maker

LIES: dict[str, tuple[Link, Callable[[], tuple[Maker, Receipt]]]] = {
    "genesis in another form": (Link.NETWORK, changed(PLAIN, lambda r: {"genesis": r.genesis + " "})),
    "no genesis": (Link.NETWORK, changed(PLAIN, lambda _: {"genesis": "{}"})),
    "session signed by another": (Link.SESSION, changed(PLAIN, lambda r: reopened(r.session.opening))),
    "order of another session": (Link.ORDER, lying("session")),
    "order signed by another": (Link.ORDER, changed(PLAIN, lambda r: {"order_signature": MALLORY.sign(PLAIN.session)})),
    "another prompt": (Link.PROMPT, lying("prompt")),
    "another sampling": (Link.PROMPT, lying("sampling")),
    "prompt with another nonce": (
        Link.PROMPT,
        changed(PLAIN, lambda r: {"prompt": with_fields(r.prompt, nonce=bytes(32))}),
    ),
    "a bid set of another network": (Link.BIDS, changed(PLAIN, lambda _: {"bid_sets": (Maker(founded_s=9).bid_set,)})),
    "one bid set twice": (Link.BIDS, changed(PLAIN, lambda r: {"bid_sets": r.bid_sets * 2})),
    "a bid set that is none": (
        Link.BIDS,
        changed(PLAIN, lambda r: {"bid_sets": (with_fields(r.bid_sets[0], payload=b"\6"),)}),
    ),
    "a bid set of a router that was not named": (
        Link.BIDS,
        changed(PLAIN, lambda _: {"bid_sets": (PLAIN.bids_to(MALLORY),)}),
    ),
    "a bid set that no assignment names": (
        Link.ASSIGNMENT,
        changed(PLAIN, lambda r: {"bid_sets": (*r.bid_sets, Lying(lie="other bid set").bid_set)}),
    ),
    "a bid set of another router": (Link.ASSIGNMENT, lying("second router")),
    "an assignment in a router's name": (Link.ASSIGNMENT, lying("in its name")),
    "bids in another order": (Link.BIDS, lying("bids turned round")),
    "no bid set": (Link.ASSIGNMENT, changed(PLAIN, lambda _: {"bid_sets": ()})),
    "numbers that do not rise": (Link.ASSIGNMENT, lying("number", failover=True)),
    "a miner that did not bid": (Link.ASSIGNMENT, lying("nobody's bid")),
    "a bid set that is not here": (Link.ASSIGNMENT, lying("unknown bid set")),
    "more miners than lanes": (Link.ASSIGNMENT, lying("lanes")),
    "a router that was not named": (Link.ASSIGNMENT, lying("other router")),
    "an assignment too many": (
        Link.SEGMENTS,
        changed(PLAIN, lambda r: {"assignments": (*r.assignments, PLAIN.assignment(2))}),
    ),
    "one lease twice": (Link.SEGMENTS, lying("lease", failover=True)),
    "one lease for two segments": (Link.SEGMENTS, lying("one lease", failover=True)),
    "a segment in which nothing was written": (Link.SEGMENTS, lying("nothing written")),
    "an empty segment before another": (
        Link.SEGMENTS,
        changed(TWO, lambda r: segment(r, 0, index=0)),
    ),
    "a head of another order": (
        Link.SEGMENTS,
        changed(PLAIN, lambda r: segment(r, 0, head=with_fields(r.segments[0].head, order=bytes(32)))),
    ),
    "a head with another price": (
        Link.SEGMENTS,
        changed(PLAIN, lambda r: segment(r, 0, head=with_fields(r.segments[0].head, price_wei=8))),
    ),
    "a head of lane 1": (
        Link.SEGMENTS,
        changed(PLAIN, lambda r: segment(r, 0, head=with_fields(r.segments[0].head, lane=1))),
    ),
    "a text without its token": (
        Link.TOKENS,
        changed(PLAIN, lambda r: {"tokens": Tokens(PLAIN.shown.ids, (*PLAIN.shown.texts, b""))}),
    ),
    "a text moved to the next token": (
        Link.TOKENS,
        changed(PLAIN, lambda r: {"tokens": Tokens(PLAIN.shown.ids, (b"In the ", b"", *PLAIN.shown.texts[2:]))}),
    ),
    "cut off": (
        Link.TOKENS,
        changed(PLAIN, lambda r: {"tokens": Tokens(PLAIN.shown.ids[:-1], PLAIN.shown.texts[:-1])}),
    ),
    "signed by another miner": (
        Link.FRAMES,
        changed(PLAIN, lambda r: segment(r, 0, signature=MINERS[1].sign(r.segments[0].chain))),
    ),
    "a count that is not the tokens'": (Link.END, lying("count")),
    "other prompt tokens": (Link.END, lying("prompt tokens")),
    "more cached than there are": (Link.END, lying("cached")),
    "more than was ordered": (Link.END, lying("few tokens")),
    "another end": (Link.END, changed(PLAIN, lambda r: {"end": with_fields(r.end, reason=1)})),
    "an ack of another chain": (Link.ACKS, changed(PLAIN, lambda r: segment(r, 0, ack=ack_of(r, 12, bytes(32))))),
    "an ack of an earlier token's chain": (
        Link.ACKS,
        changed(PLAIN, lambda r: segment(r, 0, ack=ack_of(r, 5, r.chain))),
    ),
    "an ack of what never came": (Link.ACKS, changed(PLAIN, lambda r: segment(r, 0, ack=ack_of(r, 13, r.chain)))),
    "an ack that another signed": (
        Link.ACKS,
        changed(PLAIN, lambda r: segment(r, 0, ack=AckWord(12, r.chain, MALLORY.sign(PLAIN.session)))),
    ),
    "a commit to another lane": (Link.COMMIT, changed(PLAIN, another_commit(lane=1))),
    "a commit under another lease": (Link.COMMIT, changed(PLAIN, another_commit(generation=bytes(24)))),
    "a commit of another miner": (Link.COMMIT, changed(PLAIN, another_commit(miner=MINERS[1].node))),
    "a commit in a miner's name": (
        Link.COMMIT,
        changed(PLAIN, lambda r: {"commit": with_fields(r.commit, signature=MALLORY.sign(PLAIN.session))}),
    ),
    "a reveal in a miner's name": (
        Link.REVEAL,
        changed(PLAIN, lambda r: {"reveal": with_fields(r.reveal, signature=MALLORY.sign(PLAIN.session))}),
    ),
    "more tokens opened than there are": (Link.REVEAL, changed(PLAIN, opened_with_more)),
    "a commit that is not opened": (Link.REVEAL, changed(PLAIN, lambda _: {"reveal": None})),
    "a reveal of no commit": (Link.REVEAL, changed(PLAIN, lambda _: {"commit": None})),
    "another result opened": (Link.REVEAL, changed(PLAIN, opened_otherwise)),
    "another commit opened": (Link.REVEAL, changed(PLAIN, another_commit(commitment=bytes(32)))),
    "a hand-over that nothing needs": (Link.HANDOVER, changed(PLAIN, lambda _: {"hand_overs": (PLAIN.hand_over(1),)})),
    "a committee that nothing needs": (
        Link.HANDOVER,
        changed(PLAIN, lambda _: {"committees": (EpochMembers(2, PLAIN.committee(2)),)}),
    ),
    "the genesis's committee once more": (
        Link.HANDOVER,
        changed(PLAIN, lambda _: {"committees": (EpochMembers(1, PLAIN.committee(1)),)}),
    ),
    "a hand-over before the first epoch": (
        Link.HANDOVER,
        changed(PLAIN, lambda _: {"hand_overs": (HandOver(PLAIN.certify(PLAIN.header(0, 8)), PLAIN.committee(1)),)}),
    ),
    "a committee that is handed over to as well": (
        Link.HANDOVER,
        changed(TWO, lambda _: {"committees": (EpochMembers(2, TWO.committee(2)),)}),
    ),
    "committees in another order": (
        Link.HANDOVER,
        changed(
            TWO,
            lambda _: {"hand_overs": (), "committees": tuple(EpochMembers(n, TWO.committee(n)) for n in (3, 2))},
        ),
    ),
    "a block that a hand-over does not anchor": (
        Link.HANDOVER,
        changed(TWO, lambda r: {"hand_overs": (with_fields(r.hand_overs[0], anchor=b"\xc0"), r.hand_overs[1])}),
    ),
    "a hand-over that strangers skip with": (
        Link.HANDOVER,
        changed(SKIPPING, lambda r: {"hand_overs": (with_fields(r.hand_overs[0], certified=strangers_skip()),)}),
    ),
    "hand-overs in another order": (Link.HANDOVER, changed(TWO, lambda r: {"hand_overs": r.hand_overs[::-1]})),
    "a hand-over to others than were named": (
        Link.HANDOVER,
        changed(TWO, lambda r: {"hand_overs": (HandOver(r.hand_overs[0].certified, TWO.committee(9)),)}),
    ),
    "a hand-over by strangers": (
        Link.HANDOVER,
        changed(TWO, lambda r: {"hand_overs": (HandOver(by_strangers(TWO), TWO.committee(2)), r.hand_overs[1])}),
    ),
    "a hand-over that skips with too few": (
        Link.HANDOVER,
        changed(SKIPPING, lambda r: {"hand_overs": (cut_short(r.hand_overs[0]),)}),
    ),
    "a hand-over that skips with too many": (
        Link.HANDOVER,
        changed(SKIPPING, lambda _: {"hand_overs": (SKIPPING.hand_over(4),)}),
    ),
    "too few batches": (Link.OBSERVATIONS, changed(PLAIN, lambda r: {"batches": r.batches[:-1]})),
    "too many batches": (
        Link.OBSERVATIONS,
        changed(PLAIN, lambda r: {"batches": (*r.batches, PLAIN.batch(ORACLES[3]))}),
    ),
    "one oracle twice": (Link.OBSERVATIONS, changed(PLAIN, lambda r: {"batches": (*r.batches[:-1], r.batches[0])})),
    "an oracle's word on another epoch": (
        Link.OBSERVATIONS,
        changed(PLAIN, lambda r: {"batches": (*r.batches[:-1], Maker(home=2).batch(ORACLES[2], root=PLAIN.root))}),
    ),
    "a batch in an oracle's name": (
        Link.OBSERVATIONS,
        changed(
            PLAIN,
            lambda r: {"batches": (*r.batches[:-1], with_fields(r.batches[-1], signature=MALLORY.sign(PLAIN.session)))},
        ),
    ),
    "an oracle of another epoch": (
        Link.OBSERVATIONS,
        changed(PLAIN, lambda r: {"batches": (*r.batches[:-1], PLAIN.batch(ORACLES[9]))}),
    ),
    "an oracle that saw another result": (
        Link.OBSERVATIONS,
        changed(PLAIN, lambda _: {"batches": batches_of(PLAIN, root=bytes(32))}),
    ),
    "an oracle that saw none": (
        Link.OBSERVATIONS,
        changed(PLAIN, lambda _: {"batches": batches_of(PLAIN, verdict=Verdict.LATE, root=ZERO_DIGEST, count=0)}),
    ),
    "a certificate of another committee": (
        Link.CERTIFICATE,
        changed(PLAIN, lambda _: certified(PLAIN, certificate=by_strangers(PLAIN).certificate)),
    ),
    "a certificate of another header": (
        Link.CERTIFICATE,
        changed(PLAIN, lambda _: certified(PLAIN, header=PLAIN.header(1, 42))),
    ),
    "a certificate of another epoch": (
        Link.CERTIFICATE,
        changed(PLAIN, lambda r: certified(PLAIN, certificate=with_fields(r.final.certified.certificate, epoch=2))),
    ),
    "a certificate without its header": (Link.CERTIFICATE, changed(PLAIN, lambda _: certified(PLAIN, header=None))),
    "a notarization": (
        Link.CERTIFICATE,
        changed(
            PLAIN,
            lambda r: certified(
                PLAIN,
                certificate=with_fields(PLAIN.final().certified.certificate, kind=CertificateKind.NOTARIZATION),
            ),
        ),
    ),
    "an outcome of another task": (Link.OUTCOME, changed(PLAIN, finality(task=2))),
    "an outcome of another result": (Link.OUTCOME, changed(PLAIN, finality(root=bytes(32)))),
    "an outcome that is not ok": (Link.OUTCOME, changed(PLAIN, finality(verdict=Verdict.UNDECIDED))),
    "an outcome that is not in the tree": (
        Link.OUTCOME,
        changed(
            PLAIN, lambda r: {"final": with_fields(PLAIN.final(), outcome=with_fields(PLAIN.outcome, paid_wei=85))}
        ),
    ),
    "a settlement that is not in its tree": (
        Link.OUTCOME,
        changed(SETTLED, lambda r: {"settled": with_fields(SETTLED.settled(), proof=SETTLED.final().proof)}),
    ),
    "a settlement where nothing settles": (
        Link.CHECKPOINT,
        changed(replace(PLAIN, level=Level.SETTLED), lambda _: {}),
    ),
    "a block of another chain": (Link.CHECKPOINT, changed(SETTLED, lambda _: evm_otherwise(block=b"\xc0"))),
    "a contract that accepted something else": (Link.CHECKPOINT, changed(SETTLED, lambda _: evm_otherwise(storage=()))),
    "a block that nobody anchored": (
        Link.CHECKPOINT,
        changed(SETTLED, lambda _: evm_otherwise(anchored=SETTLED.certify(SETTLED.header(2, 80)))),
    ),
    "a block that another epoch anchored": (
        Link.CHECKPOINT,
        changed(SETTLED, lambda _: evm_otherwise(anchored=with_epoch(SETTLED.evm_proof().anchored, 3))),
    ),
    "a block that strangers anchored": (
        Link.CHECKPOINT,
        changed(SETTLED, lambda _: evm_otherwise(anchored=strangers_anchor())),
    ),
}
"""By name: the first link that does not hold, and the receipt with who made the rest of it."""
