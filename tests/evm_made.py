"""Proofs from an EVM chain, made without one: a contract that accepted some headers, in a block among other accounts.

The same arguments give the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import rlp
from trie import HexaryTrie

from protocol.core.ids import Digest, NodeId
from protocol.core.signing import keccak
from protocol.light.evm import Acceptance, accepted_slot
from protocol.light.evm_trie import TrieWalk
from protocol.messages.committee import Certified
from protocol.messages.receipts import EvmProof

STRANGERS = 40
"""Accounts beside the contract, and headers beside the one that is looked for: so the tries have some depth."""
CODE = keccak(b"code")


def word_of(accepted: Acceptance) -> int:
    """As the contract packs it."""
    parts = (accepted.time_s, accepted.epoch, accepted.height, accepted.sequence)
    return sum(part << 64 * place for place, part in enumerate(parts))


def storage_of(words: dict[bytes, int]) -> HexaryTrie:
    """A storage with words at slots."""
    trie = HexaryTrie({})
    for slot, word in words.items():
        trie[keccak(slot)] = rlp.encode(word)
    return trie


def state_of(accounts: dict[bytes, bytes]) -> HexaryTrie:
    """A state with accounts, each by its storage's root."""
    trie = HexaryTrie({})
    for place, (address, root) in enumerate(accounts.items()):
        trie[keccak(address)] = rlp.encode([1, 10**18 + place, root, CODE])
    return trie


def path_in(trie: HexaryTrie, key: bytes) -> tuple[bytes, ...]:
    """The nodes on the way to a key, as endpoints give them."""
    walk, nodes = TrieWalk("made", trie.root_hash, key), list[bytes]()
    while walk.wants is not None:
        nodes.append(trie.db[walk.wants])
        walk.take(nodes[-1])
    return tuple(nodes)


def header_of(state_root: bytes, number: int, time_s: int) -> bytes:
    """A block's header in RLP, with the fields of all forks up to Prague."""
    first = [keccak(b"parent"), keccak(b"uncles"), bytes(20), state_root, keccak(b"transactions"), keccak(b"receipts")]
    middle = [bytes(256), 0, number, 30_000_000, 21_000, time_s, b"made", keccak(b"random"), bytes(8)]
    later = [7, keccak(b"withdrawals"), 0, 0, keccak(b"beacon"), keccak(b"requests")]
    encoded: bytes = rlp.encode([*first, *middle, *later])
    return encoded


@dataclass(frozen=True)
class MadeBlock:
    """A block of an EVM chain with the contract ``Checkpoints`` in it."""

    number: int
    block: bytes
    """Its header in RLP."""
    state: HexaryTrie
    storage: HexaryTrie
    contract: NodeId

    @property
    def hash(self) -> Digest:
        """What a header of ours names as its anchor."""
        return Digest(keccak(self.block))

    def proof(self, digest: bytes, anchored: Certified) -> EvmProof:
        """That the contract accepted a header."""
        account, storage = path_in(self.state, self.contract), path_in(self.storage, accepted_slot(digest))
        return EvmProof(anchored, self.block, account, storage)


def make_block(contract: NodeId, accepted: Sequence[tuple[bytes, Acceptance]], number: int, time_s: int) -> MadeBlock:
    """A block after which the contract holds these digests, and those of some other headers."""
    others = [
        (keccak(b"header" + bytes([place])), Acceptance(place, 1, place, place + 1)) for place in range(STRANGERS)
    ]
    words = {accepted_slot(digest): word_of(each) for digest, each in (*others, *accepted)}
    storage = storage_of({bytes(32): 1, **words})
    empty = HexaryTrie({}).root_hash
    accounts = {keccak(b"account" + bytes([place]))[:20]: empty for place in range(STRANGERS)}
    state = state_of({**accounts, contract: storage.root_hash})
    return MadeBlock(number, header_of(state.root_hash, number, time_s), state, storage, contract)
