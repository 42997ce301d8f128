"""What the contracts are told: the writing half of :class:`chain.api.Chain` on a real chain.

Each call is named by what it does (its purpose), so the same thing is not under way twice. Of checkpoints only the
newest is: a later one takes the place of one that is in no block yet.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec.structs import astuple

from chain.accusing import accusation, compact
from chain.api import Answer, AnswerProof, DrawDue, InboxService, Question, Role, TxId, TxStatus
from chain.binding import CONTRACT_OF, binding, token_binding
from chain.errors import NoKey
from chain.reading import ContractReading
from chain.replies import octets
from chain.transactions import Order, Sender
from protocol.core.errors import LocalProtocolError
from protocol.core.ids import NOBODY, ZERO_DIGEST, Digest, NodeId, Signature
from protocol.core.signing import keccak
from protocol.ledger.accounts import Account
from protocol.messages.committee import Certified, Header
from protocol.messages.results import LedgerProof
from protocol.results.evidence import Evidence

CHECKPOINT_WITHIN_S = 900
APPROVAL_S = 120.0

_ZERO = ZERO_DIGEST
_NO_HEADER = Header(0, 0, _ZERO, _ZERO, 0, _ZERO, _ZERO, 0, _ZERO, 0, _ZERO, _ZERO)


class ContractWriting(ContractReading):
    """See the module. Without a sender every call raises NoKey."""

    _sender: Sender | None = None

    # Checkpoints and committees

    def submit_checkpoint(self, certified: Certified, members: Sequence[NodeId]) -> TxId:
        """See Writing."""
        slot = f"checkpoint {certified.certificate.epoch}/{certified.certificate.height}"
        data = binding("Checkpoints").functions["submit"].encode(*_certified(certified, members))
        # Named by its header: other signatures do not make it another checkpoint.
        purpose = keccak(b"checkpoint" + certified.certificate.header)
        target = self._contracts.checkpoints
        return self._able().send(Order(purpose, slot, target, data, 0, "checkpoint", CHECKPOINT_WITHIN_S))

    def challenge(
        self, first: Certified, second: Certified, members: Sequence[NodeId], later: Sequence[NodeId] | None = None
    ) -> TxId:
        """See Writing."""
        halves = _certified(first, members), _certified(second, members if later is None else later)
        return self._send("checkpoints", "challenge", *halves, what="a challenge")

    def draw(self, due: DrawDue) -> TxId:
        """See Writing."""
        what = f"the draw of epoch {due.epoch}"
        return self._send("registry", "draw", due.epoch, due.candidates, what=what)

    def slash(self, evidence: Evidence, reporter: NodeId) -> TxId:
        """See Writing."""
        function, values = accusation(evidence)
        return self._send("evidence", function, *values, reporter, what=f"evidence by {function}")

    # Nodes

    def register(self, node: NodeId, roles: Role, stake: int, consent: Signature) -> TxId:
        """See Writing."""
        what = f"the registration of 0x{node.hex()}"
        return self._pay("registry", "register", node, int(roles), stake, compact(consent), units=stake, what=what)

    def add_stake(self, node: NodeId, stake: int) -> TxId:
        """See Writing."""
        what = f"stake for 0x{node.hex()}"
        return self._pay("registry", "add_stake", node, stake, units=stake, what=what, once=False)

    def begin_unbonding(self, node: NodeId) -> TxId:
        """See Writing."""
        return self._send("registry", "begin_unbonding", node, what=f"unbonding 0x{node.hex()}")

    def finish_unbonding(self, node: NodeId) -> TxId:
        """See Writing."""
        return self._send("registry", "finish_unbonding", node, what=f"the stake of 0x{node.hex()}")

    def rotate(self, old: NodeId, new: NodeId, consent: Signature) -> TxId:
        """See Writing."""
        return self._send("registry", "rotate", old, new, compact(consent), what=f"another key for 0x{old.hex()}")

    # Money

    def deposit(self, account: NodeId, amount: int) -> TxId:
        """See Writing."""
        what = f"a deposit of {amount} for 0x{account.hex()}"
        return self._pay("escrow", "deposit", account, amount, units=amount, what=what, once=False)

    def withdraw(self, header: Header, proof: LedgerProof) -> TxId:
        """See Writing."""
        account, *held = _held(proof)
        what = f"the withdrawal of 0x{account.hex()}"
        return self._send("escrow", "withdraw", astuple(header), account, *held, what=what)

    def exit(self, header: Header, next_digest: Digest, proof: LedgerProof) -> TxId:
        """See Writing."""
        account, *held = _held(proof)
        what = f"the exit of 0x{account.hex()}"
        return self._send("escrow", "exit", astuple(header), next_digest, account, *held, what=what)

    def refund(self, number: int, header: Header | None, next_digest: Digest) -> TxId:
        """See Writing."""
        what = f"the refund of deposit {number}"
        return self._send("escrow", "refund", number, astuple(header or _NO_HEADER), next_digest, what=what)

    # Inbox and names

    def serve(self, service: InboxService) -> TxId:
        """See Writing."""
        return self._send("inbox", "serve", service.key, service.fee_min, what="the terms of the inbox")

    def ask(self, question: Question) -> TxId:
        """See Writing."""
        asked = question.router, question.prompt, question.model, question.reply_key, question.deadline_s
        return self._send("inbox", "ask", *asked, question.sealed, what="a question", value=question.fee, once=False)

    def answer(self, answer: Answer) -> TxId:
        """See Writing."""
        said = answer.number, answer.session, answer.task, answer.lane, answer.sealed
        return self._send("inbox", "answer", *said, what=f"the answer to question {answer.number}")

    def prove_answer(self, shown: AnswerProof) -> TxId:
        """See Writing."""
        parts = (shown.header, shown.outcome, shown.proof, shown.order, shown.result)
        values = [shown.number, *map(astuple, parts)]
        return self._send("inbox", "prove", *values, what=f"the proof of answer {shown.number}")

    def reclaim(self, number: int) -> TxId:
        """See Writing."""
        return self._send("inbox", "reclaim", number, what=f"the fee of question {number}")

    def prove_name(self, header: Header, proof: LedgerProof) -> TxId:
        """See Writing."""
        name, record = proof.key.decode(), _value(proof)
        values = name, record, astuple(header), proof.siblings, proof.sections
        return self._send("models", "prove", *values, what=f"the head of {name}")

    # What becomes of it

    def sender(self) -> NodeId | None:
        """See Sending."""
        return None if self._sender is None else self._sender.address

    def status(self, tx: TxId) -> TxStatus:
        """See Sending."""
        return self._able().status(tx)

    def wait(self, tx: TxId, timeout_s: float, *, final: bool = False) -> TxStatus:
        """See Sending."""
        return self._able().wait(tx, timeout_s, final=final)

    def maintain(self) -> int:
        """See Sending."""
        return 0 if self._sender is None else self._sender.maintain()

    def close(self) -> None:
        """Let another process send with this key, and keep no connection open."""
        self._rpc.close()
        if self._sender is not None:
            self._sender.close()

    def _able(self) -> Sender:
        if self._sender is None:
            raise NoKey("this client has no key to sign transactions with")
        return self._sender

    @cached_property
    def _money(self) -> tuple[NodeId, int]:
        """The token that money is in (zero: the coin), and how much of it one unit of the ledger is."""
        return self._ask("escrow", "token"), int(self._ask("escrow", "unit"))

    def _pay(self, contract: str, function: str, *values: Any, units: int, what: str, once: bool = True) -> TxId:
        """A call that brings money: with coin on it, or with the token's leave to take it."""
        token, unit = self._money
        if token == NOBODY:
            return self._send(contract, function, *values, what=what, value=units * unit, once=once)
        self._approve(token, getattr(self._contracts, contract), units * unit)
        return self._send(contract, function, *values, what=what, once=once)

    def _approve(self, token: NodeId, spender: NodeId, amount: int) -> None:
        sender, functions = self._able(), token_binding().functions
        allowance = functions["allowance"]
        call = {"to": f"0x{token.hex()}", "data": f"0x{allowance.encode(sender.address, spender).hex()}"}
        if allowance.decode(octets(self._rpc.call("eth_call", [call, "latest"], str))) >= amount:
            return
        given = functions["approve"].encode(spender, amount)
        order = Order(keccak(token + given), "leave to take the token", token, given)
        sender.wait(sender.send(order), APPROVAL_S)

    def _send(self, contract: str, function: str, *values: Any, what: str, value: int = 0, once: bool = True) -> TxId:
        address: NodeId = getattr(self._contracts, contract)
        data = binding(CONTRACT_OF[contract]).functions[function].encode(*values)
        purpose = keccak(address + value.to_bytes(32, "big") + data) if once else os.urandom(32)
        return self._able().send(Order(purpose, what, address, data, value))


def _certified(certified: Certified, members: Sequence[NodeId]) -> tuple[Any, ...]:
    """Header, members, signers and signatures as the contract takes them."""
    if certified.header is None:
        raise LocalProtocolError("a certificate without its header cannot be shown to the contract")
    signed = certified.certificate.signatures
    signers = sum(1 << one.index for one in signed)
    return astuple(certified.header), tuple(members), signers, [compact(one.signature) for one in signed]


def _held(proof: LedgerProof) -> tuple[Any, ...]:
    """Account, words and way of a proof of an account."""
    account = Account.read(_value(proof))
    words = astuple(account)
    return NodeId(proof.key), words, proof.siblings, proof.sections


def _value(proof: LedgerProof) -> bytes:
    if proof.value is None:
        raise LocalProtocolError("a proof that there is nothing gets nothing from the contract")
    return proof.value
