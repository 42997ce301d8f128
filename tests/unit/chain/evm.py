"""An EVM for tests of contracts: py-evm's state alone, without blocks, and contracts that are called by name.

A transaction takes a few milliseconds, time and block numbers are what the test says, and a whole state is kept and
taken back by its root. Senders have all the coin they need.
"""

from dataclasses import dataclass, field
from typing import Any

from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.state import PragueState
from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth.vm.spoof import SpoofTransaction
from eth_abi.abi import decode, encode
from eth_utils.abi import collapse_if_tuple

from chain.artifacts import Artifact
from chain.signed import created_by
from protocol.core.signing import keccak

CHAIN_ID = 31_337
GAS_MAX = 30_000_000
RICH = 10**30
MINER = bytes(19) + b"\1"
"""Gets what all transactions pay: their gas, at a price of one."""
EMPTY_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")


class Refused(Exception):
    """A call reverted, for this reason; empty where it gave none."""

    @property
    def reason(self) -> str:
        """What the contract said."""
        return str(self.args[0])


@dataclass(frozen=True)
class Log:
    """An event as it stands in a receipt."""

    address: bytes
    topics: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Done:
    """What a transaction cost, and what the contracts said."""

    gas: int
    logs: tuple[Log, ...]


@dataclass(frozen=True)
class Kept:
    """A whole state, to be taken back."""

    root: bytes
    number: int
    time_s: int


@dataclass
class Evm:
    """See the module. Everybody who sends is rich, unless ``funds`` says otherwise."""

    chain_id: int = CHAIN_ID
    number: int = 1_000
    time_s: int = 1_800_000_000
    _database: AtomicDB = field(default_factory=AtomicDB)

    def __post_init__(self) -> None:
        self._state = self._at(EMPTY_ROOT)

    def _at(self, root: bytes) -> PragueState:
        hashes = (self.block_hash(number) for number in range(self.number - 1, max(-1, self.number - 257), -1))
        context = ExecutionContext(MINER, self.time_s, self.number, 0, bytes(32), GAS_MAX, hashes, self.chain_id, 0, 0)
        return PragueState(self._database, context, root)

    def block_hash(self, number: int) -> bytes:
        """The hash of a block before the present one."""
        return keccak(b"block" + number.to_bytes(8, "big"))

    def keep(self) -> Kept:
        """The state as it is now."""
        self._state.lock_changes()
        self._state.persist()
        return Kept(self._state.state_root, self.number, self.time_s)

    def take_back(self, kept: Kept) -> None:
        """Make all undone that was done since."""
        self.number, self.time_s = kept.number, kept.time_s
        self._state = self._at(kept.root)

    def advance(self, seconds: int = 0, blocks: int = 0) -> None:
        """Let time pass, and blocks."""
        root = self.keep().root
        self.number, self.time_s = self.number + blocks, self.time_s + seconds
        self._state = self._at(root)

    def balance(self, address: bytes) -> int:
        """An address's coin."""
        amount: int = self._state.get_balance(address)
        return amount

    def fund(self, address: bytes, amount: int) -> None:
        """Give an address coin out of nothing."""
        self._state.set_balance(address, self.balance(address) + amount)

    def send(self, sender: bytes, to: bytes, data: bytes, value: int = 0) -> Done:
        """A transaction. Raises Refused, and then nothing was done."""
        self._state.lock_changes()
        burnt = self.balance(MINER)
        computation = self._state.apply_transaction(self._transaction(sender, to, data, value))
        if computation.is_error:
            raise Refused(_reason(computation))
        logs = tuple(Log(*entry) for entry in computation.get_log_entries())
        return Done(self.balance(MINER) - burnt, logs)

    def call(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        """What a call would answer. Raises Refused."""
        computation = self._state.costless_execute_transaction(self._transaction(sender, to, data, 0))
        if computation.is_error:
            raise Refused(_reason(computation))
        return bytes(computation.output)

    def _transaction(self, sender: bytes, to: bytes, data: bytes, value: int) -> SpoofTransaction:
        if self.balance(sender) < RICH // 2:
            self.fund(sender, RICH)
        unsigned = PragueTransactionBuilder.create_unsigned_transaction(
            nonce=self.nonce(sender), gas_price=1, gas=GAS_MAX, to=to, value=value, data=data
        )
        return SpoofTransaction(unsigned, from_=sender)

    def deploy(self, artifact: Artifact, *arguments: Any, sender: bytes) -> "Contract":
        """Deploy a contract; it stands where sender and nonce put it."""
        inputs: Any = next((item["inputs"] for item in artifact.abi if item["type"] == "constructor"), [])
        at = created_by(sender, self.nonce(sender))
        self.send(sender, b"", artifact.bytecode + encode([collapse_if_tuple(item) for item in inputs], arguments))
        return Contract(self, at, artifact.abi)

    def nonce(self, address: bytes) -> int:
        """How many transactions an address has sent."""
        count: int = self._state.get_nonce(address)
        return count


class Contract:
    """A contract that is called by the names of its functions."""

    def __init__(self, evm: Evm, address: bytes, abi: list[dict[str, Any]]) -> None:
        self.evm = evm
        self.address = address
        self._functions = {item["name"]: item for item in abi if item["type"] == "function"}
        self._events = {keccak(_signature(item).encode()): item for item in abi if item["type"] == "event"}

    def data(self, name: str, *arguments: Any) -> bytes:
        """The calldata of a call."""
        function = self._functions[name]
        types = [collapse_if_tuple(item) for item in function["inputs"]]
        return keccak(_signature(function).encode())[:4] + encode(types, arguments)

    def send(self, name: str, *arguments: Any, sender: bytes, value: int = 0) -> Done:
        """Call a function by a transaction."""
        return self.evm.send(sender, self.address, self.data(name, *arguments), value)

    def call(self, name: str, *arguments: Any, sender: bytes = bytes(20)) -> Any:
        """Ask a function: its answer, a tuple where it has several parts."""
        output = self.evm.call(self.address, self.data(name, *arguments), sender)
        answer = decode([collapse_if_tuple(item) for item in self._functions[name]["outputs"]], output)
        return answer[0] if len(answer) == 1 else answer

    def events(self, done: Done) -> list[tuple[Any, ...]]:
        """What this contract said: name and fields of each event, the indexed fields first."""
        return [self._event(log) for log in done.logs if log.address == self.address]

    def _event(self, log: Log) -> tuple[Any, ...]:
        event = self._events[log.topics[0].to_bytes(32, "big")]
        indexed = [collapse_if_tuple(item) for item in event["inputs"] if item["indexed"]]
        plain = [collapse_if_tuple(item) for item in event["inputs"] if not item["indexed"]]
        keys = [
            decode([kind], topic.to_bytes(32, "big"))[0] for kind, topic in zip(indexed, log.topics[1:], strict=True)
        ]
        return (event["name"], *keys, *decode(plain, log.data))


def _signature(item: dict[str, Any]) -> str:
    return f"{item['name']}({','.join(collapse_if_tuple(part) for part in item['inputs'])})"


def _reason(computation: Any) -> str:
    output = bytes(computation.output)
    if output[:4] == keccak(b"Error(string)")[:4]:
        reason: str = decode(["string"], output[4:])[0]
        return reason
    return "" if not output else output.hex()
