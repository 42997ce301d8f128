"""Money in and out against the model of the contracts: each step can be repeated, and no oracle is believed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chain.errors import Reverted
from p2pnode import wallet as wallet_module
from p2pnode.control import ControlError
from p2pnode.identity import NodeKey
from p2pnode.wallet import Wallet
from p2pnode.wallet_proofs import PROOFS_MAX, Proved, WalletError
from protocol.core.codec import decode, pack
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import typed_digest, verify
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.messages.committee import header_digest
from protocol.messages.results import Submit
from tests.unit.chain.contracts_at_hand import DOMAIN
from tests.unit.chain.small_ledger import Book, finalized, root_of
from tests.unit.p2pnode.model_chain import COMMITTEE, DEAD_S, WINDOW_S, AtHand

ALICE = NodeKey(b"\x0a" * 32)
BOB = NodeId(b"\x0b" * 20)


class Network(Genesis):
    """A genesis whose domain is that of the contracts at hand."""

    def domain(self) -> Any:
        return DOMAIN


class Rig:
    """A ledger, its oracle, its contracts, and Alice's wallet."""

    def __init__(self, folder: Path) -> None:
        self.at_hand = AtHand()
        self.book = Book()
        self.taken_in = 0
        self.silent = False
        self.lies: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.handed_in: list[Submit] = []
        self.folder = folder
        self.chain = self.at_hand.client(ALICE.node_id)
        self.told: list[str] = []

    def wallet(self, *, asks: bool = True, timeout_s: float = 0.0) -> Wallet:
        """Alice's, as each command opens it."""
        ask = self.ask if asks else None
        return Wallet(Network("at hand"), self.chain, ask, self.folder, self.tell, timeout_s)

    def tell(self, what: str) -> None:
        """Somebody waits: a block is mined."""
        self.told.append(what)
        self.at_hand.mine()

    # The oracle

    def ask(self, question: str) -> dict[str, Any]:
        """Its control socket."""
        if self.silent:
            raise ControlError("no node is running")
        what, _, rest = question.partition(":")
        if what == "hand-in":
            return self._take(bytes.fromhex(rest))
        if what == "ledger":
            account = self.book.account(bytes.fromhex(rest.partition("0x")[2]))
            names = ("balance_wei", "reserved_wei", "withdrawable_wei")
            return {"record": {name: getattr(account, name) for name in names}}
        if not rest:
            return {"checkpoints": [{"digest": digest.hex()} for digest in self.at_hand.proofs]}
        digits, _, named = rest.partition(":")
        certified, book = self.at_hand.proofs[Digest(bytes.fromhex(digits))]
        proof = book.prove(Section.ACCOUNTS, bytes.fromhex(named.partition("0x")[2]))
        return self.lies({"certified": pack(certified).hex(), "proof": pack(proof).hex()})

    def _take(self, data: bytes) -> dict[str, Any]:
        submit = decode(data)
        assert isinstance(submit, Submit)
        self.handed_in.append(submit)
        for signed in submit.withdrawals:
            verify(typed_digest(DOMAIN, signed.withdraw), signed.signature, signed.withdraw.account, "the withdrawal")
            more = signed.withdraw.total - self.book.account(signed.withdraw.account).withdrawable_wei
            self.book = self.book.credited(signed.withdraw.account, balance=-more, withdrawable=more)
        return {"handed_in": True}

    # The network

    def takes_in(self) -> None:
        """The ledger learns of the deposits."""
        for account, amount in self.at_hand.chain.holdings().contracts.escrow.deposits[self.taken_in :]:
            self.book = self.book.credited(account, balance=amount)
            self.taken_in += 1
        self.book = self.book.counting(self.taken_in)

    def checkpoint(self) -> None:
        """What the ledger holds becomes a checkpoint."""
        self.at_hand.checkpoint(self.book)

    def has(self, units: int) -> None:
        """Alice has so much on the ledger."""
        self.wallet().deposit(ALICE.node_id, units)
        self.takes_in()

    def escrow(self) -> int:
        """What lies in the contract."""
        return self.at_hand.chain.holdings().coins.get(self.at_hand.terms.addresses.escrow, 0)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(wallet_module.time, "sleep", lambda _: None)
    return Rig(tmp_path)


def test_a_deposit_comes_to_the_ledger(rig: Rig) -> None:
    wallet = rig.wallet()
    before = wallet.record(BOB)
    assert wallet.deposit(BOB, 70).startswith("0x")
    with pytest.raises(WalletError, match="the ledger to take it in"):
        wallet.await_balance(BOB, 70, before)
    rig.takes_in()
    wallet.await_balance(BOB, 70, before)
    assert [(each.number, each.amount) for each in wallet.deposits(BOB)] == [(1, 70)]
    assert wallet.deposits(ALICE.node_id) == []


@pytest.mark.spec("WALLET-OUT.1")
def test_a_withdrawal_is_signed_proved_and_paid(rig: Rig) -> None:
    rig.has(100)
    wallet = rig.wallet()
    total = wallet.sign_away(ALICE, 30)
    assert total == 30
    with pytest.raises(WalletError, match="a checkpoint to hold it"):
        wallet.await_proof(ALICE.node_id, total)
    rig.checkpoint()
    proved = wallet.await_proof(ALICE.node_id, total)
    with pytest.raises(WalletError, match="the challenge window"):
        wallet.await_usable(proved)
    rig.at_hand.passes(WINDOW_S)
    wallet.await_usable(proved)
    assert wallet.pay_out(proved) is not None
    assert (rig.chain.paid(ALICE.node_id), rig.escrow()) == (30, 70)
    assert wallet.pay_out(proved) is None
    assert rig.escrow() == 70


@pytest.mark.spec("WALLET-PROOFS.1")
def test_a_header_that_was_only_meant_to_be_a_checkpoint_proves_nothing(rig: Rig) -> None:
    rig.has(100)
    rig.wallet().sign_away(ALICE, 30)
    rig.checkpoint()
    meant, members = finalized(DOMAIN, rig.book.header(1, 9, root_of(COMMITTEE)), COMMITTEE)
    assert len(members) == 4
    assert meant.header is not None
    rig.at_hand.proofs[header_digest(DOMAIN, meant.header)] = (meant, rig.book)
    assert [each.header.height for each in (rig.wallet().await_proof(ALICE.node_id, 30),)] == [1]
    rig.checkpoint()
    assert [each.header.height for each in (rig.wallet().await_proof(ALICE.node_id, 30),)] == [1]
    assert [each.header.height for each in rig.wallet().proofs.of(ALICE.node_id)] == [2, 1]


@pytest.mark.spec("WALLET-OUT.1")
def test_a_second_withdrawal_adds_to_the_first(rig: Rig) -> None:
    rig.has(100)
    for units, paid in ((30, 30), (None, 100)):
        total = rig.wallet().sign_away(ALICE, units)
        rig.checkpoint()
        rig.at_hand.passes(WINDOW_S)
        rig.wallet().pay_out(rig.wallet().await_proof(ALICE.node_id, total))
        assert rig.chain.paid(ALICE.node_id) == total == paid
    assert rig.escrow() == 0


@pytest.mark.parametrize("units", [0, 101, None])
def test_nobody_parts_with_what_is_not_there(rig: Rig, units: int | None) -> None:
    if units is not None:
        rig.has(100)
    with pytest.raises(WalletError, match="cannot part with") as caught:
        rig.wallet().sign_away(ALICE, units)
    assert caught.value.hint is not None
    assert rig.handed_in == []


def test_a_withdrawal_needs_somebody_to_hand_it_in(rig: Rig) -> None:
    with pytest.raises(WalletError, match="handed in"):
        rig.wallet(asks=False).sign_away(ALICE, 1)
    with pytest.raises(WalletError, match="earnings"):
        rig.wallet(asks=False).earnings(BOB)


@pytest.mark.spec("WALLET-PROOFS.1")
def test_a_proof_that_is_kept_pays_without_any_oracle(rig: Rig) -> None:
    rig.has(100)
    rig.wallet().sign_away(ALICE, 30)
    rig.checkpoint()
    rig.wallet().refresh(ALICE.node_id)
    rig.silent = True
    rig.at_hand.passes(WINDOW_S)
    wallet = rig.wallet(asks=False)
    wallet.pay_out(wallet.await_proof(ALICE.node_id, 30))
    assert rig.chain.paid(ALICE.node_id) == 30


@pytest.mark.spec("WALLET-PROOFS.1")
def test_the_newest_proofs_are_kept_and_damaged_ones_passed_over(rig: Rig) -> None:
    rig.has(100)
    for _ in range(PROOFS_MAX + 2):
        rig.checkpoint()
        rig.wallet().refresh(ALICE.node_id)
    kept = rig.wallet().proofs.of(ALICE.node_id)
    assert [each.header.height for each in kept] == list(range(PROOFS_MAX + 2, 2, -1))
    (folder,) = rig.folder.iterdir()
    newest = sorted(folder.glob("*.proof"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert len(rig.wallet().proofs.of(ALICE.node_id)) == PROOFS_MAX - 1


def _other_account(answer: dict[str, Any], rig: Rig) -> dict[str, Any]:
    return {**answer, "proof": pack(rig.book.prove(Section.ACCOUNTS, BOB)).hex()}


def _more_money(answer: dict[str, Any], rig: Rig) -> dict[str, Any]:
    proof = rig.book.prove(Section.ACCOUNTS, ALICE.node_id)
    richer = msgspec.structs.replace(proof, value=Account(withdrawable_wei=10**6).packed())
    return {**answer, "proof": pack(richer).hex()}


def _other_header(answer: dict[str, Any], rig: Rig) -> dict[str, Any]:
    certified = replace_header(next(iter(rig.at_hand.proofs.values()))[0])
    return {**answer, "certified": pack(certified).hex()}


def replace_header(certified: Any) -> Any:
    """Another header under the same certificate."""
    return msgspec.structs.replace(certified, header=msgspec.structs.replace(certified.header, deposits=99))


def _nonsense(answer: dict[str, Any], _: Rig) -> dict[str, Any]:
    return {**answer, "proof": "zz"}


@pytest.mark.spec("WALLET-PROOFS.1")
@pytest.mark.parametrize("lie", [_other_account, _more_money, _other_header, _nonsense])
def test_an_oracle_that_lies_is_found_out(rig: Rig, lie: Callable[[dict[str, Any], Rig], dict[str, Any]]) -> None:
    rig.has(100)
    rig.checkpoint()
    rig.lies = lambda answer: lie(answer, rig)
    with pytest.raises(WalletError) as caught:
        rig.wallet().refresh(ALICE.node_id)
    assert caught.value.hint
    assert rig.wallet().proofs.of(ALICE.node_id) == []


# The end


def test_while_the_committee_lives_nobody_exits(rig: Rig) -> None:
    for act in (rig.wallet().exit, rig.wallet().refund):
        with pytest.raises(WalletError, match="the committee lives"):
            act(ALICE.node_id)


@pytest.mark.spec("WALLET-EXIT.1")
@pytest.mark.parametrize("oracle", [True, False], ids=["an oracle is left", "only the file is left"])
def test_after_the_committee_died_everything_comes_back(rig: Rig, oracle: bool) -> None:
    rig.has(100)
    rig.book = rig.book.credited(ALICE.node_id, balance=-20, reserved=20)
    rig.wallet().sign_away(ALICE, 30)
    rig.checkpoint()
    rig.at_hand.passes(WINDOW_S)
    rig.wallet().pay_out(rig.wallet().await_proof(ALICE.node_id, 30))
    rig.wallet().deposit(ALICE.node_id, 7)
    rig.wallet().refresh(ALICE.node_id)
    rig.silent = not oracle
    rig.at_hand.passes(DEAD_S + WINDOW_S)
    wallet = rig.wallet()
    assert wallet.exit(ALICE.node_id).startswith("0x")
    assert rig.chain.paid(ALICE.node_id) == 100
    assert [number for number, _ in wallet.refund(ALICE.node_id)] == [2]
    assert wallet.refund(ALICE.node_id) == []
    assert rig.escrow() == 0
    with pytest.raises(Reverted):
        wallet.exit(ALICE.node_id)


@pytest.mark.spec("WALLET-EXIT.1")
def test_where_no_checkpoint_ever_was_deposits_come_back(rig: Rig) -> None:
    rig.wallet().deposit(ALICE.node_id, 9)
    rig.at_hand.passes(DEAD_S + 1)
    with pytest.raises(WalletError, match="no checkpoint ever became usable"):
        rig.wallet().exit(ALICE.node_id)
    assert len(rig.wallet().refund(ALICE.node_id)) == 1
    assert rig.escrow() == 0


@pytest.mark.spec("WALLET-EXIT.1")
def test_without_the_proof_of_the_last_checkpoint_it_is_said_where_it_may_be(rig: Rig) -> None:
    rig.has(100)
    rig.checkpoint()
    rig.silent = True
    rig.at_hand.passes(DEAD_S + WINDOW_S)
    for act in (rig.wallet().exit, rig.wallet().refund):
        with pytest.raises(WalletError, match="is not here") as caught:
            act(ALICE.node_id)
        assert "--state-dir" in str(caught.value.hint)


def test_a_proof_is_of_the_checkpoint_that_it_names(rig: Rig) -> None:
    rig.has(100)
    rig.checkpoint()
    rig.wallet().refresh(ALICE.node_id)
    (kept,) = rig.wallet().proofs.of(ALICE.node_id)
    assert isinstance(kept, Proved)
    assert header_digest(DOMAIN, kept.header) in rig.at_hand.proofs
    assert kept.account == Account(balance_wei=100)
    assert replace(kept, certified=replace_header(kept.certified)).header.deposits == 99
