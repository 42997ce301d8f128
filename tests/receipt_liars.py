"""Those who lie in receipts, and sign it: what makes the receipts of ``receipt_lies``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from protocol.core.ids import ZERO_DIGEST, Digest, Generation
from protocol.core.signing import keccak, typed_digest
from protocol.light.levels import Level
from protocol.messages.committee import Certified, SignedBatch
from protocol.messages.envelope import Envelope, seal, unseal
from protocol.messages.handover import HandOver
from protocol.messages.receipts import Finality, Receipt, SegmentRecord, SignedAssignment
from protocol.messages.results import AckWord, SignedCommit, SignedReveal, SignedSession
from protocol.messages.sessions import BidSet, SessionOpen
from protocol.messages.tasks import EndRecord, Frame, TaskOrder
from protocol.results.commitment import commit_of
from protocol.session.transcript import SegmentWriter, segment_id
from tests.receipts_made import MINERS, ORACLES, ROUTER, Maker
from tests.unit.protocol.keys import key

with_fields = msgspec.structs.replace
MALLORY = key(3)
PLAIN = Maker()
TWO = Maker(failover=True, home=2, final_epoch=3, shift=1)
SKIPPING = Maker(home=5, final_epoch=5, skip=True)
SETTLED = Maker(level=Level.SETTLED, settling=True, by_proof=True, final_epoch=2, shift=1)


@dataclass(frozen=True)
class Lying(Maker):
    """Somebody signs something that does not fit the rest."""

    lie: str = ""

    @cached_property
    def order(self) -> TaskOrder:
        changes: dict[str, dict[str, Any]] = {
            "session": {"session": bytes(32)},
            "prompt": {"prompt": bytes(32)},
            "sampling": {"sampling": bytes(32)},
            "few tokens": {"max_tokens": 3},
        }
        return with_fields(super().order, **changes.get(self.lie, {}))

    @cached_property
    def end(self) -> EndRecord:
        changes: dict[str, dict[str, int]] = {
            "count": {"completion_tokens": 11},
            "prompt tokens": {"prompt_tokens": 4},
            "cached": {"cached_tokens": 4},
        }
        return with_fields(super().end, **changes.get(self.lie, {}))

    def assignment(self, number: int) -> SignedAssignment:
        made = super().assignment(number).assignment
        changes: dict[str, dict[str, Any]] = {
            "number": {"number": 1},
            "nobody's bid": {"miners": (MALLORY.node,)},
            "unknown bid set": {"bid_set": bytes(32)},
            "lanes": {"miners": made.miners * 2, "generations": (made.generations[0], bytes(24))},
            "lease": {"generations": (self.generation(1),)},
            "other router": {"router": MALLORY.node},
            "second router": {"router": MALLORY.node},
        }
        made = with_fields(made, **changes.get(self.lie, {}))
        sign = MALLORY.sign if made.router == MALLORY.node or self.lie == "in its name" else ROUTER.sign
        return SignedAssignment(made, sign(typed_digest(self.domain, made)))

    def generation(self, number: int, lane: int = 0) -> Generation:
        return super().generation(1 if self.lie == "one lease" else number, lane)

    @cached_property
    def written(self) -> tuple[tuple[SegmentRecord, ...], Digest]:
        if self.lie != "nothing written":
            return super().written
        first, second = self.head(1, 0, ZERO_DIGEST), MINERS[1]
        name = segment_id(self.domain, first)
        signed = MINERS[0].sign(typed_digest(self.domain, Frame(name, 0, name, False)))
        writer = SegmentWriter(self.domain, second.sign, self.head(2, 0, name))
        frame = writer.frame(self.shown.ids, self.shown.texts, self.end)
        last = SegmentRecord(writer.head, self.tokens, self.end.close(writer.chain), frame.signature)
        return (SegmentRecord(first, 0, name, signed), last), writer.chain

    @cached_property
    def opening(self) -> SessionOpen:
        routers = (ROUTER.node, MALLORY.node) if self.lie == "second router" else (ROUTER.node,)
        return with_fields(super().opening, routers=routers)

    @cached_property
    def bid_set(self) -> Envelope:
        content, _ = unseal(self.domain, super().bid_set, BidSet)
        changes: dict[str, dict[str, Any]] = {
            "other bid set": {"measurements": ()},
            "bids turned round": {"bids": content.bids[::-1]},
        }
        return seal(self.domain, ROUTER.sign, with_fields(content, **changes.get(self.lie, {})))


def lying(lie: str, **fields: Any) -> Callable[[], tuple[Maker, Receipt]]:
    maker = Lying(**{"lie": lie, **fields})
    return lambda: (maker, maker.receipt())


def changed(maker: Maker, change: Callable[[Receipt], dict[str, Any]]) -> Callable[[], tuple[Maker, Receipt]]:
    receipt = maker.receipt()
    return lambda: (maker, with_fields(receipt, **change(receipt)))


def segment(receipt: Receipt, place: int, **fields: Any) -> dict[str, Any]:
    """One segment otherwise."""
    made = list(receipt.segments)
    made[place] = with_fields(made[place], **fields)
    return {"segments": tuple(made)}


def opened_otherwise(receipt: Receipt) -> dict[str, Any]:
    """The miner commits to another result, and opens that."""
    assert receipt.reveal is not None
    reveal = with_fields(receipt.reveal.reveal, root=keccak(b"another result"))
    commit, miner = commit_of(PLAIN.domain, reveal), MINERS[0]
    return {
        "commit": SignedCommit(commit, miner.sign(typed_digest(PLAIN.domain, commit))),
        "reveal": SignedReveal(reveal, miner.sign(typed_digest(PLAIN.domain, reveal))),
    }


def opened_with_more(receipt: Receipt) -> dict[str, Any]:
    """The commit does not bind the count: the reveal names it."""
    assert receipt.reveal is not None
    reveal = with_fields(receipt.reveal.reveal, count=13)
    return {"reveal": SignedReveal(reveal, MINERS[0].sign(typed_digest(PLAIN.domain, reveal)))}


def another_commit(**fields: Any) -> Callable[[Receipt], dict[str, Any]]:
    """The miner commits elsewhere."""

    def change(receipt: Receipt) -> dict[str, Any]:
        assert receipt.commit is not None
        commit = with_fields(receipt.commit.commit, **fields)
        return {"commit": SignedCommit(commit, MINERS[0].sign(typed_digest(PLAIN.domain, commit)))}

    return change


def reopened(signed: SessionOpen) -> dict[str, Any]:
    """Mallory opens the session in the client's name."""
    return {"session": SignedSession(signed, MALLORY.sign(typed_digest(PLAIN.domain, signed)))}


def batches_of(maker: Maker, **value: Any) -> tuple[SignedBatch, ...]:
    """The last oracle of the quorum says something else."""
    made = maker.batches()
    return (*made[:-1], maker.batch(maker.oracles(maker.home)[maker.quorum - 1], **value))


def finality(**fields: Any) -> Callable[[Receipt], dict[str, Any]]:
    """Another outcome in the tree of a header that its committee finalized."""

    def change(receipt: Receipt) -> dict[str, Any]:
        maker = PLAIN
        outcome = with_fields(maker.outcome, **fields)

        @dataclass(frozen=True)
        class Other(Maker):
            @cached_property
            def outcome(self) -> Any:
                return outcome

        other = Other()
        return {"final": other.final()}

    return change


def certified(maker: Maker, **fields: Any) -> dict[str, Any]:
    """The final header otherwise certified."""
    final = maker.final()
    made: Certified = final.certified
    return {"final": Finality(final.outcome, final.proof, with_fields(made, **fields))}


def by_strangers(maker: Maker) -> Certified:
    """A header as four others finalized it."""
    return maker.certify(maker.header(1), oracles=ORACLES[20:24])


def ack_of(receipt: Receipt, index: int, chain: bytes) -> AckWord:
    """The client acknowledges something in the last segment."""
    return PLAIN.ack(receipt.segments[-1].head, index, chain)


def cut_short(hand_over: HandOver) -> HandOver:
    """A hand-over in whose certificate one member stands twice."""
    certificate = hand_over.certified.certificate
    twice = with_fields(certificate, signatures=certificate.signatures[:1] * 2)
    return with_fields(hand_over, certified=with_fields(hand_over.certified, certificate=twice))


def with_epoch(made: Certified, epoch: int) -> Certified:
    """A certificate that says it is of another epoch."""
    return with_fields(made, certificate=with_fields(made.certificate, epoch=epoch))


def strangers_skip() -> Certified:
    """A header of epoch 4, signed by others at the places of two members of the genesis's committee."""
    return SKIPPING.certify(SKIPPING.header(4, 8), (0, 1), ORACLES[20:24])


def evm_otherwise(**fields: Any) -> dict[str, Any]:
    """The proof of settlement, changed."""
    settled = SETTLED.settled()
    return {"settled": with_fields(settled, evm=with_fields(settled.evm, **fields))}


def strangers_anchor() -> Certified:
    """The header that anchors the block, finalized by four others."""
    header = SETTLED.evm_proof().anchored.header
    assert header is not None
    return SETTLED.certify(header, oracles=ORACLES[20:24])
