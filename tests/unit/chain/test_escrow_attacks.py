"""The escrow among hostile payees and tokens: what they call back, keep or refuse changes nothing for others."""

from typing import Any

import pytest

from protocol.core.ids import ZERO_DIGEST
from protocol.ledger.accounts import Account
from tests.unit.chain.contracts_at_hand import ANYBODY, DEPLOYER, Rig, Settings
from tests.unit.chain.escrow_at_hand import ALICE, BOB, FRIEND, Bank, KeptBank
from tests.unit.chain.evm import Contract, Refused
from tests.unit.chain.stand_ins import stand_in


@pytest.fixture(scope="module")
def kept() -> KeptBank:
    """Deployed once."""
    return KeptBank.new()


@pytest.fixture
def bank(kept: KeptBank) -> Bank:
    """As if nothing had happened."""
    return kept.fresh()


def has(withdrawable: int = 0, balance: int = 0) -> Account:
    """An account of the ledger."""
    return Account(balance, 0, withdrawable, 0)


def payee(bank: Bank) -> Contract:
    """A contract that has an account."""
    return bank.evm.deploy(stand_in("payee"), sender=DEPLOYER)


def calls_back(payee: Contract, bank: Bank, name: str, *arguments: Any) -> None:
    """What the payee calls whenever it is paid."""
    data = bank.escrow.data(name, *arguments)
    payee.send("be", bank.escrow.address, data, False, False, sender=ANYBODY)


# Reentrancy


@pytest.mark.spec("ESCROW-BOUND.1")
@pytest.mark.parametrize("name", ["withdraw", "exit", "refund", "deposit"])
def test_reentrancy(bank: Bank, name: str) -> None:
    """A payee that calls the escrow while it is paid is not let in, and is paid once."""
    thief = payee(bank)
    bank.deposit(thief.address, 100)
    bank.deposit(BOB, 900)
    bank.deposit(thief.address, 5)
    books = bank.accept({thief.address: has(40, 60), BOB: has(0, 900)}, deposits=2)
    header, *proof = books.proof(thief.address)
    arguments: dict[str, tuple[Any, ...]] = {
        "withdraw": (header, *proof),
        "exit": (header, ZERO_DIGEST, *proof),
        "refund": (3, header, ZERO_DIGEST),
        "deposit": (thief.address, 1),
    }
    calls_back(thief, bank, name, *arguments[name])
    bank.withdraw(books, thief.address)
    assert (bank.has(thief.address), thief.call("asked"), thief.call("failed")) == (40, 1, True)
    bank.die()
    bank.exit(books, thief.address)
    bank.refund(3, books)
    assert (bank.has(thief.address), thief.call("asked"), thief.call("failed")) == (105, 3, True)
    assert (bank.held, bank.escrow.call("paid_out")) == (900, 105)


def test_reentrancy_through_another_account(bank: Bank) -> None:
    """Nor is it let in for a friend's money: the friend is paid after it, by a call of his own."""
    thief = payee(bank)
    bank.deposit(thief.address, 100)
    bank.deposit(ALICE, 100)
    books = bank.accept({thief.address: has(100), ALICE: has(100)})
    calls_back(thief, bank, "withdraw", *books.proof(ALICE))
    bank.withdraw(books, thief.address)
    assert (bank.has(thief.address), bank.has(ALICE), thief.call("failed")) == (100, 0, True)
    bank.withdraw(books, ALICE)
    assert bank.held == 0


@pytest.mark.spec("ESCROW-BOUND.1")
@pytest.mark.parametrize("name", ["withdraw", "deposit"])
def test_reentrancy_by_a_token_with_hooks(name: str) -> None:
    bank, token = token_bank("token")
    pay_in(bank, token, ALICE, 100)
    books = bank.accept({ALICE: has(40)})
    arguments: tuple[Any, ...] = tuple(books.proof(ALICE)) if name == "withdraw" else (FRIEND, 10)
    token.send("tell", bank.escrow.address, bank.escrow.data(name, *arguments), sender=ANYBODY)
    pay_in(bank, token, BOB, 50)
    assert (token.call("asked"), token.call("failed")) == (1, True)
    bank.withdraw(books, ALICE)
    assert (token.call("asked"), token.call("failed")) == (2, True)
    assert token.call("balanceOf", ALICE) == 40
    assert token.call("balanceOf", bank.escrow.address) == bank.escrow.call("deposited") - 40 == 110


# Griefing


def test_griefing_by_a_payee_that_refuses(bank: Bank) -> None:
    """It stands in nobody's way but its own, and is paid once it no longer refuses."""
    stubborn = payee(bank)
    stubborn.send("be", bytes(20), b"", True, False, sender=ANYBODY)
    bank.deposit(stubborn.address, 100)
    bank.deposit(ALICE, 100)
    books = bank.accept({stubborn.address: has(100), ALICE: has(100)})
    with pytest.raises(Refused, match="payee"):
        bank.withdraw(books, stubborn.address)
    assert bank.escrow.call("paid", stubborn.address) == 0
    bank.withdraw(books, ALICE)
    stubborn.send("be", bytes(20), b"", False, False, sender=ANYBODY)
    bank.withdraw(books, stubborn.address)
    assert (bank.has(stubborn.address), bank.has(ALICE), bank.held) == (100, 100, 0)


def test_griefing_by_a_payee_that_burns_all_gas(bank: Bank) -> None:
    """Only whoever asks for it pays for that, and nothing is booked."""
    hungry = payee(bank)
    hungry.send("be", bytes(20), b"", False, True, sender=ANYBODY)
    bank.deposit(hungry.address, 100)
    books = bank.accept({hungry.address: has(100)})
    with pytest.raises(Refused, match="payee"):
        bank.withdraw(books, hungry.address)
    assert (bank.escrow.call("paid", hungry.address), bank.held) == (0, 100)


def test_griefing_by_asking_for_others(bank: Bank) -> None:
    """Whoever asks, the account is paid, all of it, and to its own address."""
    bank.deposit(ALICE, 100)
    before = bank.evm.balance(BOB)
    books = bank.accept({ALICE: has(30, 70)})
    bank.withdraw(books, ALICE, sender=ANYBODY)
    bank.die()
    bank.exit(books, ALICE)
    assert (bank.has(ALICE), bank.evm.balance(BOB) - before) == (100, 0)


def test_coin_forced_on_the_escrow_changes_no_sum(bank: Bank) -> None:
    """A contract that ends can send coin without asking; it is in no book, and nobody gets it."""
    bank.deposit(ALICE, 100)
    bank.evm.fund(bank.escrow.address, 1_000)
    with pytest.raises(Refused, match="more than there is"):
        bank.withdraw(bank.accept({ALICE: has(101)}), ALICE)
    bank.withdraw(bank.accept({ALICE: has(100)}), ALICE)
    assert (bank.has(ALICE), bank.escrow.call("deposited"), bank.escrow.call("paid_out")) == (100, 100, 100)


# Tokens


def token_bank(name: str, unit: int = 1) -> tuple[Bank, Contract]:
    """A bank whose money is a token."""
    rig = Rig(Settings(window_s=600, dead_s=5_000))
    token = rig.evm.deploy(stand_in(name), sender=DEPLOYER)
    return Bank(token=token.address, unit=unit, rig=rig), token


def pay_in(bank: Bank, token: Contract, account: bytes, amount: int, *, value: int = 0) -> None:
    """A friend mints, approves and pays in."""
    token.send("mint", FRIEND, amount * bank.unit, sender=ANYBODY)
    token.send("approve", bank.escrow.address, amount * bank.unit, sender=FRIEND)
    bank.escrow.send("deposit", account, amount, sender=FRIEND, value=value)


@pytest.mark.spec("ESCROW-DEPOSIT.1")
@pytest.mark.parametrize("name", ["token", "silent token"])
def test_tokens_go_in_and_out(name: str) -> None:
    bank, token = token_bank(name, unit=1_000)
    pay_in(bank, token, ALICE, 100)
    pay_in(bank, token, BOB, 50)
    assert token.call("balanceOf", bank.escrow.address) == 150_000
    books = bank.accept({ALICE: has(30, 70)}, deposits=1)
    bank.withdraw(books, ALICE)
    assert token.call("balanceOf", ALICE) == 30_000
    with pytest.raises(Refused, match="value"):
        pay_in(bank, token, ALICE, 1, value=1)
    bank.die()
    bank.exit(books, ALICE)
    bank.refund(2, books)
    assert [token.call("balanceOf", account) for account in (ALICE, BOB, bank.escrow.address)] == [100_000, 50_000, 0]


@pytest.mark.spec("ESCROW-DEPOSIT.1")
def test_a_token_that_keeps_a_fee_or_says_no_is_refused() -> None:
    for name, reason in {"fee token": "transfer fee", "false token": "transfer"}.items():
        bank, token = token_bank(name)
        with pytest.raises(Refused) as refused:
            pay_in(bank, token, ALICE, 1_000)
        assert refused.value.reason == reason
        assert bank.escrow.call("deposited") == bank.escrow.call("deposit_count") == 0


def test_a_deposit_takes_what_was_approved_and_there() -> None:
    bank, token = token_bank("token")
    token.send("mint", FRIEND, 10, sender=ANYBODY)
    with pytest.raises(Refused):
        bank.escrow.send("deposit", ALICE, 10, sender=FRIEND)
    token.send("approve", bank.escrow.address, 11, sender=FRIEND)
    with pytest.raises(Refused):
        bank.escrow.send("deposit", ALICE, 11, sender=FRIEND)
    # Nobody's approval pays for another's deposit.
    with pytest.raises(Refused):
        bank.escrow.send("deposit", ALICE, 10, sender=ANYBODY)
    bank.escrow.send("deposit", ALICE, 10, sender=FRIEND)
    assert bank.escrow.call("deposit_count") == 1
