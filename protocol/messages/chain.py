"""What the EVM chain tells the ledger: the contracts' events, and an oracle's word on how far they go."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.signing import U8, U64, Bytes20, Bytes32, TypedStruct, keccak
from protocol.messages.committee import MEMBERS_MAX

WORD_EVENTS_MAX = 16
"""Events in one word."""
WORD_BYTES_MAX = 1_536
"""A word's encoding: it fits into a batch of any network."""

NO_EVENTS = ZERO_DIGEST
"""The running digest before the first event."""


class Deposited(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Somebody deposited for an account."""

    number: U64
    """From 1, without a gap."""
    account: Bytes20
    amount: U64
    """In the ledger's units."""


class NodeChanged(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """A node key's record in the registry, as it is from now on."""

    node: Bytes20
    owner: Bytes20
    roles: U8
    """Bits: 1 router, 2 miner, 4 oracle; none once it has left."""
    stake: U64
    """In the ledger's units."""
    jailed: bool


class Drawn(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """The registry has drawn an epoch's committee."""

    epoch: U64
    members: Annotated[tuple[Bytes20, ...], Meta(max_length=MEMBERS_MAX)]


class Accepted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """The contract has accepted a header: a checkpoint."""

    epoch: U64
    height: U64
    digest: Bytes32


class Consent(TypedStruct, frozen=True):
    """A node key agrees to be registered by an owner, who binds stake to it. Spec: [REGISTRY-CONSENT.1]"""

    node: Bytes20
    owner: Bytes20


ChainEvent = Deposited | NodeChanged | Drawn | Accepted
"""What the ledger takes in of the contracts' events."""


class ChainWord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An oracle's word on the chain: the events that follow those which the ledger has, and how far they go.

    Spec: [CHAIN-WORD.1]
    """

    first: U64
    """How many events the ledger has taken in before these."""
    events: Annotated[tuple[ChainEvent, ...], Meta(max_length=WORD_EVENTS_MAX)]
    number: U64
    """A finalized EVM block up to which there are no further ones; the present anchor where more follow."""
    hash: Bytes32
    digest: Bytes32
    """The running digest of all events, these included."""


def run_digest(before: bytes, event: ChainEvent) -> Digest:
    """The running digest of all events since deployment, after one more. Spec: [CHAIN-DIGEST.1]"""
    return Digest(keccak(before + pack(event)))
