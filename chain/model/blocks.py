"""Blocks without a virtual machine: transactions wait, blocks take them in, become final, or are replaced by others.

Each block keeps what the contracts hold after it, so that a reorganisation goes back to what was. A block is final when
``depth`` others stand on it; no reorganisation is deeper.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rlp

from chain.model.calls import Call, Log, Revert, require
from chain.model.deployed import ModelContracts
from protocol.core.errors import LocalProtocolError
from protocol.core.ids import NOBODY, ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import keccak

FEE = 10**14
"""What every transaction costs, in the coin's smallest unit; it is lost to everybody."""
HASHES_KEPT = 256
"""As an EVM has it: older blocks have no hash any more."""
STATES_KEPT = 64
"""Blocks whose state is kept: more than any finality depth."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed wish to call a contract, or (without one) to move coin."""

    sender: NodeId
    nonce: int
    contract: str
    function: str
    args: tuple[Any, ...]
    value: int = 0
    tip: int = 0
    """Of two with one nonce the higher one replaces the other."""

    @property
    def hash(self) -> Digest:
        """Its name."""
        said = repr((self.contract, self.function, self.args, self.value))
        return Digest(keccak(self.sender + self.nonce.to_bytes(8, "big") + self.tip.to_bytes(8, "big") + said.encode()))


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a transaction in a block."""

    hash: Digest
    number: int
    reason: str | None
    """Why it was reverted; None if it was not."""
    result: Any = None


@dataclass(slots=True)
class Holdings:
    """Everything that a transaction can change."""

    contracts: ModelContracts
    coins: dict[NodeId, int] = field(default_factory=dict)
    nonces: dict[NodeId, int] = field(default_factory=dict)

    def copy(self) -> "Holdings":
        """One that changes by itself."""
        return Holdings(self.contracts.copy(), dict(self.coins), dict(self.nonces))


@dataclass(slots=True)
class MadeBlock:
    """A block, and what it made of things."""

    number: int
    header: bytes
    """In RLP, with the fields of Ethereum's first days."""
    time_s: int
    receipts: tuple[Receipt, ...]
    transactions: tuple[Transaction, ...]
    logs: tuple[Log, ...]
    after: Holdings | None
    """Forgotten when it can be neither asked for nor gone back to."""
    hash: Digest = field(init=False)

    def __post_init__(self) -> None:
        self.hash = Digest(keccak(self.header))


class ModelChain:
    """See the module. ``contracts`` are deployed in its block 0."""

    def __init__(self, contracts: ModelContracts, chain_id: int, time_s: int, *, depth: int = 0) -> None:
        if not 0 <= depth < STATES_KEPT // 2:
            raise LocalProtocolError(f"a finality depth of {depth} needs more states than are kept")
        self.chain_id = chain_id
        self.depth = depth
        self.minted = 0
        """Coin that there is in all."""
        self.waiting: list[Transaction] = []
        """Not in a block: in the order in which they came."""
        self._salt = 0
        self._receipts: dict[Digest, Receipt] = {}
        first = MadeBlock(0, _header(ZERO_DIGEST, 0, time_s, 0, ()), time_s, (), (), (), Holdings(contracts))
        self.blocks = [first]

    # What can be seen

    @property
    def head(self) -> MadeBlock:
        """The latest block."""
        return self.blocks[-1]

    @property
    def final(self) -> MadeBlock:
        """The newest final block."""
        return self.blocks[max(0, len(self.blocks) - 1 - self.depth)]

    def holdings(self, number: int | None = None) -> Holdings:
        """What is held after a block that is not long past; the latest if none is named."""
        after = (self.head if number is None else self.blocks[number]).after
        if after is None:
            raise LocalProtocolError(f"what was held after block {number} is forgotten")
        return after

    def receipt(self, name: Digest) -> Receipt | None:
        """What became of a transaction; None if it is in no block."""
        return self._receipts.get(name)

    def nonce(self, sender: NodeId) -> int:
        """Of its next transaction, those that wait not counted."""
        return self.holdings().nonces.get(sender, 0)

    # What changes it

    def fund(self, address: NodeId, amount: int) -> None:
        """Coin from nowhere, as if it had always been there."""
        self.minted += amount
        for block in self.blocks[-STATES_KEPT:]:
            if block.after is not None:
                block.after.coins[address] = block.after.coins.get(address, 0) + amount

    def send(self, transaction: Transaction) -> None:
        """Have a transaction wait for a block. Raises Revert, with the words of a node that refuses it."""
        require(transaction.nonce >= self.nonce(transaction.sender), "nonce too low")
        has = self.holdings().coins.get(transaction.sender, 0)
        require(has >= transaction.value + FEE, "insufficient funds for gas * price + value")
        for place, other in enumerate(self.waiting):
            if (other.sender, other.nonce) == (transaction.sender, transaction.nonce):
                require(transaction.hash != other.hash, "already known")
                require(transaction.tip > other.tip, "replacement transaction underpriced")
                self.waiting[place] = transaction
                return
        self.waiting.append(transaction)

    def attempt(self, transaction: Transaction, number: int | None = None) -> Any:
        """What a transaction would come to after a block (the latest); nothing comes of it. Raises Revert."""
        before = self.head if number is None else self.blocks[number]
        after = self.holdings(before.number).copy()
        require(after.coins.get(transaction.sender, 0) >= transaction.value, "funds")
        return self._run(transaction, after, before.number + 1, before.time_s + 1)[0]

    def drop(self, name: Digest) -> None:
        """A waiting transaction is forgotten by the network."""
        self.waiting = [transaction for transaction in self.waiting if transaction.hash != name]

    def mine(self, time_s: int | None = None) -> MadeBlock:
        """The next block: all that waits and whose turn it is."""
        before = self.head
        when = max(before.time_s + 1, before.time_s + 1 if time_s is None else time_s)
        after, receipts, taken, logs = self.holdings(), list[Receipt](), list[Transaction](), list[Log]()
        for transaction in self._ready():
            if len(receipts) == 0:
                after = after.copy()
            receipt, after = self._include(transaction, after, before.number + 1, when, logs)
            receipts.append(receipt)
            taken.append(transaction)
        names = tuple(receipt.hash for receipt in receipts)
        header = _header(before.hash, before.number + 1, when, self._salt, names)
        block = MadeBlock(before.number + 1, header, when, tuple(receipts), tuple(taken), tuple(logs), after)
        self.waiting = [transaction for transaction in self.waiting if transaction not in taken]
        self.blocks.append(block)
        self._receipts.update((receipt.hash, receipt) for receipt in receipts)
        if len(self.blocks) > STATES_KEPT:
            self.blocks[-STATES_KEPT - 1].after = None
        return block

    def reorganise(self, depth: int, keep: Callable[[Transaction], bool] = lambda _: True) -> None:
        """The last ``depth`` blocks are replaced by others, one more of them; of their transactions those that are kept
        wait again, and are in blocks again only when :meth:`mine` is called."""
        if depth > self.depth or depth >= len(self.blocks):
            raise LocalProtocolError(f"a reorganisation of {depth} blocks would change a final one")
        if not depth:
            return
        gone = self.blocks[-depth:]
        self.blocks = self.blocks[:-depth]
        self._salt += 1
        for receipt in (receipt for block in gone for receipt in block.receipts):
            del self._receipts[receipt.hash]
        again = [transaction for block in gone for transaction in block.transactions if keep(transaction)]
        waiting, self.waiting = self.waiting, []
        for block in gone:
            self.mine(block.time_s)
        self.mine()
        self.waiting = again + [one for one in waiting if one not in again]

    # One transaction

    def _ready(self) -> list[Transaction]:
        """What can be taken in, each sender's in the order of its nonces."""
        nonces, ready, left = dict(self.holdings().nonces), list[Transaction](), list(self.waiting)
        while True:
            following = next((one for one in left if one.nonce == nonces.get(one.sender, 0)), None)
            if following is None:
                break
            nonces[following.sender] = following.nonce + 1
            ready.append(following)
            left.remove(following)
        return ready

    def _include(
        self, transaction: Transaction, before: Holdings, number: int, time_s: int, logs: list[Log]
    ) -> tuple[Receipt, Holdings]:
        before.nonces[transaction.sender] = transaction.nonce + 1
        fee = min(FEE, before.coins.get(transaction.sender, 0))
        before.coins[transaction.sender] = before.coins.get(transaction.sender, 0) - fee
        before.coins[NOBODY] = before.coins.get(NOBODY, 0) + fee
        after = before.copy()
        try:
            require(after.coins.get(transaction.sender, 0) >= transaction.value, "funds")
            result, said = self._run(transaction, after, number, time_s)
        except Revert as revert:
            return Receipt(transaction.hash, number, revert.reason), before
        logs += said
        return Receipt(transaction.hash, number, None, result), after

    def _run(self, transaction: Transaction, after: Holdings, number: int, time_s: int) -> tuple[Any, list[Log]]:
        call = Call(transaction.sender, transaction.value, number, time_s, self._hash_of, after.coins)
        result = after.contracts.call(transaction.contract, transaction.function, transaction.args, call)
        return result, call.logs

    def _hash_of(self, number: int) -> Digest:
        upper = self.head.number + 1
        return self.blocks[number].hash if upper - HASHES_KEPT <= number < upper and number >= 0 else ZERO_DIGEST


def _header(parent: bytes, number: int, time_s: int, salt: int, names: tuple[bytes, ...]) -> bytes:
    """A block's header in RLP. What the model has no tries for is one digest of the block's transactions."""
    held, nobody, bloom = keccak(b"".join(names)), bytes(20), bytes(256)
    fields = [
        parent,
        ZERO_DIGEST,
        nobody,
        held,
        held,
        held,
        bloom,
        0,
        number,
        0,
        0,
        time_s,
        salt,
        ZERO_DIGEST,
        bytes(8),
    ]
    encoded: bytes = rlp.encode(fields)
    return encoded
