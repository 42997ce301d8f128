"""The same receipt proves more or less, depending on whom its reader believes; and it never proves a fork."""

from dataclasses import dataclass, replace

import msgspec
import pytest

from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NetworkId
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Level
from protocol.light.receipt import Invalid, Link, NotEnoughTrust, Verdict, Verified, verify_receipt
from protocol.light.receipt.verdict import Mark
from protocol.light.trust import TrustPoint
from protocol.messages.committee import header_digest
from protocol.messages.handover import HandOver
from tests.receipts_made import NOW_MS, ORACLES, Maker
from tests.unit.protocol.keys import Key

PLAIN = Maker(home=2, final_epoch=3, shift=1)
SETTLED = replace(PLAIN, level=Level.SETTLED, settling=True, founded_s=NOW_MS // 1_000)
PROVED = replace(SETTLED, by_proof=True)
PERIOD_MS = SETTLED.genesis.params.trust_period_ms
LATER_MS = NOW_MS + PERIOD_MS + 1_000


def untrusted(verdict: Verdict, level: Level, link: Link) -> NotEnoughTrust:
    assert isinstance(verdict, NotEnoughTrust), verdict
    assert (verdict.level, verdict.link) == (level, link), verdict
    assert {checked.link: checked.mark for checked in verdict.links}[link] is Mark.UNTRUSTED
    assert Mark.FAILED not in {checked.mark for checked in verdict.links}
    return verdict


def verified(verdict: Verdict, level: Level) -> None:
    assert isinstance(verdict, Verified), verdict
    assert verdict.level is level


@pytest.mark.spec("RECEIPT-VERDICT.1", "RECEIPT-NETWORK.1")
def test_who_means_no_network_believes_no_committee() -> None:
    receipt = PLAIN.receipt()
    told = untrusted(verify_receipt(receipt), Level.COMMITTED, Link.OBSERVATIONS)
    assert "which network" in told.why
    verified(verify_receipt(receipt, network=PLAIN.genesis.network_id()), Level.FINALIZED)
    verified(verify_receipt(receipt, PLAIN.trust()), Level.FINALIZED)
    verified(verify_receipt(replace(PLAIN, level=Level.COMMITTED).receipt()), Level.COMMITTED)


@pytest.mark.spec("RECEIPT-NETWORK.1")
def test_a_receipt_of_another_network_is_invalid() -> None:
    for verdict in (
        verify_receipt(PLAIN.receipt(), network=NetworkId(bytes(32))),
        verify_receipt(PLAIN.receipt(), SETTLED.trust()),
    ):
        assert isinstance(verdict, Invalid)
        assert verdict.link is Link.NETWORK
        assert verdict.actual == f"0x{PLAIN.genesis.network_id().hex()}"


@pytest.mark.spec("RECEIPT-HANDOVER.1")
def test_what_a_reader_knows_needs_not_be_in_it() -> None:
    bare = msgspec.structs.replace(PLAIN.receipt(), hand_overs=())
    verified(verify_receipt(bare, PLAIN.trust(3)), Level.FINALIZED)
    untrusted(verify_receipt(bare, PLAIN.trust(2)), Level.CERTIFIED, Link.CERTIFICATE)
    untrusted(verify_receipt(bare, PLAIN.trust(1)), Level.COMMITTED, Link.OBSERVATIONS)
    for epoch in range(1, 6):
        verified(verify_receipt(PLAIN.receipt(), PLAIN.trust(epoch)), Level.FINALIZED)


def point_of(maker: Maker, epoch: int, time_s: int = NOW_MS // 1_000) -> TrustPoint:
    """The committee of an epoch, as somebody shows it."""
    known = maker.trust(epoch).point(epoch)
    assert known is not None
    return replace(known, time_s=time_s)


@pytest.mark.spec("RECEIPT-HANDOVER.1")
def test_a_trust_point_is_enough_where_the_receipt_names_its_members() -> None:
    carrying = replace(SETTLED, carried=2, founded_s=0, level=Level.FINALIZED)
    trust = HeaderTrust(carrying.genesis, [point_of(carrying, 2)], now_ms=NOW_MS)
    verified(verify_receipt(carrying.receipt(), trust), Level.FINALIZED)
    assert trust.members_of(2) == (), "the reader's own trust stays as it was"
    assert trust.members_of(3) == ()
    wrong = replace(carrying, shift=2)
    point = replace(point_of(carrying, 2), network_id=wrong.genesis.network_id())
    fooled = verify_receipt(wrong.receipt(), HeaderTrust(wrong.genesis, [point]))
    assert isinstance(fooled, Invalid), fooled
    assert fooled.link is Link.HANDOVER


@pytest.mark.spec("RECEIPT-VERDICT.1", "RECEIPT-SKIP.1")
@pytest.mark.parametrize("skip", [False, True])
def test_a_committee_past_its_period_proves_nothing(skip: bool) -> None:
    final = replace(SETTLED, level=Level.FINALIZED, skip=skip)
    verified(verify_receipt(final.receipt(), final.trust(), now_ms=NOW_MS), Level.FINALIZED)
    verified(verify_receipt(final.receipt(), final.trust(), now_ms=NOW_MS + PERIOD_MS - 1_000), Level.FINALIZED)
    told = untrusted(
        verify_receipt(final.receipt(), final.trust(), now_ms=LATER_MS), Level.COMMITTED, Link.OBSERVATIONS
    )
    assert "--rpc" in told.why
    assert "trust string" in told.why
    network = final.genesis.network_id()
    untrusted(verify_receipt(final.receipt(), network=network, now_ms=LATER_MS), Level.COMMITTED, Link.OBSERVATIONS)


@pytest.mark.spec("RECEIPT-CHECKPOINT.1")
def test_the_chain_settles_even_what_an_old_committee_signed() -> None:
    receipt, asked = SETTLED.receipt(), list[Digest]()

    def accepted(digest: Digest) -> bool:
        asked.append(digest)
        return True

    verified(verify_receipt(receipt, SETTLED.trust(), accepted=accepted), Level.SETTLED)
    verified(verify_receipt(receipt, SETTLED.trust(), now_ms=LATER_MS, accepted=accepted), Level.SETTLED)
    assert asked == [header_digest(SETTLED.domain, SETTLED.settled_header())] * 2
    untrusted(verify_receipt(receipt, SETTLED.trust()), Level.FINALIZED, Link.CHECKPOINT)
    denied = verify_receipt(receipt, SETTLED.trust(), accepted=lambda _digest: False)
    assert "not accepted" in untrusted(denied, Level.FINALIZED, Link.CHECKPOINT).why
    stranger = verify_receipt(receipt, accepted=accepted)
    untrusted(stranger, Level.COMMITTED, Link.OBSERVATIONS)
    assert len(asked) == 2, "whose contracts they are is known to nobody who means no network"


@pytest.mark.spec("RECEIPT-CHECKPOINT.1")
def test_a_proof_of_the_chains_state_is_as_good_as_its_committee() -> None:
    receipt = PROVED.receipt()
    verified(verify_receipt(receipt, PROVED.trust(), now_ms=NOW_MS), Level.SETTLED)
    untrusted(verify_receipt(receipt, PROVED.trust(), now_ms=LATER_MS), Level.COMMITTED, Link.OBSERVATIONS)
    asks = verify_receipt(receipt, PROVED.trust(), now_ms=LATER_MS, accepted=lambda _digest: True)
    verified(asks, Level.SETTLED)
    unasked = verify_receipt(receipt, PROVED.trust(), now_ms=NOW_MS, accepted=lambda _digest: False)
    verified(unasked, Level.SETTLED)


def test_trouble_with_the_chain_is_the_callers() -> None:
    def broken(_digest: Digest) -> bool:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        verify_receipt(SETTLED.receipt(), SETTLED.trust(), accepted=broken)


@dataclass(frozen=True)
class Fork(Maker):
    """The first committee's keys are stolen, and name a second committee of their own."""

    true: Genesis | None = None

    @property
    def genesis(self) -> Genesis:  # type: ignore[override]
        assert self.true is not None
        return self.true

    def oracles(self, epoch: int) -> tuple[Key, ...]:
        return ORACLES[:4] if epoch == 1 else ORACLES[40:44]


@pytest.mark.spec("RECEIPT-HANDOVER.1")
def test_a_fork_is_refused_by_whoever_knows_the_committee() -> None:
    honest = replace(PLAIN, home=2, final_epoch=2)
    fork = Fork(home=2, final_epoch=2, shift=1, true=honest.genesis)
    forged = fork.receipt()
    verified(verify_receipt(forged, honest.trust(1)), Level.FINALIZED)
    for reader in (honest.trust(2), honest.trust(5)):
        verdict = verify_receipt(forged, reader)
        assert isinstance(verdict, Invalid)
        assert verdict.link is Link.HANDOVER
        assert verdict.expected != verdict.actual
    bare = msgspec.structs.replace(forged, hand_overs=())
    verdict = verify_receipt(bare, honest.trust(2))
    assert isinstance(verdict, Invalid)
    assert verdict.link is Link.OBSERVATIONS


@pytest.mark.spec("RECEIPT-SKIP.1")
def test_keys_that_were_stolen_after_their_term_skip_to_nothing() -> None:
    settling = replace(SETTLED, level=Level.FINALIZED)
    true = replace(settling.genesis)
    fork = Fork(home=4, final_epoch=4, settling=True, level=Level.FINALIZED, true=true)
    header = fork.header(3, 8)
    forged = HandOver(fork.certify(header, (0, 1), ORACLES[:4]), fork.committee(4))
    receipt = msgspec.structs.replace(fork.receipt(), hand_overs=(forged,))
    verified(verify_receipt(receipt, settling.trust(1), now_ms=NOW_MS), Level.FINALIZED)
    untrusted(verify_receipt(receipt, settling.trust(1), now_ms=LATER_MS), Level.COMMITTED, Link.OBSERVATIONS)
    verdict = verify_receipt(receipt, settling.trust(4), now_ms=LATER_MS)
    assert isinstance(verdict, Invalid)
    assert verdict.link is Link.HANDOVER
