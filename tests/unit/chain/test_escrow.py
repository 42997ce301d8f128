"""The escrow while the network lives: what is paid in, and what is paid out by proof."""

import pytest

from chain.artifacts import load_artifact
from protocol.core.ids import NetworkId
from protocol.core.signing import Domain
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from tests.unit.chain.contracts_at_hand import ANYBODY, DEPLOYER, DOMAIN, GUARDIAN, certificate, fields_of
from tests.unit.chain.escrow_at_hand import ALICE, BOB, CAROL, FRIEND, Bank, Books, KeptBank, words_of
from tests.unit.chain.evm import Evm, Refused

LIMIT = 2**62


@pytest.fixture(scope="module")
def kept() -> KeptBank:
    """Deployed once."""
    return KeptBank.new(deposit_min=10, unit=1_000)


@pytest.fixture
def bank(kept: KeptBank) -> Bank:
    """As if nothing had happened."""
    return kept.fresh()


def has(withdrawable: int = 0, balance: int = 0, reserved: int = 0) -> Account:
    """An account of the ledger."""
    return Account(balance, reserved, withdrawable, 3)


# Paying in


@pytest.mark.spec("ESCROW-DEPOSIT.1")
def test_deposits_are_numbered_and_told(bank: Bank) -> None:
    for number, (account, amount) in enumerate([(ALICE, 10), (BOB, 500), (ALICE, 11)], 1):
        done = bank.deposit(account, amount)
        assert bank.escrow.events(done) == [("Deposited", number, f"0x{account.hex()}", amount)]
        assert bank.escrow.call("deposits", number) == (f"0x{account.hex()}", amount)
    assert bank.escrow.call("deposit_count") == 3
    assert bank.escrow.call("deposited") == bank.held == 521
    assert bank.escrow.call("deposits", 0) == bank.escrow.call("deposits", 4) == (f"0x{bytes(20).hex()}", 0)


@pytest.mark.spec("ESCROW-DEPOSIT.1")
@pytest.mark.parametrize(
    ("account", "amount", "value", "reason"),
    [
        (bytes(20), 10, 10_000, "account"),
        (ALICE, 9, 9_000, "too little"),
        (ALICE, 0, 0, "too little"),
        (ALICE, 10, 10, "value"),
        (ALICE, 10, 10_001, "value"),
        (ALICE, 10, 0, "value"),
        (ALICE, LIMIT + 1, (LIMIT + 1) * 1_000, "too much"),
        (ALICE, 2**256 - 1, 10_000, "too much"),
        (ALICE, 2**255, 0, "too much"),
    ],
)
def test_what_is_no_deposit(bank: Bank, account: bytes, amount: int, value: int, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        bank.deposit(account, amount, value=value)
    assert refused.value.reason == reason
    assert bank.held == bank.escrow.call("deposited") == bank.escrow.call("deposit_count") == 0


def test_nothing_is_no_deposit_even_without_a_least_one() -> None:
    bank = Bank(deposit_min=0)
    with pytest.raises(Refused, match="too little"):
        bank.deposit(ALICE, 0)
    bank.deposit(ALICE, 1)


@pytest.mark.spec("ESCROW-DEPOSIT.2")
def test_all_deposits_ever_fit_what_the_ledger_can_sign(bank: Bank) -> None:
    bank.deposit(ALICE, LIMIT - 20)
    bank.deposit(BOB, 20)
    bank.withdraw(bank.accept({ALICE: has(LIMIT - 20)}), ALICE)
    for amount in (10, LIMIT):
        with pytest.raises(Refused, match="too much"):
            bank.deposit(CAROL, amount)


def test_coin_that_is_just_sent_is_not_taken(bank: Bank) -> None:
    with pytest.raises(Refused):
        bank.evm.send(FRIEND, bank.escrow.address, b"", 1_000)
    for name, arguments in {"withdraw": bank.accept({ALICE: has(1)}).proof(ALICE)}.items():
        with pytest.raises(Refused):
            bank.escrow.send(name, *arguments, sender=ANYBODY, value=1_000)


# Paying out


@pytest.mark.spec("ESCROW-WITHDRAW.1")
def test_an_account_is_paid_what_is_withdrawable_and_was_not_paid(bank: Bank) -> None:
    bank.deposit(ALICE, 1_000)
    first = bank.accept({ALICE: has(300, balance=700), BOB: has(0, 5)})
    done = bank.withdraw(first, ALICE)
    assert bank.escrow.events(done) == [("Paid", f"0x{ALICE.hex()}", 300, 300)]
    assert (bank.has(ALICE), bank.held, bank.escrow.call("paid_out")) == (300, 700, 300)
    second = bank.accept({ALICE: has(450, balance=550)})
    assert bank.escrow.events(bank.withdraw(second, ALICE)) == [("Paid", f"0x{ALICE.hex()}", 150, 450)]
    assert (bank.has(ALICE), bank.escrow.call("paid", ALICE)) == (450, 450)
    with pytest.raises(Refused, match="nothing to pay"):
        bank.withdraw(second, ALICE)
    with pytest.raises(Refused, match="nothing to pay"):
        bank.withdraw(first, BOB)


@pytest.mark.spec("ESCROW-WITHDRAW.1")
def test_draining_by_an_old_proof(bank: Bank) -> None:
    """A proof pays once, and what an older one shows is part of what was paid."""
    bank.deposit(ALICE, 100)
    bank.deposit(BOB, 900)
    books = [bank.accept({ALICE: has(total, 100 - total), BOB: has(0, 900)}) for total in (30, 60, 100)]
    bank.withdraw(books[1], ALICE)
    for old in books[:2]:
        with pytest.raises(Refused, match="nothing to pay"):
            bank.withdraw(old, ALICE)
    bank.withdraw(books[2], ALICE)
    for old in books:
        with pytest.raises(Refused, match="nothing to pay"):
            bank.withdraw(old, ALICE)
    assert (bank.has(ALICE), bank.held) == (100, 900)


@pytest.mark.spec("ESCROW-WITHDRAW.1")
def test_in_whatever_order_proofs_come_the_highest_counts(bank: Bank) -> None:
    bank.deposit(ALICE, 100)
    books = [bank.accept({ALICE: has(total)}) for total in (10, 20, 40)]
    for place, paid in ((1, 20), (2, 40)):
        bank.withdraw(books[place], ALICE)
        assert bank.has(ALICE) == paid


@pytest.mark.spec("ESCROW-WITHDRAW.2")
def test_a_header_pays_nothing_before_its_window_is_past(bank: Bank) -> None:
    bank.deposit(ALICE, 100)
    books = bank.accept({ALICE: has(100)}, usable=False)
    with pytest.raises(Refused, match="not usable"):
        bank.withdraw(books, ALICE)
    bank.evm.advance(seconds=bank.rig.settings.window_s - 1)
    with pytest.raises(Refused, match="not usable"):
        bank.withdraw(books, ALICE)
    bank.evm.advance(seconds=1)
    bank.withdraw(books, ALICE)
    assert bank.has(ALICE) == 100


@pytest.mark.spec("ESCROW-WITHDRAW.2")
def test_a_header_that_was_never_accepted_pays_nothing(bank: Bank) -> None:
    bank.deposit(ALICE, 100)
    real = bank.accept({ALICE: has(10)})
    forged = bank.books({ALICE: has(100)})
    with pytest.raises(Refused, match="not usable"):
        bank.withdraw(forged, ALICE)
    header = list(fields_of(real.header))
    header[5] = forged.header.ledger_root
    with pytest.raises(Refused, match="not usable"):
        bank.escrow.send("withdraw", tuple(header), *forged.proof(ALICE)[1:], sender=ANYBODY)


@pytest.mark.spec("ESCROW-WITHDRAW.2")
def test_a_frozen_chain_pays_by_what_was_usable(bank: Bank) -> None:
    bank.deposit(ALICE, 100)
    old = bank.accept({ALICE: has(40)})
    fresh = bank.accept({ALICE: has(100)}, usable=False)
    bank.freeze()
    bank.evm.advance(seconds=10 * bank.rig.settings.window_s)
    with pytest.raises(Refused, match="not usable"):
        bank.withdraw(fresh, ALICE)
    bank.withdraw(old, ALICE)
    assert bank.has(ALICE) == 40


def test_the_guardian_stops_withdrawals_for_a_while(bank: Bank) -> None:
    bank.deposit(ALICE, 100)
    books = bank.accept({ALICE: has(100)})
    bank.rig.checkpoints.send("pause", 300, sender=GUARDIAN)
    with pytest.raises(Refused, match="paused"):
        bank.withdraw(books, ALICE)
    bank.deposit(BOB, 10)
    bank.evm.advance(seconds=300)
    bank.withdraw(books, ALICE)


# Proofs


def stolen(books: Books, **changes: object) -> list[object]:
    """Alice's withdrawal with parts of it changed."""
    parts = dict(zip(("header", "account", "words", "siblings", "sections"), books.proof(ALICE), strict=True))
    return list({**parts, **changes}.values())


@pytest.mark.spec("ESCROW-WITHDRAW.1")
def test_a_proof_is_of_one_account_and_all_its_words(bank: Bank) -> None:
    bank.deposit(ALICE, 1_000)
    crowd = {bytes([number]) * 20: has(1) for number in range(1, 40)}
    books = bank.accept({ALICE: has(100, 7, 8), BOB: has(900), **crowd})
    words = words_of(has(100, 7, 8))
    siblings, sections = books.proof(ALICE)[3:]
    wrong: list[dict[str, object]] = [
        {"account": BOB},
        {"account": CAROL},
        {"words": words_of(has(900))},
        {"words": (words[0], words[1], 101, words[3])},
        {"words": (words[0], words[1], words[2], words[3] + 1)},
        {"words": words[::-1]},
        {"siblings": siblings[:-1]},
        {"siblings": siblings[::-1]},
        {"siblings": (*siblings, bytes(32))},
        {"siblings": ()},
        {"siblings": books.proof(BOB)[3]},
        {"sections": sections[:-1]},
        {"sections": sections[::-1]},
        {"sections": (*sections, bytes(32))},
        {"sections": ()},
        {"sections": (bytes(32), *sections[1:])},
    ]
    for changes in wrong:
        with pytest.raises(Refused, match="proof"):
            bank.escrow.send("withdraw", *stolen(books, **changes), sender=ANYBODY)
    bank.escrow.send("withdraw", *stolen(books), sender=ANYBODY)
    assert bank.has(ALICE) == 100


@pytest.mark.spec("ESCROW-WITHDRAW.1")
def test_a_record_of_another_section_is_no_account(bank: Bank) -> None:
    """Whoever can write 128 bytes of his own choice somewhere in the ledger has no money by that."""
    bank.deposit(BOB, 1_000)
    for section in (Section.NAMES, Section.SESSIONS, Section.NODES):
        books = bank.accept({ALICE: has(1_000)}, section=section)
        with pytest.raises(Refused, match="proof"):
            bank.withdraw(books, ALICE)
        moved = (books.accounts.root, *books.sections[1:])
        with pytest.raises(Refused, match="proof"):
            bank.escrow.send("withdraw", *stolen(books, sections=moved), sender=ANYBODY)


def test_an_inner_node_is_no_leaf(bank: Bank) -> None:
    """A proof that stops above the leaf would need words whose hash is a node's."""
    bank.deposit(ALICE, 1_000)
    books = bank.accept({ALICE: has(1), BOB: has(2)})
    siblings = books.proof(ALICE)[3]
    for cut in range(len(siblings)):
        with pytest.raises(Refused, match="proof"):
            bank.escrow.send("withdraw", *stolen(books, siblings=siblings[:cut]), sender=ANYBODY)


def test_cross_network_and_cross_contract_replay(bank: Bank) -> None:
    """A header that a committee of the same keys finalized for another network, and proofs before another escrow."""
    bank.deposit(ALICE, 100)
    other = Domain(NetworkId(b"\x0f" * 32), bank.evm.chain_id)
    books = bank.books({ALICE: has(100)})
    foreign = certificate(books.header, bank.rig.keys)
    for wrong in (Domain(DOMAIN.network_id, 1), other):
        with pytest.raises(Refused, match="signature"):
            bank.rig.submit(books.header, domain=wrong)
    assert foreign.domain == DOMAIN
    bank.rig.submit(books.header)
    bank.evm.advance(seconds=bank.rig.settings.window_s)
    elsewhere = bank.evm.deploy(
        load_artifact("Escrow"),
        other.network_id,
        bank.evm.chain_id,
        bank.rig.checkpoints.address,
        bytes(20),
        1_000,
        10,
        sender=DEPLOYER,
    )
    elsewhere.send("deposit", BOB, 100, sender=FRIEND, value=100_000)
    with pytest.raises(Refused, match="not usable"):
        elsewhere.send("withdraw", *books.proof(ALICE), sender=ANYBODY)
    with pytest.raises(Refused, match="chain"):
        Evm(chain_id=1).deploy(
            load_artifact("Escrow"), DOMAIN.network_id, bank.evm.chain_id, ALICE, bytes(20), 1, 1, sender=DEPLOYER
        )


# What a committee that lies can take


@pytest.mark.spec("ESCROW-BOUND.1")
def test_never_more_than_was_paid_in(bank: Bank) -> None:
    """Even a committee that certifies anything takes no more than there is, and breaks no sum."""
    bank.deposit(ALICE, 100)
    for total in (101, LIMIT, 2**64, 2**256 - 1):
        with pytest.raises(Refused, match="more than there is"):
            bank.withdraw(bank.accept({ALICE: has(total)}), ALICE)
    bank.withdraw(bank.accept({BOB: has(60)}), BOB)
    with pytest.raises(Refused, match="more than there is"):
        bank.withdraw(bank.accept({ALICE: has(41)}), ALICE)
    bank.withdraw(bank.accept({ALICE: has(40)}), ALICE)
    assert (bank.has(ALICE), bank.has(BOB), bank.held) == (40, 60, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checkpoints": bytes(20)}, "checkpoints"),
        ({"token": ALICE}, "token"),
        ({"unit": 0}, "unit"),
        ({"unit": 2**128 + 1}, "unit"),
        ({"chain_id": 1}, "chain"),
    ],
)
def test_settings_that_make_no_escrow(bank: Bank, changes: dict[str, object], reason: str) -> None:
    given = {
        "network_id": DOMAIN.network_id,
        "chain_id": bank.evm.chain_id,
        "checkpoints": bank.rig.checkpoints.address,
        "token": bytes(20),
        "unit": 1,
        "deposit_min": 1,
    }
    with pytest.raises(Refused, match=reason):
        bank.evm.deploy(load_artifact("Escrow"), *{**given, **changes}.values(), sender=DEPLOYER)
