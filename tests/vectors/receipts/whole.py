"""Receipts that hold, and what they prove to readers who believe more or less."""

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import structs

from protocol.committee.election import committee_root
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NetworkId
from protocol.core.signing import keccak, typed_digest
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Level
from protocol.light.receipt import Verdict, verify_receipt
from protocol.light.trust import TrustPoint, parse_trust, show_trust
from protocol.messages.committee import SignedBatch, header_digest
from protocol.messages.handover import HandOver
from protocol.messages.receipts import Receipt
from tests.evm_made import header_of
from tests.receipts_made import NOW_MS, Maker

NOW_S = NOW_MS // 1_000
DAY_S = 86_400
WEEK_S = 7 * DAY_S
"""The trust period."""


@dataclass(frozen=True)
class Reader:
    """Whom somebody believes: the genesis of a network, or trust strings; and what time it is there."""

    network: str | None = None
    """In hexadecimal. None: no genesis is believed but that of the trust strings' network."""
    trust: tuple[str, ...] = ()
    now_ms: int | None = None
    accepted: tuple[str, ...] | None = None
    """Headers that the chain says the contract has accepted, by their digests; None: no chain is asked."""

    def verdict(self, genesis: Genesis, data: bytes) -> Verdict:
        """What a receipt proves to this reader, who has the genesis of its trust strings' network."""
        trust = network = None
        if self.trust:
            trust = HeaderTrust(genesis, [parse_trust(text) for text in self.trust], self.now_ms)
        elif self.network is not None:
            network = NetworkId(bytes.fromhex(self.network))
        accepted = None if self.accepted is None else self._is_accepted
        return verify_receipt(data, trust, network=network, now_ms=self.now_ms, accepted=accepted)

    def _is_accepted(self, digest: Digest) -> bool:
        return digest.hex() in (self.accepted or ())


@dataclass(frozen=True)
class Case:
    """A receipt, how it was made, and who reads it."""

    name: str
    maker: Maker
    receipt: Receipt
    reader: Reader


def knowing(maker: Maker, now_ms: int | None = None) -> Reader:
    """Who believes the genesis."""
    return Reader(maker.genesis.network_id().hex(), now_ms=now_ms)


def shown(maker: Maker, epoch: int, time_s: int = 0, now_ms: int | None = None, *, of: int | None = None) -> Reader:
    """Who was shown the committee of an epoch; with ``of`` that of another one in its place."""
    network, root = maker.genesis.network_id(), committee_root(maker.committee(epoch if of is None else of))
    point = TrustPoint(network, maker.genesis.chain_id, epoch, root, time_s)
    return Reader(trust=(show_trust(point),), now_ms=now_ms)


# Hand-overs that tell their age


@dataclass(frozen=True)
class Dated(Maker):
    """Each hand-over carries the EVM block that its header anchors: epoch e's is of day e."""

    def hand_over(self, epoch: int) -> HandOver:
        """See Maker."""
        block = header_of(keccak(b"state"), 8 * epoch, NOW_S + epoch * DAY_S)
        header = self.header(epoch, 8, anchor_number=8 * epoch, anchor_hash=keccak(block))
        return HandOver(self.certify(header), self.committee(epoch + 1), block)


# The cases

EVERYTHING = Maker(
    level=Level.SETTLED,
    failover=True,
    home=2,
    final_epoch=3,
    shift=1,
    settling=True,
    founded_s=NOW_S,
    by_proof=True,
)
"""An answer whose receipt has every part that there is, but for a committee without a hand-over to it."""
SKIPPING = Maker(home=3, final_epoch=4, shift=1, skip=True)
CARRIED = Maker(home=4, final_epoch=5, shift=1, carried=3)
FAR = Maker(home=10, final_epoch=10, shift=1, carried=9)
"""Nobody of the genesis is a member any more."""
DATED = Dated(home=3, final_epoch=4, shift=1, settling=True, founded_s=NOW_S)


def without_batches(receipt: Receipt) -> Receipt:
    """What is final needs none."""
    return structs.replace(receipt, batches=())


def whole_cases() -> Iterator[Case]:
    """Receipts in which nothing is wrong; the first of each maker is read by who believes its genesis."""
    for name, maker in (
        ("streamed", Maker(level=Level.STREAMED)),
        ("streamed without acks", Maker(level=Level.STREAMED, acks=False)),
        ("streamed, an empty answer", Maker(level=Level.STREAMED, tokens=0)),
        ("committed", Maker(level=Level.COMMITTED)),
        ("committed, two lanes", Maker(level=Level.COMMITTED, lanes=2)),
        ("certified", Maker(level=Level.CERTIFIED)),
        ("finalized", Maker()),
        ("finalized, two lanes and a failover", Maker(lanes=2, failover=True)),
        ("finalized by a committee of seven", Maker(size=7)),
        ("settled", Maker(level=Level.SETTLED, settling=True)),
        ("everything", EVERYTHING),
    ):
        yield Case(name, maker, maker.receipt(), knowing(maker))
        yield Case(f"{name}, redacted", maker, maker.receipt(redacted=True), knowing(maker))
    yield from _followed()
    yield from _distrusted()
    yield from _asking()
    maker = Maker(level=Level.CERTIFIED)
    batch = maker.batch(maker.oracles(1)[0])
    longer = batch.content + b"\xc1 what is behind the observations is another matter"
    named = structs.replace(batch.batch, content=keccak(longer))
    signed = SignedBatch(named, maker.oracles(1)[0].sign(typed_digest(maker.domain, named)), longer)
    receipt = structs.replace(maker.receipt(), batches=(signed, *maker.batches()[1:]))
    yield Case("certified, a batch with more behind the observations", maker, receipt, knowing(maker))


def _followed() -> Iterator[Case]:
    """Committees that change."""
    maker = Maker(home=2, final_epoch=3, shift=1)
    yield Case("handed over", maker, maker.receipt(), knowing(maker))
    skipped = without_batches(SKIPPING.receipt())
    yield Case("skipped", SKIPPING, skipped, knowing(SKIPPING))
    carried = CARRIED.receipt()
    yield Case("carried", CARRIED, carried, shown(CARRIED, 3))
    yield Case("carried, read by its genesis", CARRIED, carried, knowing(CARRIED))
    yield Case("far, read by its genesis", FAR, FAR.receipt(), knowing(FAR))
    yield Case("far, read by its committee", FAR, FAR.receipt(), shown(FAR, 9))
    yield Case("carried, read by a later committee", CARRIED, carried, shown(CARRIED, 5))
    yield Case("carried, read by a committee that it does not name", CARRIED, carried, shown(CARRIED, 2))
    dated = DATED.receipt()
    yield Case("dated", DATED, dated, knowing(DATED, NOW_MS))
    late_ms = (NOW_S + WEEK_S + 2 * DAY_S) * 1_000
    yield Case("dated, read in time", DATED, dated, knowing(DATED, (NOW_S + WEEK_S - 1) * 1_000))
    yield Case("dated, past the period of the genesis", DATED, dated, knowing(DATED, (NOW_S + WEEK_S) * 1_000))
    yield Case("dated, shown a committee late enough", DATED, dated, shown(DATED, 3, NOW_S + 3 * DAY_S, late_ms))
    yield Case("dated, shown a committee long ago", DATED, dated, shown(DATED, 3, NOW_S + DAY_S, late_ms))


def _distrusted() -> Iterator[Case]:
    """Readers who believe less."""
    nobody = Reader()
    for name, maker in (("streamed", Maker(level=Level.STREAMED)), ("certified", Maker(level=Level.CERTIFIED))):
        yield Case(f"{name}, read by who believes nobody", maker, maker.receipt(), nobody)
    maker = Maker()
    yield Case("finalized, read by who believes nobody", maker, maker.receipt(), nobody)
    yield Case("finalized, read by who was shown its committee", maker, maker.receipt(), shown(maker, 1, NOW_S))
    yield Case("finalized, read by who was shown a later one", maker, maker.receipt(), shown(maker, 2))
    yield Case("everything, read by who believes nobody", EVERYTHING, EVERYTHING.receipt(), nobody)


def _asking() -> Iterator[Case]:
    """Readers who ask the chain."""
    maker = Maker(level=Level.SETTLED, settling=True)
    digest = header_digest(maker.domain, maker.settled_header()).hex()
    network = maker.genesis.network_id().hex()
    receipt = maker.receipt()
    yield Case("settled, the chain has it", maker, receipt, Reader(network, accepted=(digest,)))
    yield Case("settled, the chain has another", maker, receipt, Reader(network, accepted=("55" * 32,)))
    yield Case("settled, the chain of nobody's network has it", maker, receipt, Reader(accepted=(digest,)))
