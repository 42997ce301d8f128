"""RLP and Merkle-Patricia tries, as far as a proof from an EVM chain is read: whatever comes in, a value or a refusal.

Nothing here recurses, and each step takes a nibble of a key of 32 bytes: hostile bytes cost no more than honest ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

from protocol.core.errors import RemoteProtocolError
from protocol.core.signing import keccak

_SHORT, _LONG, _LIST = 0x80, 0xB7, 0xC0
_KEY_BYTES = 32
_BRANCH_ITEMS, _PATH_ITEMS = 17, 2
_HASH_BYTES = 32


class EvmError(RemoteProtocolError):
    """A proof from an EVM chain that does not hold; ``part`` names where: ``block``, ``account``, ``storage`` or
    ``word``. ``expected`` and ``actual`` are empty where there is nothing to compare."""

    code = "remote/evm"

    def __init__(self, part: str, message: str, *, expected: str = "", actual: str = "") -> None:
        compared = f": expected {expected}, actual {actual}" if expected or actual else ""
        super().__init__(f"{part}: {message}{compared}")
        self.part = part
        self.why = message
        self.expected = expected
        self.actual = actual


class AbsentKey(EvmError):
    """A proof that shows that a trie does not hold the key."""

    code = "remote/evm-absent"


class Item(NamedTuple):
    """One item of an RLP list."""

    is_list: bool
    payload: bytes
    """The string itself; of a list what it is made of."""
    raw: bytes
    """All of it, with its prefix."""


def read_list(part: str, data: bytes, items_max: int) -> tuple[Item, ...]:
    """The items of the one RLP list that all of ``data`` is. Raises EvmError. Spec: [EVM-RLP.1]"""
    whole = read_item(part, data)
    if not whole.is_list:
        raise EvmError(part, "it is not one RLP list")
    found: list[Item] = []
    start = 0
    while start < len(whole.payload):
        if len(found) == items_max:
            raise EvmError(part, f"an RLP list of more than {items_max} items")
        item, start = _item(part, whole.payload, start)
        found.append(item)
    return tuple(found)


def read_item(part: str, data: bytes) -> Item:
    """The one RLP item that all of ``data`` is. Raises EvmError. Spec: [EVM-RLP.1]"""
    item, end = _item(part, data, 0)
    if end != len(data):
        raise EvmError(part, f"{len(data) - end} bytes follow its RLP")
    return item


def _item(part: str, data: bytes, start: int) -> tuple[Item, int]:
    """The item that begins here, and where the next one does. Only the shortest encoding of anything is one."""
    if start >= len(data):
        raise EvmError(part, "its RLP is cut off")
    first = data[start]
    if first < _SHORT:
        return Item(False, data[start : start + 1], data[start : start + 1]), start + 1
    is_list = first >= _LIST
    size = first - (_LIST if is_list else _SHORT)
    begin = start + 1
    if size > _LONG - _SHORT:
        width = size - (_LONG - _SHORT)
        written = data[begin : begin + width]
        size, begin = int.from_bytes(written, "big"), begin + width
        if len(written) != width or written[0] == 0 or size <= _LONG - _SHORT:
            raise EvmError(part, "its RLP writes a length otherwise than the shortest way, or is cut off")
    end = begin + size
    if end > len(data):
        raise EvmError(part, "its RLP is cut off")
    if not is_list and size == 1 and data[begin] < _SHORT:
        raise EvmError(part, "its RLP writes a byte otherwise than the shortest way")
    return Item(is_list, data[begin:end], data[start:end]), end


def read_number(part: str, item: Item, bytes_max: int) -> int:
    """An item as a number, written without leading zeros. Raises EvmError."""
    if item.is_list or len(item.payload) > bytes_max or item.payload[:1] == b"\0":
        raise EvmError(part, f"an RLP number of at most {bytes_max} bytes is due")
    return int.from_bytes(item.payload, "big")


def trie_value(part: str, root: bytes, key: bytes, nodes: Sequence[bytes]) -> bytes:
    """What the trie of a root holds under keccak(key), by the nodes on the way there: all of them, and no others.

    Raises EvmError, and of it AbsentKey where the nodes show that the trie does not hold it. Spec: [EVM-TRIE.1]
    """
    walk = TrieWalk(part, root, key)
    for used, node in enumerate(nodes):
        if walk.wants is None:
            raise EvmError(part, f"of {len(nodes)} nodes only the first {used} are on the way to the key")
        found = keccak(node)
        if found != walk.wants:
            expected, actual = f"0x{walk.wants.hex()}", f"0x{found.hex()}"
            raise EvmError(part, f"node {used} is not the one that is named", expected=expected, actual=actual)
        walk.take(node)
    if walk.wants is not None:
        raise EvmError(part, f"the node 0x{walk.wants.hex()} is missing, or more")
    if walk.value is None:
        raise AbsentKey(part, "the trie does not hold the key")
    return walk.value


class TrieWalk:
    """The way from a trie's root to a key: which node comes next, and in the end what is there."""

    def __init__(self, part: str, root: bytes, key: bytes) -> None:
        self._part = part
        self._rest = keccak(key).hex()
        """The nibbles of the hashed key that are left."""
        self.wants: bytes | None = root
        """The hash of the next node; None at the end."""
        self.value: bytes | None = None
        """What the trie holds; at the end None means nothing."""

    def take(self, node: bytes) -> None:
        """The node that is wanted, and those that are written inside it. Raises EvmError."""
        self.wants = None
        inside: Item | None = Item(True, b"", node)
        while inside is not None:
            inside = self._step(inside.raw)

    def _step(self, node: bytes) -> Item | None:
        """One node; the next one if that stands inside it."""
        items = read_list(self._part, node, _BRANCH_ITEMS)
        if len(items) == _BRANCH_ITEMS:
            if not self._rest:
                raise EvmError(self._part, "a branch lies deeper than any key leads")
            nibble, self._rest = int(self._rest[0], 16), self._rest[1:]
            return self._child(items[nibble])
        if len(items) != _PATH_ITEMS:
            raise EvmError(self._part, f"a trie's node has {_PATH_ITEMS} or {_BRANCH_ITEMS} items, not {len(items)}")
        leaf, path = self._path(items[0])
        if leaf:
            if items[1].is_list:
                raise EvmError(self._part, "a leaf holds a list")
            self.value = items[1].payload if path == self._rest else None
            return None
        if not path:
            raise EvmError(self._part, "an extension that leads nowhere")
        if not self._rest.startswith(path):
            return None
        self._rest = self._rest[len(path) :]
        return self._child(items[1])

    def _child(self, item: Item) -> Item | None:
        if item.is_list:
            if len(item.raw) >= _HASH_BYTES:
                raise EvmError(self._part, "a node stands inside another one that would be named by its hash")
            return item
        if item.payload:
            if len(item.payload) != _HASH_BYTES:
                raise EvmError(self._part, f"a node is named by {_HASH_BYTES} bytes, not {len(item.payload)}")
            self.wants = item.payload
        return None

    def _path(self, item: Item) -> tuple[bool, str]:
        """Whether a node is a leaf, and the nibbles that it stands for."""
        written = item.payload.hex()
        if item.is_list or not written or len(item.payload) > _KEY_BYTES + 1:
            raise EvmError(self._part, "a node without a path, or with one longer than any key")
        flag = int(written[0], 16)
        odd, leaf = flag & 1, flag & 2
        if flag > 3 or (not odd and written[1] != "0"):
            raise EvmError(self._part, "a node's path begins with what is no mark of one")
        return bool(leaf), written[2 - odd :]
