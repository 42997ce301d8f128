"""An account's money on its way between the chain and the ledger: paid in, earned, signed away, proved, paid out.

A withdrawal goes through four hands: its account signs it, a block of the ledger takes it, a checkpoint that is older
than the challenge window holds that block's ledger, and the escrow pays whoever's account that proves. Nothing of it
needs an oracle's word: what an oracle says is a proof, or is not believed. Every step can be repeated.
Spec: [WALLET-OUT.1]

The proofs that a checkpoint gave are kept in a file. Should the committee die, they are what the exit takes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.api import Chain, TxId, TxState
from chain.errors import Reverted
from p2pnode.control import ControlError
from p2pnode.identity import NodeKey
from p2pnode.wallet_proofs import PROOF_BYTES_MAX, ProofFiles, Proved, WalletError
from protocol.core.codec import encode, unpack
from protocol.core.errors import DecodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import typed_digest
from protocol.ledger.proofs import verify_ledger_proof
from protocol.ledger.records import Section
from protocol.messages.chain import Accepted, Deposited
from protocol.messages.committee import Certified, Header, header_digest
from protocol.messages.results import LedgerProof, SignedWithdraw, Submit, Withdraw

POLL_S = 0.5
TX_S = 120.0
"""So long a transaction may take to get into a block."""
EVENTS_AT_ONCE = 1_000
ROWS_LOOKED_AT = 8
"""Of the headers that an oracle keeps as checkpoints, the last; nearly all of them are."""


Ask = Callable[[str], dict[str, Any]]
"""An oracle's control socket. Raises ControlError."""

Tell = Callable[[str], None]
"""Told what is waited for, and each time that is looked at again."""


@dataclass(frozen=True, slots=True)
class Last:
    """Where an exit stands: the last usable checkpoint, if there ever was one, and the one after it."""

    digest: Digest | None
    next_digest: Digest


class Wallet:
    """See the module. ``ask`` is an oracle, None where there is none; ``folder`` is where proofs are kept."""

    def __init__(
        self, genesis: Genesis, chain: Chain, ask: Ask | None, folder: Path, tell: Tell, timeout_s: float
    ) -> None:
        self.genesis = genesis
        self.chain = chain
        self._ask = ask
        self.proofs = ProofFiles(folder, genesis.network_id())
        self._tell = tell
        self._timeout_s = timeout_s

    # What there is

    def record(self, account: NodeId) -> dict[str, Any] | None:
        """The account in the ledger's last final block, as an oracle says; None where none is asked. Raises
        ControlError."""
        if self._ask is None:
            return None
        record = self._ask(f"ledger:account:0x{account.hex()}")["record"]
        return record or {"balance_wei": 0, "reserved_wei": 0, "withdrawable_wei": 0}

    def earnings(self, account: NodeId) -> list[dict[str, Any]]:
        """What an account was paid, by epoch, as an oracle has it in its books. Raises WalletError, ControlError."""
        if self._ask is None:
            raise WalletError("earnings are an oracle's to tell", hint="--state-dir FOLDER of an oracle that runs here")
        rows: list[dict[str, Any]] = self._ask(f"ledger:earnings:0x{account.hex()}")["earnings"]
        return rows

    def deposits(self, account: NodeId) -> list[Deposited]:
        """What was paid in for an account, as final blocks of the chain say."""
        return [each for each in self._events() if isinstance(each, Deposited) and each.account == account]

    def _events(self) -> list[object]:
        found: list[object] = []
        cursor, more = self.chain.start(), True
        while more:
            page = self.chain.events(cursor, EVENTS_AT_ONCE)
            found += [event for _, event in page.events]
            cursor, more = page.cursor, page.more
            self._tell("reading the chain")
        return found

    # In

    def deposit(self, account: NodeId, units: int) -> str:
        """Pay in for an account; the transaction's hash, once it is in a block. Raises ChainError, WalletError."""
        return self._mined(self.chain.deposit(account, units), "the deposit")

    def await_balance(self, account: NodeId, units: int, before: dict[str, Any] | None) -> None:
        """Wait until the ledger has taken in a deposit. Raises WalletError."""
        had = 0 if before is None else _total(before)
        self._await(
            lambda: _total(self.record(account) or {}) >= had + units,
            "the ledger to take it in",
            "it will be taken in once f+1 oracles have seen it in a final block: `p2pnode wallet balance` shows it",
        )

    # Out

    def sign_away(self, key: NodeKey, units: int | None) -> int:
        """Sign that so much of the balance (None: all of it) may leave, hand it in, and wait until a block holds it.

        Returns what may leave in all. Raises WalletError, ControlError.
        """
        record = self.record(key.node_id)
        if self._ask is None or record is None:
            raise WalletError(
                "a withdrawal is handed in by a node of the network", hint="--state-dir FOLDER of an oracle"
            )
        units = record["balance_wei"] if units is None else units
        if not 0 < units <= record["balance_wei"]:
            hint = f"{record['balance_wei']} are free, {record['reserved_wei']} more are reserved for open sessions"
            raise WalletError(f"the account cannot part with {units}", hint=hint)
        total = int(record["withdrawable_wei"]) + units
        withdraw = Withdraw(key.node_id, total)
        signed = SignedWithdraw(withdraw, key.sign(typed_digest(self.genesis.domain(), withdraw)))
        self._ask("hand-in:" + encode(Submit(withdrawals=(signed,))).hex())
        self._await(
            lambda: (self.record(key.node_id) or {}).get("withdrawable_wei", 0) >= total,
            "a block to hold the withdrawal",
            "hand it in once more: the same command is safe to repeat",
        )
        return total

    def await_proof(self, account: NodeId, total: int) -> Proved:
        """Wait for a checkpoint by which so much may leave in all. Raises WalletError."""
        found: list[Proved] = []

        def proved() -> bool:
            self.refresh(account)
            found[:] = [each for each in self.proofs.of(account) if each.account.withdrawable_wei >= total]
            return bool(found)

        self._await(proved, "a checkpoint to hold it", _LATER)
        # The oldest that will do: its window passes first.
        return found[-1]

    def await_usable(self, proved: Proved) -> None:
        """Wait until a checkpoint is older than the challenge window. Raises WalletError."""
        digest = header_digest(self.genesis.domain(), proved.header)
        self._await(lambda: self.chain.usable(digest), "the challenge window to pass", _LATER)

    def pay_out(self, proved: Proved) -> str | None:
        """Have the escrow pay what a checkpoint says may leave; the transaction's hash, None if all of it was paid."""
        account = NodeId(proved.proof.key)
        if proved.account.withdrawable_wei <= self.chain.paid(account):
            return None
        return self._mined(self.chain.withdraw(proved.header, proved.proof), "the withdrawal")

    # The end

    def exit(self, account: NodeId) -> str:
        """Once the committee is dead: have an account paid all that it had. Raises WalletError, ChainError.

        Spec: [WALLET-EXIT.1]
        """
        last = self._last()
        if last.digest is None:
            raise WalletError(
                "no checkpoint ever became usable", hint="deposits are given back: `p2pnode wallet refund`"
            )
        proved = self._by(account, last.digest)
        if proved is None:
            raise WalletError(
                f"the proof of {last.digest.hex()[:16]}…, the last usable checkpoint, is not here",
                hint="ask an oracle that kept it: --state-dir FOLDER; it may run without the rest of the committee",
            )
        return self._mined(self.chain.exit(proved.header, last.next_digest, proved.proof), "the exit")

    def refund(self, account: NodeId) -> list[tuple[int, str]]:
        """Once the committee is dead: take back the deposits for an account that the ledger never took in.

        Returns their numbers and transactions. Raises WalletError, ChainError.
        """
        last = self._last()
        header = None if last.digest is None else self._header(account, last.digest)
        taken_in = 0 if header is None else header.deposits
        mine = [each for each in self.deposits(account) if each.number > taken_in]
        open_ = [each.number for each in mine if self.chain.deposited(each.number) is not None]
        return [
            (number, self._mined(self.chain.refund(number, header, last.next_digest), "the refund")) for number in open_
        ]

    def _last(self) -> Last:
        """Raises WalletError while the committee lives."""
        if not self.chain.dead():
            raise WalletError(
                "the committee lives: checkpoints come in",
                hint="take the money out as always: `p2pnode wallet withdraw`",
            )
        accepted = [Digest(each.digest) for each in self._events() if isinstance(each, Accepted)]
        for place in range(len(accepted) - 1, -1, -1):
            if self.chain.usable(accepted[place]):
                return Last(accepted[place], accepted[place + 1] if place + 1 < len(accepted) else ZERO_DIGEST)
        return Last(None, accepted[0] if accepted else ZERO_DIGEST)

    def _header(self, account: NodeId, digest: Digest) -> Header:
        proved = self._by(account, digest)
        if proved is None:
            hint = "ask an oracle that kept it: --state-dir FOLDER"
            raise WalletError(f"the header {digest.hex()[:16]}… of the last usable checkpoint is not here", hint=hint)
        return proved.header

    # Proofs

    def _by(self, account: NodeId, digest: Digest) -> Proved | None:
        """By one checkpoint, from the file, or from the oracle."""
        for kept in self.proofs.of(account):
            if kept.certified.certificate.header == digest:
                return kept
        try:
            return self._asked(account, digest.hex())
        except ControlError:
            return None

    def refresh(self, account: NodeId) -> None:
        """Keep what the newest checkpoint proves of an account. An oracle that has none, or cannot be asked, says
        nothing new. Raises WalletError, ChainError."""
        if self._ask is None:
            return
        try:
            rows: Sequence[dict[str, Any]] = self._ask("checkpoint")["checkpoints"]
            held = {each.certified.certificate.header.hex() for each in self.proofs.of(account)}
            for row in reversed(rows[-ROWS_LOOKED_AT:]):
                # What an oracle only meant to submit is none.
                if row["digest"] in held or self.chain.accepted(Digest(bytes.fromhex(row["digest"]))) is not None:
                    if row["digest"] not in held:
                        self._asked(account, row["digest"])
                    return
        except ControlError:
            return

    def _asked(self, account: NodeId, digest: str) -> Proved | None:
        """What an oracle shows, checked and kept. Raises ControlError, WalletError."""
        if self._ask is None:
            return None
        answer = self._ask(f"checkpoint:{digest}:account:0x{account.hex()}")
        try:
            certified = unpack(Certified, bytes.fromhex(answer["certified"]), limit_bytes=Certified.LIMIT_BYTES)
            proof = unpack(LedgerProof, bytes.fromhex(answer["proof"]), limit_bytes=PROOF_BYTES_MAX)
        except (DecodeError, ValueError) as error:
            raise WalletError(f"the oracle shows no proof: {error}", hint="ask another one") from error
        header = certified.header
        holds = header is not None and header_digest(self.genesis.domain(), header).hex() == digest
        if header is None or not holds or not verify_ledger_proof(header, proof) or proof.key != account:
            raise WalletError("the oracle's proof does not hold", hint="trust nothing that this oracle says")
        if proof.section != Section.ACCOUNTS:
            raise WalletError("the oracle's proof is of something else", hint="trust nothing that this oracle says")
        proved = Proved(certified, proof)
        self.proofs.keep(proved)
        return proved

    # Waiting

    def _mined(self, tx: TxId, what: str) -> str:
        self._tell(f"waiting for {what} to get into a block")
        status = self.chain.wait(tx, TX_S)
        if status.state is TxState.FAILED:
            raise Reverted(what, status.reason)
        return "0x" + status.hash.hex()

    def _await(self, done: Callable[[], bool], what: str, hint: str) -> None:
        until = time.monotonic() + self._timeout_s
        while not done():
            self._tell(f"waiting for {what}")
            if time.monotonic() > until:
                raise WalletError(f"waited {self._timeout_s:g} s for {what}", hint=hint)
            time.sleep(POLL_S)


_LATER = "nothing is lost: `p2pnode wallet withdraw` without an amount goes on with it"


def _total(record: dict[str, Any]) -> int:
    return sum(int(record.get(name, 0)) for name in ("balance_wei", "reserved_wei", "withdrawable_wei"))
