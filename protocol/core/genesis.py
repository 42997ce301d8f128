"""The genesis of a network: its name, its chain, its first committee, its parameters. Its hash is the network id.

Two networks that differ in anything here cannot read each other's signatures: the network id is the salt of
the signing domain and part of every gossip topic.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property

import msgspec

from protocol.core.errors import ParameterError
from protocol.core.ids import NetworkId, NodeId
from protocol.core.params import COMMITTEE_SIZES, Params
from protocol.core.signing import Domain

GENESIS_BYTES_MAX = 1 << 20
FORMAT = 1
ALLOCATION_MAX = 2**62
"""All amounts are signed as 64 bits, sums included."""

SETTLING_BLOCK_BYTES_MIN = 172_032
"""An oracle's share of a block holds a word on the chain, with a committee of any size in it."""
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Contracts:
    """Where a network settles. The addresses follow from deployer and nonces, so they are known before the contracts
    are there."""

    start_block: int
    """The contracts have no events in an earlier block."""
    registry: NodeId
    evidence: NodeId
    checkpoints: NodeId
    escrow: NodeId
    inbox: NodeId
    models: NodeId

    def addresses(self) -> dict[str, NodeId]:
        """The contracts by name, in the order in which they are deployed."""
        return {name: getattr(self, name) for name in CONTRACTS}


CONTRACTS = tuple(item.name for item in fields(Contracts) if item.name != "start_block")


@dataclass(frozen=True)
class Genesis:
    """What all nodes of a network agree on before they meet."""

    name: str
    chain_id: int = 0
    params: Params = field(default_factory=Params)
    committee: tuple[NodeId, ...] = ()
    """The oracles of the first epoch, in the order that certificates count them; none where nothing is certified."""
    allocation: tuple[tuple[NodeId, int], ...] = ()
    """What accounts begin with, in wei, by rising address: where there is no chain to bring deposits from."""
    miners: tuple[NodeId, ...] = ()
    """Miners that are available from the start, as if tested, by rising address."""
    contracts: Contracts | None = None
    """None where nothing settles on a chain."""
    founded_s: int = 0
    """When the first committee was named, in Unix seconds; 0 if that is not known, and then its age never matters."""

    def __post_init__(self) -> None:
        """Raises ParameterError for a committee that could not certify anything. Spec: [GENESIS-COMMITTEE.1]"""
        count = len(self.committee)
        if count and count not in COMMITTEE_SIZES:
            sizes = ", ".join(map(str, COMMITTEE_SIZES))
            raise ParameterError(f"the committee has {count} members; it has none, or one of {sizes}")
        if len(set(self.committee)) != count or any(len(member) != 20 for member in self.committee):
            raise ParameterError("the committee names each member once, by 20 bytes")
        self._check_contracts()
        if not 0 <= self.founded_s < 2**40:
            raise ParameterError("founded_s is a time in seconds from 0, below 2^40")
        for what, named in (("allocation", [account for account, _ in self.allocation]), ("miners", self.miners)):
            if any(len(node) != 20 for node in named) or list(named) != sorted(set(named)):
                raise ParameterError(f"the {what} names each address once, in rising order")
        if any(amount <= 0 for _, amount in self.allocation) or self.allocated() > ALLOCATION_MAX:
            raise ParameterError(f"an allocation is positive, and all together are at most {ALLOCATION_MAX} wei")

    def _check_contracts(self) -> None:
        """Raises ParameterError. Spec: [GENESIS-CONTRACTS.1]"""
        contracts = self.contracts
        if contracts is None:
            return
        addresses = contracts.addresses().values()
        if len(set(addresses)) != len(CONTRACTS) or any(len(address) != 20 for address in addresses):
            raise ParameterError("the contracts are at addresses of 20 bytes, no two at one")
        if not 0 <= contracts.start_block < 2**63 or not self.chain_id:
            raise ParameterError("contracts need the chain_id of their chain, and start_block counts from 0")
        if self.allocation or not self.committee:
            raise ParameterError("with contracts there is a committee, and no allocation: money comes by deposits")
        if self.params.block_bytes_max < SETTLING_BLOCK_BYTES_MIN:
            raise ParameterError(f"with contracts block_bytes_max is {SETTLING_BLOCK_BYTES_MIN} or more")

    def allocated(self) -> int:
        """What all accounts begin with."""
        return sum(amount for _, amount in self.allocation)

    def to_json(self) -> str:
        """The genesis file: canonical JSON, sorted keys, one trailing newline."""
        return self._text

    @cached_property
    def _text(self) -> str:
        # Kept, as the domain is: they are asked for with every answer and every frame.
        content = {
            "format": FORMAT,
            "name": self.name,
            "chain_id": self.chain_id,
            "committee": [f"0x{member.hex()}" for member in self.committee],
            "allocation": {f"0x{account.hex()}": amount for account, amount in self.allocation},
            "miners": [f"0x{miner.hex()}" for miner in self.miners],
            "founded_s": self.founded_s,
            "contracts": None if self.contracts is None else _shown(self.contracts),
            "params": asdict(self.params),
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True) + "\n"

    def network_id(self) -> NetworkId:
        """sha256 of the genesis file."""
        return self._domain.network_id

    def domain(self) -> Domain:
        """The signing domain of this network."""
        return self._domain

    @cached_property
    def _domain(self) -> Domain:
        return Domain(NetworkId(hashlib.sha256(self._text.encode()).digest()), self.chain_id)

    def topic(self, name: str) -> str:
        """The full name of a gossip topic, e.g. ``/p2pnode/1a2b3c4d/nodes/1``."""
        return f"/p2pnode/{self.network_id()[:4].hex()}/{name}/1"


def _shown(contracts: Contracts) -> dict[str, int | str]:
    addresses = {name: f"0x{address.hex()}" for name, address in contracts.addresses().items()}
    return {"start_block": contracts.start_block, **addresses}


class _Contracts(msgspec.Struct, forbid_unknown_fields=True):
    start_block: int
    registry: str
    evidence: str
    checkpoints: str
    escrow: str
    inbox: str
    models: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    name: str
    chain_id: int
    params: dict[str, int]
    committee: tuple[str, ...]
    allocation: dict[str, int]
    miners: tuple[str, ...]
    contracts: _Contracts | None
    founded_s: int


def parse_genesis(text: str) -> Genesis:
    """Read a genesis file (untrusted). Raises ParameterError naming what is wrong with it."""
    if len(text) > GENESIS_BYTES_MAX:
        raise ParameterError(f"a genesis file has at most {GENESIS_BYTES_MAX} bytes")
    try:
        # A decoder that knows the type stops at the first bracket out of place. The json module recurses, and
        # deep nesting ends the process where something has raised the recursion limit (py_ecc does).
        content = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ParameterError(f"this is no genesis file: {error}") from error
    if content.format != FORMAT:
        raise ParameterError(f"genesis format {content.format}; this build reads {FORMAT}")
    if not 1 <= len(content.name) <= 64 or not content.name.isprintable():
        raise ParameterError("the network's name has 1 to 64 printable characters")
    if not 0 <= content.chain_id < 2**63:
        raise ParameterError("chain_id is an integer from 0")
    accounts = _nodes(list(content.allocation), "an account of the allocation")
    return Genesis(
        content.name,
        content.chain_id,
        _params(content.params),
        _nodes(content.committee, "a member of the committee"),
        tuple(sorted(zip(accounts, content.allocation.values(), strict=True))),
        _nodes(content.miners, "a miner"),
        None if content.contracts is None else _contracts(content.contracts),
        content.founded_s,
    )


def _contracts(content: _Contracts) -> Contracts:
    addresses = _nodes([getattr(content, name) for name in CONTRACTS], "a contract")
    return Contracts(content.start_block, *addresses)


def _nodes(content: Sequence[str], what: str) -> tuple[NodeId, ...]:
    if any(_ADDRESS.fullmatch(member) is None for member in content):
        raise ParameterError(f"{what} is named by 0x and 40 lower-case hexadecimal digits")
    return tuple(NodeId(bytes.fromhex(member[2:])) for member in content)


def _params(content: dict[str, int]) -> Params:
    wrong = sorted(set(content) ^ {item.name for item in fields(Params)})
    if wrong:
        raise ParameterError(f"params must name every parameter once; missing or unknown: {', '.join(wrong[:8])}")
    return Params(**content).validate()
