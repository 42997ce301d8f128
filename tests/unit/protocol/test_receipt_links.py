"""A receipt holds link by link, and a lie that its liar signed rightly breaks the link where it stands."""

from typing import Any

import msgspec
import pytest

from protocol.core.codec import pack, unpack
from protocol.light.levels import Level
from protocol.light.receipt import Invalid, Link, Verified, read_receipt, verify_receipt
from protocol.light.receipt.redact import is_redacted, redact
from protocol.light.receipt.verdict import LinkBroken, Mark
from protocol.light.receipt.verify import claimed_level
from protocol.light.receipt.view import view
from protocol.messages.receipts import RECEIPT_BYTES_MAX, Receipt
from tests.receipt_liars import PLAIN, SETTLED, SKIPPING, TWO
from tests.receipt_lies import LIES
from tests.receipts_made import CLIENT, MINERS, Maker

with_fields = msgspec.structs.replace

SCENES = {
    "streamed": Maker(level=Level.STREAMED),
    "committed": Maker(level=Level.COMMITTED),
    "certified": Maker(level=Level.CERTIFIED, home=2, shift=2),
    "final": PLAIN,
    "two miners": TWO,
    "no token": Maker(tokens=0),
    "no acks": Maker(acks=False),
    "two lanes": Maker(lanes=2),
    "seven oracles": Maker(size=7, home=2, shift=3),
    "skipping": SKIPPING,
    "skipping, two left": Maker(home=3, final_epoch=3, shift=2, skip=True),
    "settled by proof": SETTLED,
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("redacted", [False, True])
@pytest.mark.spec("RECEIPT-LINKS.1", "RECEIPT-VERDICT.1", "RECEIPT-REDACTED.1")
def test_an_honest_receipt_holds(name: str, redacted: bool) -> None:
    maker = SCENES[name]
    receipt = maker.receipt(redacted=redacted)
    verdict = verify_receipt(pack(receipt), maker.trust())
    assert isinstance(verdict, Verified), verdict
    assert verdict.level is maker.level is claimed_level(receipt)
    assert [checked.link for checked in verdict.links] == list(Link)
    marks = {checked.link: checked.mark for checked in verdict.links}
    assert Mark.FAILED not in marks.values()
    assert marks[Link.ACKS] is (Mark.HOLDS if maker.acks else Mark.SKIPPED)
    assert (marks[Link.PROMPT], marks[Link.TOKENS]) == ((Mark.SKIPPED,) * 2 if redacted else (Mark.HOLDS,) * 2)


@pytest.mark.spec("RECEIPT-REDACTED.1")
def test_the_redacted_form_has_no_text_and_no_tokens() -> None:
    whole = PLAIN.receipt()
    redacted = redact(whole)
    assert redacted == PLAIN.receipt(redacted=True)
    assert (is_redacted(whole), is_redacted(redacted)) == (False, True)
    assert PLAIN.question.encode() in pack(whole)
    for secret in (PLAIN.question.encode(), b" cour", PLAIN.prompt.nonce):
        assert secret not in pack(redacted)


@pytest.mark.spec("RECEIPT-FORM.1")
def test_a_receipt_has_one_encoding() -> None:
    data = pack(PLAIN.receipt())
    assert read_receipt(data) == PLAIN.receipt()
    for other, told in (
        (b"", "no receipt"),
        (b"\x90", "no receipt"),
        (data[:-1], "not MessagePack"),
        (data + b"\0", "not MessagePack"),
        (data[:3] + b"\2" + data[4:], "another format"),
        (data[:3] + b"\xcd\0\1" + data[4:], "canonical"),
        (bytes(RECEIPT_BYTES_MAX + 1), "limit"),
        (b"\xdc\0\x13" + b"\x91" * 60_000, "no receipt"),
        (pack(with_fields(PLAIN.receipt(), prompt=None)), "both"),
        (pack(with_fields(PLAIN.receipt(), tokens=None)), "both"),
        (pack(with_fields(SETTLED.receipt(), final=None)), "of an outcome"),
    ):
        with pytest.raises(LinkBroken, match=told):
            read_receipt(other)
        verdict = verify_receipt(other)
        assert isinstance(verdict, Invalid)
        assert verdict.link is Link.FORMAT
    newer = verify_receipt(data[:3] + b"\2" + data[4:])
    assert isinstance(newer, Invalid)
    assert (newer.expected, newer.actual) == ("1", "2")


@pytest.mark.spec("RECEIPT-VIEW.1")
def test_the_view_names_every_field() -> None:
    receipt = TWO.receipt()
    shown: Any = view(receipt)
    assert list(shown) == list(receipt.__struct_fields__)
    assert shown["genesis"]["name"] == "made"
    assert shown["tokens"]["text"].startswith("In the woods, of course. ")
    assert shown["end"]["reason"] == "stop"
    assert shown["final"]["outcome"]["verdict"] == "ok"
    bid_set = shown["bid_sets"][0]["signed"]
    assert bid_set["kind"] == "BidSet"
    assert bid_set["bids"][1]["bid"]["signed"]["price_wei"] == 9
    assert shown["settled"] is None
    assert shown["session"]["opening"]["client"] == f"0x{CLIENT.node.hex()}"
    for genesis in ("{", "[" * 60_000):
        assert view(with_fields(receipt, genesis=genesis))["genesis"] == genesis
    assert "signed" in str(view(with_fields(receipt, bid_sets=(with_fields(receipt.bid_sets[0], payload=b"\1"),))))


@pytest.mark.parametrize("name", LIES)
@pytest.mark.spec(
    "RECEIPT-NETWORK.1",
    "RECEIPT-SESSION.1",
    "RECEIPT-ORDER.1",
    "RECEIPT-PROMPT.1",
    "RECEIPT-BIDS.1",
    "RECEIPT-ASSIGNMENT.1",
    "RECEIPT-SEGMENTS.1",
    "RECEIPT-TOKENS.1",
    "RECEIPT-FRAMES.1",
    "RECEIPT-END.1",
    "RECEIPT-ACKS.1",
    "RECEIPT-COMMIT.1",
    "RECEIPT-REVEAL.1",
    "RECEIPT-HANDOVER.1",
    "RECEIPT-SKIP.1",
    "RECEIPT-OBSERVATIONS.1",
    "RECEIPT-CERTIFICATE.1",
    "RECEIPT-OUTCOME.1",
    "RECEIPT-CHECKPOINT.1",
)
def test_a_lie_breaks_its_link(name: str) -> None:
    link, make = LIES[name]
    maker, receipt = make()
    for trust in (maker.trust(), None):
        verdict = verify_receipt(unpack(Receipt, pack(receipt), limit_bytes=RECEIPT_BYTES_MAX), trust)
        assert isinstance(verdict, Invalid), f"{name}: {verdict}"
        assert verdict.link is link, f"{name}: {verdict.link}, {verdict.why}"
        marks = [checked.mark for checked in verdict.links]
        assert [checked.link for checked in verdict.links] == list(Link)
        assert marks.count(Mark.FAILED) == 1
        assert set(marks[list(Link).index(link) + 1 :]) <= {Mark.SKIPPED}


def test_every_link_has_a_lie() -> None:
    assert {link for link, _ in LIES.values()} == set(Link) - {Link.FORMAT}, "the format has a test of its own"


def test_what_was_expected_is_told() -> None:
    _, make = LIES["a head with another price"]
    maker, receipt = make()
    verdict = verify_receipt(receipt, maker.trust())
    assert isinstance(verdict, Invalid)
    assert (verdict.expected, verdict.actual) == ("7", "8")
    assert "price_wei" in verdict.why
    _, make = LIES["signed by another miner"]
    maker, receipt = make()
    verdict = verify_receipt(receipt, maker.trust())
    assert isinstance(verdict, Invalid)
    assert verdict.expected == f"0x{MINERS[0].node.hex()}"
    assert verdict.actual.startswith("0x")
