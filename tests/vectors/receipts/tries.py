"""Settlements by tries of a few nodes, made by hand: those that hold, and those that break a rule of RLP or tries."""

from collections.abc import Iterator, Sequence
from typing import Any

import rlp

from protocol.core.codec import pack
from protocol.core.signing import keccak
from protocol.light.evm import Acceptance, accepted_slot
from protocol.messages.committee import header_digest
from protocol.messages.receipts import EvmProof, Receipt
from tests.evm_made import CODE, header_of, word_of
from tests.receipts_made import NOW_MS
from tests.vectors.receipts.broken import RECEIPT, Named, other
from tests.vectors.receipts.whole import EVERYTHING, Case, knowing

_CONTRACTS = EVERYTHING.genesis.contracts
assert _CONTRACTS is not None
_ACCOUNT_KEY = keccak(_CONTRACTS.checkpoints)
_HEADER = EVERYTHING.settled_header()
_KEY = keccak(accepted_slot(header_digest(EVERYTHING.domain, _HEADER)))
_NIBBLES = [int(digit, 16) for digit in _KEY.hex()]
_WORD = word_of(Acceptance(NOW_MS // 1_000, _HEADER.epoch, _HEADER.height, 3))
_VALUE = rlp.encode(_WORD)
_ROOT = 3
"""Of an EVM block's fields, the state's; those of number and time are 8 and 11."""


def _evm(block: bytes, account: Sequence[bytes], storage: Sequence[bytes]) -> Receipt:
    anchor = {"anchor_number": 900, "anchor_hash": keccak(block)}
    anchored = EVERYTHING.certify(EVERYTHING.header(EVERYTHING.final_epoch, 80, **anchor))
    receipt: Receipt = other(RECEIPT, "settled.evm", EvmProof(anchored, block, tuple(account), tuple(storage)))
    return receipt


def _leaf(path: bytes, value: Any) -> bytes:
    node: bytes = rlp.encode([path, value])
    return node


def _stored(*storage: bytes, account: bytes | None = None) -> Receipt:
    """The contract's storage is these nodes, the state one leaf."""
    held = rlp.encode([1, 10**18, keccak(storage[0]), CODE]) if account is None else account
    leaf = _leaf(b"\x20" + _ACCOUNT_KEY, held)
    return _evm(header_of(keccak(leaf), 900, NOW_MS // 1_000), [leaf], storage)


def _branch(nibble: int, child: Any) -> bytes:
    node: bytes = rlp.encode([child if place == nibble else b"" for place in range(16)] + [b""])
    return node


def _odd(flag: int, nibbles: Sequence[int]) -> bytes:
    """A path of nibbles, as many as are odd."""
    return bytes.fromhex("".join(f"{nibble:x}" for nibble in (flag, *nibbles)))


def whole_tries() -> Iterator[Case]:
    """Small tries that hold."""
    leaf = _leaf(b"\x20" + _KEY, _VALUE)
    low = _leaf(_odd(3, _NIBBLES[3:]), _VALUE)
    branch = _branch(_NIBBLES[2], keccak(low))
    for name, receipt in (
        ("one leaf", _stored(leaf)),
        ("an extension, a branch and a leaf", _stored(_leaf(b"\x00" + _KEY[:1], keccak(branch)), branch, low)),
        ("branches and a short leaf inside the last", _stored(*_deep())),
    ):
        yield Case(f"settled by {name}", EVERYTHING, receipt, knowing(EVERYTHING))


def _deep(child: Any = None) -> list[bytes]:
    """An extension down to the last nibble but one, a branch, and what stands in it: by itself a leaf of no nibble."""
    inside = [b"\x20", _VALUE] if child is None else child
    return _under(_branch(_NIBBLES[63], inside))


def _under(node: bytes) -> list[bytes]:
    return [_leaf(_odd(1, _NIBBLES[:63]), keccak(node)), node]


def broken_tries() -> Named:
    """The nodes are those that are named, and make no trie that holds the word."""
    path, leaf = b"\x20" + _KEY, _leaf(b"\x20" + _KEY, _VALUE)
    assert leaf[0] == 0xF8, "the cases below write its length otherwise"
    for name, storage in (
        ("a word with a leading zero", [_leaf(path, b"\xa0" + b"\0" * 32)]),
        ("a word of 33 bytes", [_leaf(path, rlp.encode(b"\1" * 33))]),
        ("a word that is a list", [_leaf(path, rlp.encode([b"\1"]))]),
        ("a word with something behind it", [_leaf(path, _VALUE + b"\1")]),
        ("no word", [_leaf(path, b"")]),
        ("a leaf that holds a list", [_leaf(path, [b"\1"])]),
        ("a leaf of another key", [_leaf(b"\x20" + keccak(b"another"), _VALUE)]),
        ("a leaf of a shorter key", [_leaf(b"\x20" + _KEY[:-1], _VALUE)]),
        ("a leaf of a longer key", [_leaf(path + b"\0", _VALUE)]),
        ("a leaf of a key that is much longer", [_leaf(path + bytes(2), _VALUE)]),
        ("an extension for a leaf", [_leaf(b"\x00" + _KEY, _VALUE)]),
        ("an even path that says something else", [_leaf(b"\x21" + _KEY, _VALUE)]),
        ("a path with a mark that is none", [_leaf(b"\x40" + _KEY, _VALUE)]),
        ("no path", [_leaf(b"", _VALUE)]),
        ("a path that is a list", [rlp.encode([[b"\x20"], _VALUE])]),
        ("an extension that leads nowhere", [_leaf(b"\x00", keccak(leaf)), leaf]),
        ("an extension that leads aside", [_leaf(b"\x00" + bytes([_KEY[0] ^ 1]), keccak(leaf))]),
        ("a branch without the child", [_branch((_NIBBLES[0] + 1) % 16, keccak(leaf))]),
        ("a child that is named by 31 bytes", [_branch(_NIBBLES[0], keccak(leaf)[1:])]),
        ("a child that stands inside, and is too long", [_branch(_NIBBLES[0], [_odd(3, _NIBBLES[1:]), _VALUE])]),
        ("a branch below the end of the key", _under(_branch(_NIBBLES[63], [b"\x20", [b"\1"] * 16]))),
        ("a branch that stands where the key has ended", _deep([b""] * 17)),
        ("three items", [rlp.encode([path, _VALUE, b""])]),
        ("eighteen items", [rlp.encode([b""] * 18)]),
        ("a string", [rlp.encode(b"\1" * 40)]),
        ("something behind it", [leaf + b"\x80"]),
        ("the end cut off", [leaf[:-1]]),
        ("a length in two bytes where one does", [b"\xf9\0" + leaf[1:]]),
        ("a length that is longer than it says", [b"\xff" + b"\xff" * 8 + leaf[2:]]),
        ("a length in a byte where none is due", [b"\xf8\x02\x20\x01"]),
        ("a byte in two", [b"\xc4\x81\x20\x81\x01"]),
        ("nothing", [b""]),
    ):
        yield f"in a trie of {name}", pack(_stored(*storage))
    yield from _broken_accounts(leaf)


def _broken_accounts(leaf: bytes) -> Named:
    root = keccak(leaf)
    for name, account in (
        ("three fields", [1, 0, root]),
        ("five fields", [1, 0, root, CODE, b""]),
        ("a root of 31 bytes", [1, 0, root[1:], CODE]),
        ("a root that is a list", [1, 0, [root], CODE]),
    ):
        yield f"in an account of {name}", pack(_stored(leaf, account=rlp.encode(account)))
    held = _leaf(b"\x20" + _ACCOUNT_KEY, rlp.encode([1, 10**18, root, CODE]))
    fields = rlp.decode(header_of(keccak(held), 900, NOW_MS // 1_000))
    for name, block in (
        ("fourteen fields", fields[:14]),
        ("thirty-three fields", [*fields, *[b""] * (33 - len(fields))]),
        ("a number with a leading zero", _with(fields, 8, b"\0" + fields[8])),
        ("a number of nine bytes", _with(fields, 8, b"\1" * 9)),
        ("a time that is a list", _with(fields, 11, [fields[11]])),
        ("a state of 31 bytes", _with(fields, _ROOT, fields[_ROOT][1:])),
        ("another state", _with(fields, _ROOT, keccak(b"another"))),
    ):
        yield f"in a block of {name}", pack(_evm(rlp.encode(block), [held], [leaf]))


def _with(fields: Sequence[Any], place: int, field: Any) -> list[Any]:
    return [*fields[:place], field, *fields[place + 1 :]]
