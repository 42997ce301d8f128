"""The escrow when the committee is dead: everybody gets what is his, once, and nobody gets more."""

import pytest

from protocol.core.ids import ZERO_DIGEST
from protocol.ledger.accounts import Account
from tests.unit.chain.contracts_at_hand import ANYBODY, GUARDIAN, fields_of
from tests.unit.chain.escrow_at_hand import ALICE, BOB, CAROL, NO_HEADER, Bank, KeptBank
from tests.unit.chain.evm import Refused


@pytest.fixture(scope="module")
def kept() -> KeptBank:
    """Deployed once."""
    return KeptBank.new()


@pytest.fixture
def bank(kept: KeptBank) -> Bank:
    """Alice paid in 100 and Bob 50; nothing is on the chain yet."""
    bank = kept.fresh()
    bank.deposit(ALICE, 100)
    bank.deposit(BOB, 50)
    return bank


def has(balance: int, reserved: int = 0, withdrawable: int = 0) -> Account:
    """An account of the ledger."""
    return Account(balance, reserved, withdrawable, 0)


def refuse(bank: Bank, reason: str, name: str, *arguments: object) -> None:
    """Check that the escrow refuses, and why."""
    with pytest.raises(Refused) as refused:
        getattr(bank, name)(*arguments)
    assert refused.value.reason == reason


@pytest.mark.spec("ESCROW-EXIT.1")
def test_everybody_gets_all_that_he_has_once(bank: Bank) -> None:
    books = bank.accept({ALICE: has(60, 10, 20), BOB: has(0, 0, 60)})
    bank.withdraw(books, ALICE)
    bank.die()
    done = bank.exit(books, ALICE)
    assert bank.escrow.events(done) == [("Closed", books.digest, 2), ("Paid", f"0x{ALICE.hex()}", 70, 90)]
    assert bank.escrow.call("closing") == (True, books.digest, books.header.ledger_root, 2)
    assert bank.escrow.call("exited", ALICE)
    refuse(bank, "exited", "exit", books, ALICE)
    refuse(bank, "exited", "withdraw", books, ALICE)
    bank.withdraw(books, BOB)
    refuse(bank, "nothing to pay", "exit", books, BOB)
    assert (bank.has(ALICE), bank.has(BOB), bank.held) == (90, 60, 0)


@pytest.mark.spec("ESCROW-EXIT.1")
def test_whoever_withdraws_and_exits_gets_no_more_than_whoever_exits(bank: Bank) -> None:
    books = bank.accept({ALICE: has(40, 0, 60), BOB: has(10, 20, 20)})
    bank.die()
    bank.withdraw(books, ALICE)
    bank.exit(books, ALICE)
    bank.exit(books, BOB)
    assert (bank.has(ALICE), bank.has(BOB), bank.held) == (100, 50, 0)


@pytest.mark.spec("ESCROW-EXIT.2")
def test_a_living_network_opens_no_exit(bank: Bank) -> None:
    books = bank.accept({ALICE: has(100), BOB: has(50)})
    bank.evm.advance(seconds=bank.rig.settings.dead_s - bank.rig.settings.window_s)
    refuse(bank, "alive", "exit", books, ALICE)
    refuse(bank, "alive", "refund", 1, books)
    refuse(bank, "alive", "refund", 1, None)
    newer = bank.accept({ALICE: has(100), BOB: has(50)})
    bank.evm.advance(seconds=bank.rig.settings.dead_s - bank.rig.settings.window_s)
    refuse(bank, "alive", "exit", newer, ALICE)
    assert bank.escrow.call("closing")[0] is False


@pytest.mark.spec("ESCROW-EXIT.2")
def test_after_the_first_exit_the_network_never_comes_back(bank: Bank) -> None:
    """Else what left here would be spent again there."""
    books = bank.accept({ALICE: has(100), BOB: has(50)})
    bank.die()
    bank.exit(books, ALICE)
    late = bank.books({ALICE: has(0), BOB: has(50, 0, 100)})
    with pytest.raises(Refused, match="halted"):
        bank.rig.submit(late.header)
    refuse(bank, "dead", "deposit", CAROL, 10)
    refuse(bank, "not usable", "withdraw", late, BOB)


@pytest.mark.spec("ESCROW-EXIT.2")
def test_a_committee_that_comes_back_before_anybody_left_goes_on(bank: Bank) -> None:
    bank.accept({ALICE: has(100), BOB: has(50)})
    bank.die()
    refuse(bank, "dead", "deposit", CAROL, 10)
    books = bank.accept({ALICE: has(0, 0, 100), BOB: has(50)})
    refuse(bank, "alive", "exit", books, ALICE)
    bank.withdraw(books, ALICE)
    bank.deposit(CAROL, 10)


@pytest.mark.spec("ESCROW-EXIT.3")
def test_the_exit_is_at_the_last_header_and_no_earlier_one(bank: Bank) -> None:
    """By an earlier header somebody would get back what he has spent since."""
    early = bank.accept({ALICE: has(100), BOB: has(50)})
    middle = bank.accept({ALICE: has(50), BOB: has(100)})
    last = bank.accept({ALICE: has(0), BOB: has(150)})
    bank.die()
    for books in (early, middle):
        for following in (ZERO_DIGEST, early.digest, middle.digest, last.digest, b"\x01" * 32):
            refuse(bank, "not the last", "exit", books, ALICE, following)
            refuse(bank, "not the last", "refund", 2, books, following)
    refuse(bank, "not the last", "refund", 1, None)
    for following in (early.digest, last.digest, b"\x01" * 32):
        refuse(bank, "not the last", "exit", last, BOB, following)
    bank.exit(last, BOB)
    refuse(bank, "not the last", "exit", early, ALICE, middle.digest)
    refuse(bank, "nothing to pay", "exit", last, ALICE)
    assert (bank.has(ALICE), bank.has(BOB)) == (0, 150)


@pytest.mark.spec("ESCROW-EXIT.3")
def test_what_was_frozen_within_its_window_does_not_count(bank: Bank) -> None:
    good = bank.accept({ALICE: has(100), BOB: has(50)})
    forged = bank.accept({ALICE: has(0), BOB: has(0), CAROL: has(150)}, usable=False)
    later = bank.accept({CAROL: has(0, 0, 150)}, usable=False)
    bank.freeze()
    bank.die()
    refuse(bank, "not the last", "exit", forged, CAROL, later.digest)
    refuse(bank, "not the last", "exit", later, CAROL)
    refuse(bank, "not usable", "withdraw", later, CAROL)
    refuse(bank, "not the last", "exit", good, ALICE)
    refuse(bank, "not the last", "exit", good, ALICE, later.digest)
    bank.exit(good, ALICE, forged.digest)
    bank.exit(good, BOB)
    assert (bank.has(ALICE), bank.has(BOB), bank.has(CAROL), bank.held) == (100, 50, 0, 0)


@pytest.mark.spec("ESCROW-EXIT.3")
def test_frozen_when_all_is_usable_the_exit_is_at_the_last_one(bank: Bank) -> None:
    early = bank.accept({ALICE: has(150), BOB: has(0)})
    last = bank.accept({ALICE: has(100), BOB: has(50)})
    bank.freeze()
    bank.die()
    refuse(bank, "not the last", "exit", early, ALICE, last.digest)
    bank.exit(last, ALICE)
    assert bank.has(ALICE) == 100


# Deposits that the ledger never saw


@pytest.mark.spec("ESCROW-REFUND.1")
def test_deposits_that_the_last_header_does_not_count_go_back(bank: Bank) -> None:
    books = bank.accept({ALICE: has(100)}, deposits=1)
    bank.deposit(CAROL, 7)
    bank.die()
    refuse(bank, "taken in", "refund", 1, books)
    done = bank.refund(2, books)
    assert bank.escrow.events(done) == [("Closed", books.digest, 1), ("Refunded", 2, f"0x{BOB.hex()}", 50)]
    refuse(bank, "no deposit", "refund", 2, books)
    refuse(bank, "no deposit", "refund", 4, books)
    refuse(bank, "no deposit", "refund", 2**256 - 1, books)
    refuse(bank, "taken in", "refund", 0, books)
    bank.refund(3, books)
    bank.exit(books, ALICE)
    assert (bank.has(ALICE), bank.has(BOB), bank.has(CAROL), bank.held) == (100, 50, 7, 0)
    assert bank.escrow.call("deposited") == bank.escrow.call("paid_out") == 157


@pytest.mark.spec("ESCROW-REFUND.2")
def test_without_a_usable_header_everything_goes_back(bank: Bank) -> None:
    bank.die()
    books = bank.books({ALICE: has(150)})
    refuse(bank, "not the last", "refund", 1, books)
    refuse(bank, "not the last", "refund", 1, None, books.digest)
    done = bank.refund(1, None)
    assert bank.escrow.events(done)[0] == ("Closed", ZERO_DIGEST, 0)
    bank.refund(2, None)
    assert (bank.has(ALICE), bank.has(BOB), bank.held) == (100, 50, 0)
    refuse(bank, "not the last", "exit", books, ALICE)


@pytest.mark.spec("ESCROW-REFUND.2")
def test_a_first_header_that_is_frozen_in_its_window_gives_everything_back(bank: Bank) -> None:
    forged = bank.accept({CAROL: has(150)}, usable=False)
    bank.freeze()
    bank.die()
    refuse(bank, "not the last", "refund", 1, None)
    refuse(bank, "not the last", "exit", forged, CAROL)
    bank.refund(1, None, forged.digest)
    bank.refund(2, None)
    assert (bank.has(ALICE), bank.has(BOB), bank.held) == (100, 50, 0)


@pytest.mark.spec("ESCROW-REFUND.2")
def test_no_account_is_proved_where_nothing_was_usable(bank: Bank) -> None:
    bank.die()
    books = bank.books({ALICE: has(150)})
    proof = books.proof(ALICE)[1:]
    for header in (NO_HEADER, (0, *fields_of(books.header)[1:])):
        with pytest.raises(Refused, match="proof"):
            bank.escrow.send("exit", header, ZERO_DIGEST, *proof, sender=ANYBODY)
    # A header of epoch 0 is none, whatever else it says: its ledger and its count are not looked at.
    crafted = (0, *fields_of(books.header)[1:9], 2, *fields_of(books.header)[10:])
    bank.escrow.send("refund", 2, crafted, ZERO_DIGEST, sender=ANYBODY)
    assert bank.escrow.call("closing") == (True, ZERO_DIGEST, ZERO_DIGEST, 0)


@pytest.mark.spec("ESCROW-REFUND.1")
def test_a_refund_and_an_exit_never_give_one_deposit_twice(bank: Bank) -> None:
    """Whoever closes first, and with whichever call, all go by one header."""
    for first in ("exit", "refund"):
        kept, height = bank.evm.keep(), bank._height
        old = bank.accept({ALICE: has(100)}, deposits=1)
        last = bank.accept({ALICE: has(100), BOB: has(50)}, deposits=2)
        bank.die()
        if first == "exit":
            bank.exit(last, BOB)
        refuse(bank, "taken in" if first == "exit" else "not the last", "refund", 2, last if first == "exit" else old)
        refuse(bank, "not the last", "refund", 2, old, last.digest)
        refuse(bank, "not the last", "refund", 2, None)
        if first == "refund":
            bank.exit(last, BOB)
        assert (bank.has(BOB), bank.held) == (50, 100)
        bank.evm.take_back(kept)
        bank._height = height


# Against those who stand in the way


@pytest.mark.spec("ESCROW-EXIT.1")
def test_the_guardian_cannot_stop_the_exit(bank: Bank) -> None:
    books = bank.accept({ALICE: has(90, 0, 10), BOB: has(50)}, deposits=1)
    bank.die()
    bank.rig.checkpoints.send("pause", 300, sender=GUARDIAN)
    refuse(bank, "paused", "withdraw", books, ALICE)
    bank.exit(books, ALICE)
    bank.refund(2, books)


def test_overflow_in_a_lying_ledger(bank: Bank) -> None:
    """Words that no true ledger has add up to nothing: there is a reason, and no wrapped sum."""
    liars = {
        bytes([place]) * 20: has(*words)
        for place, words in enumerate(
            [(2**256 - 1, 1, 0), (2**255, 2**255, 5), (0, 0, 2**256 - 1), (2**62 + 1, 0, 0)], 1
        )
    }
    greedy = {b"\x77" * 20: has(2**62, 2**62, 2**62), b"\x78" * 20: has(151)}
    books = bank.accept({**liars, **greedy, ALICE: has(150)})
    bank.die()
    for account in liars:
        refuse(bank, "words", "exit", books, account)
    for account in greedy:
        refuse(bank, "more than there is", "exit", books, account)
    bank.exit(books, ALICE)
    assert bank.held == 0


@pytest.mark.spec("ESCROW-BOUND.1")
def test_a_lying_count_of_deposits_gives_none_of_them_away_twice(bank: Bank) -> None:
    books = bank.accept({ALICE: has(150)}, deposits=0)
    bank.die()
    kept = bank.evm.keep()
    bank.refund(1, books)
    bank.refund(2, books)
    refuse(bank, "more than there is", "exit", books, ALICE)
    assert bank.held == 0
    bank.evm.take_back(kept)
    bank.exit(books, ALICE)
    refuse(bank, "more than there is", "refund", 1, books)
    assert bank.held == 0
