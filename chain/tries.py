"""The way through a Merkle-Patricia trie to a key, picked out of whatever nodes there are: a proof, or that there is
nothing there."""

from collections.abc import Callable
from typing import NamedTuple

from protocol.light.evm_trie import EvmError, TrieWalk

EMPTY_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
"""Of a trie without a key: keccak of an empty RLP string."""


class Way(NamedTuple):
    """What leads to a key."""

    nodes: tuple[bytes, ...]
    value: bytes | None
    """None: nothing is there, and the nodes show it."""


def way_to(part: str, root: bytes, key: bytes, node_of: Callable[[bytes], bytes | None]) -> Way:
    """The nodes from a root to a key, each found by its hash. Raises EvmError if one is missing, or is none."""
    if root == EMPTY_ROOT:
        return Way((), None)
    walk, nodes = TrieWalk(part, root, key), list[bytes]()
    while walk.wants is not None:
        node = node_of(walk.wants)
        if node is None:
            raise EvmError(part, f"the node 0x{walk.wants.hex()} is missing")
        nodes.append(node)
        walk.take(node)
    return Way(tuple(nodes), walk.value)
