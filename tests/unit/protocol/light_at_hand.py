"""What a committee of four says to those who only listen: final headers, batches, outcomes with their proofs."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from protocol.committee.election import committee_root
from protocol.committee.payload import Roots, make_header
from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import keccak, typed_digest
from protocol.light.handovers import HandOverBook
from protocol.light.headers import HeaderTrust
from protocol.messages.committee import (
    EMPTY_BODY,
    Batch,
    Certificate,
    CertificateKind,
    Certified,
    Header,
    MemberSignature,
    SignedBatch,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.handover import HandOver
from protocol.messages.results import (
    CommittedNews,
    Content,
    LedgerNews,
    Observation,
    ObservedNews,
    Outcome,
    OutcomeNews,
    Reveal,
    SignedCommit,
    SignedReveal,
    Verdict,
)
from protocol.results.commitment import commit_of
from protocol.results.mountain import Mountain, Place, outcome_leaf, prove
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import DOMAIN, GENESIS, MINER, ORACLES

EPOCH = 3
EPOCHS_KNOWN = EPOCH + 1
"""The next committee is known as soon as an epoch has begun."""
SALT = b"\x05" * 32


def header_of(height: int = 41, epoch: int = EPOCH, **roots: Any) -> Header:
    """A header with these roots in it."""
    fields: dict[str, Any] = {
        "results_root": Mountain().root,
        "results_count": 0,
        "ledger_root": ZERO_DIGEST,
        "params_digest": ZERO_DIGEST,
        "anchor_number": 0,
        "anchor_hash": ZERO_DIGEST,
        "deposits": 0,
        "next_committee": ZERO_DIGEST,
    }
    return make_header(epoch, height, keccak(b"parent"), Roots(**{**fields, **roots}), EMPTY_BODY)


def certify(
    header: Header, places: Sequence[int] = (0, 1, 2), signers: Sequence[Key] = (), **changes: Any
) -> Certified:
    """The header as these members finalized it; ``signers`` stand in for them."""
    digest = header_digest(DOMAIN, header)
    kind = changes.pop("kind", CertificateKind.FINALIZATION)
    said = statement_digest(DOMAIN, StatementKind(kind), header.epoch, header.height, digest)
    keys = signers or [ORACLES[place] for place in places]
    signatures = tuple(MemberSignature(place, key.sign(said)) for place, key in zip(places, keys, strict=True))
    return Certified(Certificate(kind, header.epoch, header.height, digest, signatures), changes.pop("shown", header))


def hand_over_of(
    epoch: int, members: Sequence[Key] = (), named: Sequence[Key] = (), height: int = 41, **certified: Any
) -> HandOver:
    """An epoch hands over to these members, or to the four; ``named`` are those whose root its header has instead."""
    following = tuple(oracle.node for oracle in members or ORACLES)
    root = committee_root(tuple(oracle.node for oracle in named) or following)
    return HandOver(certify(header_of(height, epoch, next_committee=root), **certified), following)


@cache
def _hand_overs(epochs: int) -> tuple[HandOver, ...]:
    return tuple(hand_over_of(epoch) for epoch in range(1, epochs))


def known_book(epochs: int = EPOCHS_KNOWN) -> HandOverBook:
    """Of who has followed the four for some epochs."""
    book = HandOverBook(GENESIS)
    book.take(_hand_overs(epochs))
    return book


def known_trust(epochs: int = 12) -> HeaderTrust:
    """The same, as far as headers go."""
    return known_book(epochs).trust


def news_of(height: int = 41, epoch: int = EPOCH, **roots: Any) -> LedgerNews:
    """A header on its way to whoever follows."""
    return LedgerNews(certify(header_of(height, epoch, **roots)), ())


def batch_of(oracle: Key, observations: Iterable[Observation], number: int = 1, epoch: int = EPOCH) -> SignedBatch:
    """An oracle's batch."""
    content = pack(Content(observations=tuple(observations)))
    batch = Batch(epoch, oracle.node, number, ZERO_DIGEST, keccak(content))
    return SignedBatch(batch, oracle.sign(typed_digest(DOMAIN, batch)), content)


def observed(oracle: Key, value: Observation, number: int = 1, epoch: int = EPOCH) -> ObservedNews:
    """News of a batch that speaks of one lane."""
    return ObservedNews(value.session, batch_of(oracle, [value], number, epoch))


def outcome_of(value: Observation, epoch: int = EPOCH, **fields: Any) -> Outcome:
    """The outcome that oracles who all say this come to."""
    content = {"root": value.root, "count": value.count, "home_epoch": epoch, "paid_wei": 0}
    if value.verdict is not Verdict.OK:
        content |= {"root": ZERO_DIGEST, "count": 0}
    return Outcome(value.session, value.task, value.lane, value.verdict, **{**content, **fields})  # type: ignore[arg-type]


def outcome_news(
    outcome: Outcome, before: int = 5, after: int = 3, *, epoch: int = EPOCH, **certified: Any
) -> OutcomeNews:
    """An outcome among others in the results tree of a final header."""
    mountain, nodes = Mountain(), dict[Place, bytes]()
    others = [keccak(bytes([number])) for number in range(before + after)]
    for leaf in (*others[:before], outcome_leaf(outcome), *others[before:]):
        mountain, new = mountain.append(leaf)  # type: ignore[arg-type]
        nodes.update(new)
    proof = prove(before, mountain.count, nodes.__getitem__)
    header = header_of(epoch=epoch, results_root=mountain.root, results_count=mountain.count)
    return OutcomeNews(outcome, proof, certify(header, **certified))


def committed(
    value: Observation, generation: bytes, miner: Key = MINER, signer: Key | None = None, opened: bool = True
) -> CommittedNews:
    """A miner's commit to a result, with its opening or without."""
    place = (value.session, value.task, value.lane, generation, miner.node)
    reveal = Reveal(*place, value.root, value.count, SALT)
    commit = commit_of(DOMAIN, reveal)
    sign = (signer or miner).sign
    signed = SignedCommit(commit, sign(typed_digest(DOMAIN, commit)))
    return CommittedNews(signed, SignedReveal(reveal, sign(typed_digest(DOMAIN, reveal))) if opened else None)
