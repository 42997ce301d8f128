"""An EVM chain inside a Python process: py-evm with a pool of waiting transactions, kept in a SQLite file.

For machines without anvil, and for tests: it makes blocks when it is told to, and each is final at once. One file
holds all of it, so a chain that is closed and opened again goes on. It stands in for a node, so it speaks in the
values of py-evm; ``chain.embedded_rpc`` makes JSON-RPC of it.

Rule: used under one lock, which is its caller's to hold.
"""

import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth.abc import BlockAPI, BlockHeaderAPI, ComputationAPI, LogAPI, ReceiptAPI, SignedTransactionAPI
from eth.chains.base import MiningChain
from eth.constants import GENESIS_PARENT_HASH, POST_MERGE_DIFFICULTY, POST_MERGE_MIX_HASH, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.db.backends.base import BaseDB
from eth.exceptions import HeaderNotFound, TransactionNotFound
from eth.vm.forks import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_utils import ValidationError

GAS_LIMIT = 30_000_000
POOL_MAX = 1_024
POOL_AHEAD_MAX = 64
"""A sender's nonces that may wait at once."""
BUMP_PERCENT = 10
"""Another transaction of the same nonce must pay this much more."""


class ChainRefusal(Exception):
    """The chain takes no such transaction or call; ``data`` is what a revert carries, None if nothing reverted."""

    def __init__(self, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.data = data


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that is tried out and leaves nothing behind."""

    sender: bytes
    to: bytes
    data: bytes
    value: int = 0


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction in its block."""

    block: BlockAPI
    index: int
    transaction: SignedTransactionAPI
    receipt: ReceiptAPI
    gas_used: int
    first_log: int
    """How many logs the block's earlier transactions made."""


class _Table(BaseDB):  # type: ignore[misc]
    """py-evm's keys and values in SQLite; what was written since the last commit goes with a crash."""

    def __init__(self, path: Path | None) -> None:
        self._sql = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = OFF")  # a local chain is no place for money
        self._sql.execute("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def commit(self) -> None:
        self._sql.commit()

    def close(self) -> None:
        self._sql.commit()
        self._sql.close()

    def __getitem__(self, key: bytes) -> bytes:
        row = self._sql.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        value: bytes = row[0]
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._sql.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, value))

    def _exists(self, key: bytes) -> bool:
        return self._sql.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone() is not None

    def __delitem__(self, key: bytes) -> None:
        if not self._exists(key):
            raise KeyError(key)
        self._sql.execute("DELETE FROM entries WHERE key = ?", (key,))


def _chain_class(number: int) -> type[MiningChain]:
    class LocalChain(MiningChain):  # type: ignore[misc]
        """One VM from the start, and a gas limit that stays."""

        chain_id = number
        vm_configuration = ((0, PragueVM),)

        def create_header_from_parent(self, parent_header: BlockHeaderAPI, **header_params: Any) -> BlockHeaderAPI:
            return super().create_header_from_parent(parent_header, **{**header_params, "gas_limit": GAS_LIMIT})

    return LocalChain


class EmbeddedChain:
    """See the module. ``funded`` are the balances it begins with."""

    def __init__(self, chain_id: int, funded: Mapping[bytes, int], path: Path | None = None) -> None:
        self.chain_id = chain_id
        self._table = _Table(path)
        self._database = AtomicDB(self._table)
        self._class = _chain_class(chain_id)
        self._pool: dict[tuple[bytes, int], SignedTransactionAPI] = {}
        self._ahead_s = 0
        self._chain = self._open(funded)

    def _open(self, funded: Mapping[bytes, int]) -> MiningChain:
        with suppress(Exception):  # py-evm has no one error for a database without a head
            chain = self._class(self._database)
            self._ahead_s = max(0, chain.get_canonical_head().timestamp - int(time.time()))
            return chain
        genesis: dict[str, Any] = {
            "coinbase": bytes(20),
            "difficulty": POST_MERGE_DIFFICULTY,
            "nonce": POST_MERGE_NONCE,
            "mix_hash": POST_MERGE_MIX_HASH,
            "extra_data": b"",
            "gas_limit": GAS_LIMIT,
            "timestamp": int(time.time()),
        }
        accounts = {
            address: {"balance": balance, "nonce": 0, "code": b"", "storage": {}} for address, balance in funded.items()
        }
        chain = self._class.from_genesis(self._database, genesis, accounts)
        self._table.commit()
        return chain

    def close(self) -> None:
        """Keep what there is. Waiting transactions are forgotten, as a node's pool is."""
        self._table.close()

    # Making blocks

    def mine(self) -> BlockAPI:
        """The next block, with every waiting transaction whose turn it is, as far as its gas goes."""
        now = max(int(time.time()) + self._ahead_s, self.head.timestamp + 1)
        self._chain.set_header_timestamp(now)
        full = False
        while not full and (ready := self._ready()):
            for transaction in ready:
                del self._pool[transaction.sender, transaction.nonce]
                if transaction.gas > GAS_LIMIT - self._chain.header.gas_used:
                    self._pool[transaction.sender, transaction.nonce] = transaction
                    full = True
                    break
                with suppress(ValidationError):  # it cannot pay any more: it is dropped
                    self._chain.apply_transaction(transaction)
        block = self._chain.mine_block(blob_gas_used=0)
        self._table.commit()
        return block

    def skip(self, seconds: int) -> None:
        """Let the chain's clock run ahead."""
        self._ahead_s += seconds

    def _ready(self) -> list[SignedTransactionAPI]:
        """The next transaction of each sender, the best paid first."""
        state = self._chain.get_vm().state
        fee = self._chain.header.base_fee_per_gas
        ready = [
            waiting
            for (sender, nonce), waiting in self._pool.items()
            if nonce == state.get_nonce(sender) and waiting.max_fee_per_gas >= fee
        ]
        return sorted(ready, key=lambda waiting: -min(waiting.max_priority_fee_per_gas, waiting.max_fee_per_gas - fee))

    def add(self, raw: bytes) -> bytes:
        """Take a signed transaction into the pool; returns its hash. Raises ChainRefusal, in geth's words."""
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.validate()
            transaction.check_signature_validity()
            sender = transaction.sender
        except Exception as error:
            # py-evm and rlp raise two dozen types for bytes that are no transaction.
            raise ChainRefusal(f"invalid transaction: {error}") from error
        if getattr(transaction, "chain_id", self.chain_id) not in (None, self.chain_id):
            raise ChainRefusal("invalid chain id for signer")
        if transaction.intrinsic_gas > transaction.gas:
            raise ChainRefusal("intrinsic gas too low")
        if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
            raise ChainRefusal("max priority fee per gas higher than max fee per gas")
        self._check_turn(transaction, sender)
        cost = transaction.value + transaction.gas * transaction.max_fee_per_gas
        if self.state().get_balance(sender) < cost:
            raise ChainRefusal("insufficient funds for gas * price + value")
        self._pool[sender, transaction.nonce] = transaction
        hashed: bytes = transaction.hash
        return hashed

    def _check_turn(self, transaction: SignedTransactionAPI, sender: bytes) -> None:
        nonce, used = transaction.nonce, self.state().get_nonce(sender)
        waiting = self._pool.get((sender, nonce))
        if (waiting is not None and waiting.hash == transaction.hash) or self.mined(transaction.hash) is not None:
            raise ChainRefusal("already known")
        if nonce < used:
            raise ChainRefusal(f"nonce too low: next nonce {used}, tx nonce {nonce}")
        if nonce >= used + POOL_AHEAD_MAX or (waiting is None and len(self._pool) >= POOL_MAX):
            raise ChainRefusal("txpool is full")
        if transaction.gas > GAS_LIMIT:
            raise ChainRefusal("exceeds block gas limit")
        if waiting is not None and any(
            new * 100 < old * (100 + BUMP_PERCENT)
            for new, old in (
                (transaction.max_fee_per_gas, waiting.max_fee_per_gas),
                (transaction.max_priority_fee_per_gas, waiting.max_priority_fee_per_gas),
            )
        ):
            raise ChainRefusal("replacement transaction underpriced")

    def drop(self, hashed: bytes) -> None:
        """Forget a waiting transaction, as a node may."""
        self._pool = {place: waiting for place, waiting in self._pool.items() if waiting.hash != hashed}

    def rewind(self, block_hash: bytes) -> None:
        """Go back to a block, as if those after it had never been."""
        header = self._chain.get_block_header_by_hash(block_hash)
        database = self._chain.chaindb
        database._set_as_canonical_chain_head(database.db, header, GENESIS_PARENT_HASH)
        self._table.commit()
        self._chain = self._class(self._database)
        self._pool.clear()
        self._ahead_s = max(0, header.timestamp - int(time.time()))

    # Reading

    @property
    def head(self) -> BlockHeaderAPI:
        """The newest block's header."""
        return self._chain.get_canonical_head()

    def header_at(self, number: int) -> BlockHeaderAPI | None:
        """A block's header; None where there is none of this number."""
        if not 0 <= number <= self.head.block_number:
            return None
        return self._chain.get_canonical_block_header_by_number(number)

    def header_of(self, block_hash: bytes) -> BlockHeaderAPI | None:
        """A block's header by its hash, if the block is in the chain."""
        try:
            header = self._chain.get_block_header_by_hash(block_hash)
        except HeaderNotFound:
            return None
        found = self.header_at(header.block_number)
        return header if found is not None and found.hash == header.hash else None

    def state(self, header: BlockHeaderAPI | None = None) -> Any:
        """The state after a block (the newest)."""
        return self._chain.get_vm(header or self.head).state

    def node(self, hashed: bytes) -> bytes | None:
        """A node of the tries of states and storages, by its hash; those of all blocks are kept."""
        try:
            node: bytes = self._database[hashed]
        except KeyError:
            return None
        return node

    def next_nonce(self, sender: bytes) -> int:
        """The nonce after all that waits."""
        nonce: int = self.state().get_nonce(sender)
        while (sender, nonce) in self._pool:
            nonce += 1
        return nonce

    def waiting(self, hashed: bytes) -> SignedTransactionAPI | None:
        """A transaction that waits."""
        return next((waiting for waiting in self._pool.values() if waiting.hash == hashed), None)

    def mined(self, hashed: bytes) -> Mined | None:
        """A transaction that is in a block."""
        try:
            number, index = self._chain.get_canonical_transaction_index(hashed)
            block = self._chain.get_canonical_block_by_number(number)
        except (TransactionNotFound, HeaderNotFound, KeyError):
            return None
        if number > self.head.block_number or index >= len(block.transactions):
            return None  # of a block that was rewound
        transaction = block.transactions[index]
        if transaction.hash != hashed:
            return None
        receipts = block.get_receipts(self._chain.chaindb)
        before = receipts[index - 1].gas_used if index else 0
        logs = sum(len(receipt.logs) for receipt in receipts[:index])
        return Mined(block, index, transaction, receipts[index], receipts[index].gas_used - before, logs)

    def transactions(self, header: BlockHeaderAPI) -> list[bytes]:
        """The hashes of a block's transactions."""
        if not header.gas_used:
            return []
        return [transaction.hash for transaction in self._chain.get_block_by_header(header).transactions]

    def logs(self, header: BlockHeaderAPI) -> list[tuple[SignedTransactionAPI, LogAPI]]:
        """All events of a block, each with the transaction that made it."""
        if not header.bloom:
            return []
        block = self._chain.get_block_by_header(header)
        receipts = block.get_receipts(self._chain.chaindb)
        return [
            (transaction, log)
            for transaction, receipt in zip(block.transactions, receipts, strict=True)
            for log in receipt.logs
        ]

    # Trying out

    def call(self, ask: Ask, header: BlockHeaderAPI | None = None) -> bytes:
        """What a call returns after a block. Raises ChainRefusal with what a revert carries."""
        output: bytes = self._tried(ask, header).output
        return output

    def estimate(self, ask: Ask) -> int:
        """Enough gas for a call: what it used, and a fifth, for the 64th part that each inner call leaves."""
        computation = self._tried(ask, None)
        used: int = computation.get_gas_used() + computation.get_gas_refund()
        return min(GAS_LIMIT, max(used, 21_000) * 6 // 5 + 10_000)

    def _tried(self, ask: Ask, header: BlockHeaderAPI | None) -> ComputationAPI:
        header = header or self.head
        vm = self._chain.get_vm(header)
        state, fee = vm.state, header.base_fee_per_gas
        if state.get_balance(ask.sender) < ask.value:
            raise ChainRefusal("insufficient funds for transfer")
        # Whoever asks pays nothing.
        state.set_balance(ask.sender, state.get_balance(ask.sender) + GAS_LIMIT * fee)
        unsigned = vm.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            nonce=state.get_nonce(ask.sender),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=fee,
            gas=GAS_LIMIT,
            to=ask.to,
            value=ask.value,
            data=ask.data,
            access_list=(),
        )
        try:
            computation: ComputationAPI = state.apply_transaction(SpoofTransaction(unsigned, from_=ask.sender))
        except ValidationError as error:
            raise ChainRefusal(str(error)) from error
        if computation.is_error:
            said = computation.error.args[0] if computation.error.args else b""
            data = said if isinstance(said, bytes) else b""
            raise ChainRefusal("execution reverted" if data else f"execution failed: {computation.error!r}", data)
        return computation
