"""The contracts' functions and events, encoded and decoded by web3 with the ABI of their artifacts.

What comes back is an endpoint's word: it decodes into exactly what the ABI says, or is RpcNonsense.

web3 is used without a provider, so it never reaches anybody: what is asked of whom is this package's to decide
(``chain.rpc``). It takes a second or two to import, and a node without a chain never does.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from chain.artifacts import load_artifact
from chain.errors import RpcNonsense
from protocol.core.ids import NodeId
from protocol.core.signing import keccak

if TYPE_CHECKING:
    from web3 import Web3
    from web3.contract import Contract
    from web3.contract.contract import ContractEvent

CONTRACT_OF = {
    "registry": "NodeRegistry",
    "evidence": "Evidence",
    "checkpoints": "Checkpoints",
    "escrow": "Escrow",
    "inbox": "SessionInbox",
    "models": "ModelRegistry",
}
"""The artifact of each of the genesis' contracts."""

EVENT_BYTES_MAX = 32 << 10
"""No event of the contracts holds more than a sealed answer and a few words."""

_ERROR = keccak(b"Error(string)")[:4]
_TOKEN = (("allowance", ("address", "address"), "uint256"), ("approve", ("address", "uint256"), "bool"))
"""What is asked and told of an ERC-20 that money is in."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a contract."""

    name: str
    outputs: tuple[dict[str, Any], ...]
    contract: "type[Contract]"

    def encode(self, *values: Any) -> bytes:
        """A call's data."""
        return bytes.fromhex(self.contract.encode_abi(self.name, values)[2:])

    def decode(self, data: bytes) -> Any:
        """What a call returned: one value, or a tuple of several. Raises RpcNonsense."""
        values = _decoded(self.outputs, data)
        return values[0] if len(values) == 1 else values


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a contract."""

    name: str
    topic: bytes
    inputs: tuple[dict[str, Any], ...]
    reader: "ContractEvent"

    def decode(self, topics: list[bytes], data: bytes) -> dict[str, Any]:
        """The values by name. Raises RpcNonsense."""
        if len(data) > EVENT_BYTES_MAX:
            raise RpcNonsense(f"answered an event {self.name} of {len(data)} bytes")
        try:
            said = self.reader.process_log({**_NOWHERE, "topics": topics, "data": data})["args"]
            return {item["name"]: _plain(item["type"], item, said[item["name"]]) for item in self.inputs}
        except Exception as error:
            # web3 raises its own types for bad input, and those of what it is built on.
            raise RpcNonsense(f"answered what is no event {self.name}: {str(error)[:200]}") from error


_NOWHERE = dict.fromkeys(("address", "blockHash", "blockNumber", "logIndex", "transactionHash", "transactionIndex"))
"""web3 hands on where an event stands; whoever asks has looked at that."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A contract's interface."""

    name: str
    functions: dict[str, Function]
    events: dict[str, Event]
    contract: "type[Contract]"

    def creation(self, *values: Any) -> bytes:
        """The data of the transaction that makes the contract with these arguments."""
        return bytes.fromhex(self.contract.constructor(*values).data_in_transaction[2:])


@cache
def binding(name: str) -> Binding:
    """The interface of a contract, by its artifact's name."""
    artifact = load_artifact(name)
    return _bound(name, artifact.abi, artifact.bytecode)


@cache
def token_binding() -> Binding:
    """As much of an ERC-20's interface as is needed to let a contract take from it."""
    abi = [
        {
            "type": "function",
            "name": name,
            "stateMutability": "nonpayable",
            "inputs": [{"name": f"value{at}", "type": kind} for at, kind in enumerate(inputs)],
            "outputs": [{"name": "", "type": output}],
        }
        for name, inputs, output in _TOKEN
    ]
    return _bound("token", abi, b"")


def _bound(name: str, abi: list[dict[str, Any]], bytecode: bytes) -> Binding:
    contract = _web3().eth.contract(abi=abi, bytecode=bytecode)
    functions: dict[str, Function] = {}
    events: dict[str, Event] = {}
    for item in abi:
        if item["type"] == "function":
            functions[item["name"]] = Function(item["name"], tuple(item["outputs"]), contract)
        elif item["type"] == "event":
            reader = contract.events[item["name"]]()
            events[item["name"]] = Event(item["name"], bytes.fromhex(reader.topic[2:]), tuple(item["inputs"]), reader)
    return Binding(name, functions, events, contract)


@cache
def _web3() -> "Web3":
    from web3 import Web3
    from web3.providers import BaseProvider

    return Web3(BaseProvider())


def _decoded(items: tuple[dict[str, Any], ...], data: bytes) -> tuple[Any, ...]:
    """The values in data (untrusted), addresses as bytes, arrays as tuples. Raises RpcNonsense."""
    from eth_utils.abi import collapse_if_tuple

    try:
        values = _web3().codec.decode([collapse_if_tuple(item) for item in items], data)
        return tuple(_plain(item["type"], item, value) for item, value in zip(items, values, strict=True))
    except Exception as error:
        # The decoder raises its own types, and those of what it is built on, for bad input.
        why = str(error)[:200]
        raise RpcNonsense(f"answered {len(data)} bytes that are not what the ABI says: {why}") from error


def reason_of(data: bytes) -> str:
    """The short word that a revert carries (untrusted); empty if it carries none."""
    if data[:4] != _ERROR:
        return ""
    try:
        said = _decoded(({"type": "string"},), data[4:])[0]
    except RpcNonsense:
        return ""
    return str(said)[:200]


def _plain(kind: str, item: dict[str, Any], value: Any) -> Any:
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return tuple(_plain(inner, item, one) for one in value)
    if kind == "tuple":
        parts = item["components"]
        return tuple(_plain(part["type"], part, one) for part, one in zip(parts, value, strict=True))
    return NodeId(bytes.fromhex(value[2:])) if kind == "address" else value
