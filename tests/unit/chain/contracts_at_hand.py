"""NodeRegistry and Checkpoints at hand: deployed as a genesis would have them, with keys of all who sign."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from chain.artifacts import load_artifact
from chain.signed import created_by
from protocol.committee.election import committee_root
from protocol.core.ids import Digest, NetworkId, NodeId
from protocol.core.signing import Domain, typed_digest
from protocol.messages.chain import Consent
from protocol.messages.committee import Finalize, Header, header_digest
from tests.unit.chain.evm import CHAIN_ID, Contract, Done, Evm
from tests.unit.protocol.keys import Key, key

DOMAIN = Domain(NetworkId(bytes(range(32))), CHAIN_ID)
DEPLOYER = b"\xdd" * 20
GUARDIAN = b"\x9d" * 20
EVIDENCE = b"\xee" * 20
"""Stands in for the contract Evidence: what may slash."""
OWNER = b"\x0e" * 20
ANYBODY = b"\xab" * 20
ORACLE, MINER = 4, 2
STRANGER = key(9_999)


@dataclass(frozen=True)
class Settings:
    """What the two contracts are deployed with."""

    size: int = 4
    """Of the committee of the genesis: keys 0, 1, 2, …"""
    size_max: int = 31
    token: bytes = bytes(20)
    unit: int = 1
    stake_min: int = 100
    stake_cap: int = 1_000
    unbonding_s: int = 10_000
    slash_bp: int = 5_000
    reward_bp: int = 1_000
    terms_max: int = 3
    window_s: int = 600
    dead_s: int = 5_000
    pause_max_s: int = 300


def compact(signature: bytes) -> tuple[bytes, bytes]:
    """A signature as contracts take it: r, and s with the parity of v in its highest bit."""
    s = int.from_bytes(signature[32:64], "big") | (signature[64] - 27) << 255
    return signature[:32], s.to_bytes(32, "big")


def consent(node: Key, owner: bytes, domain: Domain = DOMAIN) -> tuple[bytes, bytes]:
    """A key's consent to be an owner's."""
    return compact(node.sign(typed_digest(domain, Consent(node.node, owner))))


def fields_of(header: Header) -> tuple[Any, ...]:
    """A header as contracts take it."""
    return msgspec.structs.astuple(header)


def members_of(keys: Sequence[Key]) -> tuple[NodeId, ...]:
    """The addresses of keys."""
    return tuple(key.node for key in keys)


@dataclass
class Certificate:
    """A header and who finalized it: what `submit` takes, each part to be tampered with."""

    header: Header
    keys: tuple[Key, ...]
    """Of the committee."""
    places: tuple[int, ...]
    domain: Domain = DOMAIN

    @property
    def digest(self) -> Digest:
        """The header's name."""
        return header_digest(self.domain, self.header)

    def parts(self) -> list[Any]:
        """Header, members, signers, signatures."""
        statement = Finalize(self.header.epoch, self.header.height, self.digest)
        to_sign = typed_digest(self.domain, statement)
        signatures = [compact(self.keys[place].sign(to_sign)) for place in self.places]
        signers = sum(1 << place for place in self.places)
        return [fields_of(self.header), members_of(self.keys), signers, signatures]


def certificate(header: Header, keys: Sequence[Key], places: Sequence[int] | None = None) -> Certificate:
    """A header finalized by the first 2f+1 of a committee, or by those at these places."""
    quorum = len(keys) - len(keys) // 3
    return Certificate(header, tuple(keys), tuple(range(quorum) if places is None else places))


@dataclass
class Rig:
    """See the module."""

    settings: Settings = field(default_factory=Settings)
    evm: Evm = field(default_factory=Evm)
    domain: Domain = DOMAIN
    evidence: bytes = EVIDENCE

    def __post_init__(self) -> None:
        self.keys = tuple(key(number) for number in range(self.settings.size))
        """The committee of the genesis."""
        evm, given = self.evm, self.settings
        nonce = evm.nonce(DEPLOYER)
        checkpoints = created_by(DEPLOYER, nonce + 1)
        self.registry = evm.deploy(
            load_artifact("NodeRegistry"),
            self.domain.network_id,
            self.domain.chain_id,
            self.evidence,
            checkpoints,
            given.token,
            given.unit,
            members_of(self.keys),
            given.size_max,
            given.stake_min,
            given.stake_cap,
            given.unbonding_s,
            given.slash_bp,
            given.reward_bp,
            sender=DEPLOYER,
        )
        self.checkpoints = self.deploy_checkpoints(self.registry.address)

    def deploy_checkpoints(self, registry: bytes) -> Contract:
        """The contract Checkpoints of a registry."""
        given = self.settings
        return self.evm.deploy(
            load_artifact("Checkpoints"),
            self.domain.network_id,
            self.domain.chain_id,
            registry,
            GUARDIAN,
            given.terms_max,
            given.window_s,
            given.dead_s,
            given.pause_max_s,
            sender=DEPLOYER,
        )

    # Headers

    def header(self, epoch: int = 1, height: int = 1, **changes: Any) -> Header:
        """A header whose next committee is the genesis's again."""
        root = committee_root(members_of(self.keys))
        plain = Header(
            epoch,
            height,
            bytes([1]) * 32,
            bytes([2]) * 32,
            70_000 + epoch,
            bytes([3]) * 32,
            bytes([4]) * 32,
            19_000_000 + epoch,
            bytes([5]) * 32,
            12,
            root,
            bytes([6]) * 32,
        )
        return msgspec.structs.replace(plain, **changes)

    def submit(self, header: Header, keys: Sequence[Key] | None = None, **changes: Any) -> Done:
        """Bring a header that a committee (the genesis's) has finalized."""
        made = replace(certificate(header, keys or self.keys), **changes)
        return self.checkpoints.send("submit", *made.parts(), sender=ANYBODY)

    # Nodes

    def register(self, node: Key, stake: int = 500, roles: int = ORACLE, owner: bytes = OWNER) -> Done:
        """Register a node with stake of the chain's coin."""
        value = stake * self.settings.unit
        return self.registry.send("register", node.node, roles, stake, consent(node, owner), sender=owner, value=value)

    def candidates(self) -> list[bytes]:
        """The frozen candidates, as `draw` wants them."""
        count = self.registry.call("oracle_count")
        named = self.registry.call("frozen_candidates", 0, count)
        return sorted(bytes.fromhex(address[2:]) for address in named)

    def draw(self, epoch: int) -> Done:
        """Draw an epoch's committee once its seed block is past."""
        self.evm.advance(blocks=max(0, self.registry.call("frozen")[1] + 1 - self.evm.number))
        return self.registry.send("draw", epoch, self.candidates(), sender=ANYBODY)
