"""Whoever changes anything in a receipt is found out, whatever it is."""

from collections import Counter
from itertools import islice

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import pack
from protocol.light.levels import Level
from protocol.light.receipt import Invalid, Link, Verified, verify_receipt
from protocol.light.receipt.altered import alterations, flipped, flips, refused
from protocol.light.receipt.verify import claimed_level
from protocol.messages.receipts import Receipt
from tests.receipts_made import Maker

RICH = Maker(tokens=3, failover=True, home=2, final_epoch=3, shift=1, level=Level.SETTLED, settling=True, by_proof=True)
SKIPPING = Maker(tokens=3, home=3, final_epoch=3, shift=2, skip=True)
CARRYING = Maker(tokens=3, lanes=2, carried=2, home=2, final_epoch=3, shift=1)
MAKERS = {"rich": RICH, "skipping": SKIPPING, "carrying": CARRYING}
TRUST = {name: maker.trust(2) for name, maker in MAKERS.items()}


def check(name: str, receipt: Receipt, step: int = 1) -> Counter[str]:
    """Every change is refused as invalid, to whoever may read it; by which link."""
    before = verify_receipt(receipt, TRUST[name])
    assert isinstance(before, Verified), before
    found: Counter[str] = Counter()
    for path, data in islice(alterations(receipt), 0, None, step):
        after = verify_receipt(data, TRUST[name])
        assert isinstance(after, Invalid), f"{path}: {after}"
        assert refused(before, after)
        found[after.link] += 1
    return found


@pytest.mark.spec("RECEIPT-LINKS.1", "RECEIPT-FORM.1")
def test_every_field_is_bound() -> None:
    found = check("rich", RICH.receipt())
    assert set(found) == set(Link)
    assert sum(found.values()) > 1_000


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.spec("RECEIPT-SKIP.1", "RECEIPT-REDACTED.1")
def test_in_every_form(name: str) -> None:
    assert {Link.HANDOVER, Link.OBSERVATIONS, Link.CERTIFICATE} <= set(
        check(name, MAKERS[name].receipt(redacted=True), 7)
    )


@pytest.mark.long
@pytest.mark.parametrize("name", MAKERS)
def test_every_bit_is_bound(name: str) -> None:
    check(name, MAKERS[name].receipt())
    redacted = MAKERS[name].receipt(redacted=True)
    check(name, redacted)
    for path, data in flips(pack(redacted)):
        assert isinstance(verify_receipt(data, TRUST[name]), Invalid), path


@settings(max_examples=60)
@given(st.data())
def test_bits_are_bound(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(MAKERS)))
    whole = pack(MAKERS[name].receipt(redacted=data.draw(st.booleans())))
    changed = flipped(whole, data.draw(st.integers(0, 8 * len(whole) - 1)))
    assert isinstance(verify_receipt(changed, TRUST[name]), Invalid)


@settings(max_examples=60)
@given(st.data())
def test_whatever_is_put_in_gets_a_verdict(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(MAKERS)))
    whole = pack(MAKERS[name].receipt())
    first = data.draw(st.integers(0, len(whole)))
    last = data.draw(st.integers(first, min(len(whole), first + 400)))
    changed = whole[:first] + data.draw(st.binary(max_size=200)) + whole[last:]
    assert changed == whole or isinstance(verify_receipt(changed, TRUST[name]), Invalid)


def test_who_leaves_proofs_out_claims_less() -> None:
    receipt, trust = RICH.receipt(), TRUST["rich"]
    change = msgspec.structs.replace
    final = change(receipt, settled=None)
    certified = change(final, final=None, hand_overs=receipt.hand_overs[:1])
    committed = change(certified, batches=(), hand_overs=())
    streamed = change(committed, commit=None, reveal=None)
    without_acks = change(streamed, segments=tuple(change(each, ack=None) for each in streamed.segments))
    before = verify_receipt(receipt, trust)
    for less, level in (
        (final, Level.FINALIZED),
        (change(final, batches=(), commit=None, reveal=None), Level.FINALIZED),
        (certified, Level.CERTIFIED),
        (committed, Level.COMMITTED),
        (streamed, Level.STREAMED),
        (without_acks, Level.STREAMED),
    ):
        verdict = verify_receipt(less, trust)
        assert isinstance(verdict, Verified), verdict
        assert verdict.level is level is claimed_level(less)
        assert refused(before, verdict)


def test_flips_are_spread_over_all_of_it() -> None:
    data = pack(SKIPPING.receipt())
    assert sum(1 for _ in flips(data)) == 8 * len(data)
    sampled = [changed for _, changed in flips(data, 100)]
    assert len(set(sampled)) == 100
    places = [next(at for at in range(len(data)) if changed[at] != data[at]) for changed in sampled]
    assert places[0] == 0
    assert places[-1] > 0.98 * len(data)
    assert len({(changed[at] ^ data[at]) for changed, at in zip(sampled, places, strict=True)}) > 1
