"""What an EVM chain holds, without asking it: from a block that the committee anchored to a word of the contract.

A final header names an EVM block by its hash. That block's header names the state after it, the state the contract's
storage, and the storage the words in it. Spec: [EVM-BLOCK.1] [EVM-SETTLED.1]
"""

from dataclasses import dataclass

from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, keccak
from protocol.light.evm_trie import EvmError, Item, read_item, read_list, read_number, trie_value
from protocol.messages.committee import Header, header_digest
from protocol.messages.handover import EVM_HEADER_BYTES_MAX
from protocol.messages.receipts import EvmProof

ACCEPTED_SLOT = 3
"""Where the contract ``Checkpoints`` keeps what it accepted: a mapping from a header's digest to one word."""

_STATE_ROOT, _NUMBER, _TIMESTAMP = 3, 8, 11
_HEADER_ITEMS_MIN, _HEADER_ITEMS_MAX = 15, 32
"""Each fork of the chain puts its fields behind those that there are."""
_ACCOUNT_ITEMS, _STORAGE_ROOT = 4, 2
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class EvmHeader:
    """As much of an EVM block's header as proofs need."""

    hash: Digest
    number: int
    time_s: int
    state_root: Digest


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the contract keeps of a header that it accepted."""

    time_s: int
    """Of the EVM block that accepted it."""
    epoch: int
    height: int
    sequence: int
    """From 1: how many were accepted up to it."""


def read_block(block: bytes) -> EvmHeader:
    """An EVM block's header in RLP, of any fork. Raises EvmError. Spec: [EVM-BLOCK.1]"""
    if len(block) > EVM_HEADER_BYTES_MAX:
        raise EvmError("block", f"a header of more than {EVM_HEADER_BYTES_MAX} bytes")
    items = read_list("block", block, _HEADER_ITEMS_MAX)
    if len(items) < _HEADER_ITEMS_MIN:
        raise EvmError("block", f"a header has {_HEADER_ITEMS_MIN} fields or more, not {len(items)}")
    number = read_number("block", items[_NUMBER], 8)
    time_s = read_number("block", items[_TIMESTAMP], 8)
    return EvmHeader(Digest(keccak(block)), number, time_s, _hash("block", items[_STATE_ROOT]))


def anchored_block(header: Header, block: bytes) -> EvmHeader:
    """The EVM block at which a final header anchors the ledger. Raises EvmError for any other. Spec: [EVM-BLOCK.1]"""
    found = Digest(keccak(block))
    if found != header.anchor_hash:
        expected, actual = f"0x{header.anchor_hash.hex()}", f"0x{found.hex()}"
        raise EvmError("block", "it is not the block that the header anchors", expected=expected, actual=actual)
    read = read_block(block)
    if read.number != header.anchor_number:
        expected, actual = str(header.anchor_number), str(read.number)
        raise EvmError("block", "the header anchors a block of another number", expected=expected, actual=actual)
    return read


def storage_root(state_root: bytes, contract: bytes, nodes: tuple[bytes, ...]) -> Digest:
    """The root of a contract's storage in a state. Raises EvmError."""
    return read_account(trie_value("account", state_root, contract, nodes))


def read_account(value: bytes) -> Digest:
    """The storage root of an account as a state's trie holds it. Raises EvmError."""
    account = read_list("account", value, _ACCOUNT_ITEMS)
    if len(account) != _ACCOUNT_ITEMS:
        raise EvmError("account", f"an account has {_ACCOUNT_ITEMS} fields, not {len(account)}")
    return _hash("account", account[_STORAGE_ROOT])


def storage_word(root: bytes, slot: bytes, nodes: tuple[bytes, ...]) -> int:
    """What a contract's storage holds at a slot that is not zero. Raises EvmError."""
    return read_number("storage", read_item("storage", trie_value("storage", root, slot, nodes)), 32)


def accepted_slot(digest: bytes) -> bytes:
    """Where ``Checkpoints`` keeps what it accepted of a header. Spec: [EVM-SETTLED.1]"""
    return keccak(ACCEPTED_SLOT.to_bytes(32, "big") + digest)


def read_acceptance(word: int) -> Acceptance:
    """What the contract packs into a word: 64 bits each, the time lowest."""
    return Acceptance(word & _WORD, (word >> 64) & _WORD, (word >> 128) & _WORD, word >> 192)


def check_settled(domain: Domain, checkpoints: NodeId, header: Header, anchored: Header, evm: EvmProof) -> Acceptance:
    """That the contract at ``checkpoints`` had accepted a header by the EVM block that another header anchors.

    Both headers have been found final by the caller; ``anchored`` is that of ``evm.anchored``. Raises EvmError.
    Spec: [EVM-SETTLED.1]
    """
    block = anchored_block(anchored, evm.block)
    root = storage_root(block.state_root, checkpoints, evm.account)
    found = read_acceptance(storage_word(root, accepted_slot(header_digest(domain, header)), evm.storage))
    if (found.epoch, found.height) != (header.epoch, header.height) or not found.sequence:
        expected, actual = f"epoch {header.epoch} height {header.height}", f"epoch {found.epoch} height {found.height}"
        raise EvmError("word", "the contract keeps another place of the header", expected=expected, actual=actual)
    return found


def _hash(part: str, item: Item) -> Digest:
    if item.is_list or len(item.payload) != 32:
        raise EvmError(part, f"a hash of 32 bytes is due, not {len(item.payload)}")
    return Digest(item.payload)
