"""What an oracle keeps of its checkpoints: accounts and names as of each, so that anything in them can be proved later.

A withdrawal is paid by a checkpoint that is older than the contract's challenge window, and an exit by the last one
before the committee died, when the ledger itself has long gone on, or has stopped. Each is kept as what changed since
the one before; the oldest beyond the bound are folded into one.
"""

import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from p2pnode.store import NodeStore, Record, StoreError
from protocol.core.codec import pack, unpack
from protocol.core.errors import P2PNodeError
from protocol.core.ids import Digest
from protocol.core.signing import U8, Bytes32
from protocol.core.sparse import EMPTY_TREE, SparseTree
from protocol.ledger.records import Section
from protocol.messages.committee import Certified
from protocol.messages.results import LedgerProof, Neighbour
from protocol.roles.oracle.followers import Final

log = logging.getLogger(__name__)

KEPT_MAX = 2_048
KEPT_SECTIONS = (Section.ACCOUNTS, Section.NAMES)
QUESTION = "checkpoint"
"""What every question begins with."""

_HEADER, _CHANGES, _BASE = b"checkpoint/header/", b"checkpoint/changes/", b"checkpoint/base/"
_CHANGES_BYTES_MAX = 4 << 20
"""Of one record of the store."""

_Change = tuple[Section, bytes, bytes | None]


class CheckpointError(P2PNodeError):
    """A question about a checkpoint that cannot be answered."""

    code = "control/checkpoint"


class _Stored(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    certified: Certified
    sections: Annotated[tuple[Bytes32, ...], Meta(max_length=16)]


class _StoredChange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    section: U8
    key: bytes
    value: bytes | None


class _StoredChanges(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    changes: tuple[_StoredChange, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A header, and what of its ledger can be proved by it."""

    certified: Certified
    sections: tuple[bytes, ...]
    trees: Mapping[Section, SparseTree]

    @property
    def digest(self) -> Digest:
        """The header's."""
        return Digest(self.certified.certificate.header)

    def prove(self, section: Section, key: bytes) -> LedgerProof:
        """That a key of a section has its value, or none. Spec: [LEDGER-PROOF.1]"""
        value, siblings, beside = self.trees[section].prove(key)
        neighbour = None if beside is None else Neighbour(*beside)
        return LedgerProof(section, key, value, siblings, neighbour, self.sections)


class CheckpointBook:
    """See the module. ``recent`` gives a header that is final here, with its state. Spec: [CHECKPOINT-KEPT.1]"""

    def __init__(self, store: NodeStore, recent: Callable[[Digest], Final | None]) -> None:
        self._store = store
        self._recent = recent
        self._kept: OrderedDict[Digest, Checkpoint] = OrderedDict()
        self._base = dict.fromkeys(KEPT_SECTIONS, EMPTY_TREE)
        """What the oldest one's changes are changes of."""
        self._load()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: Digest) -> Checkpoint | None:
        """A checkpoint that is kept."""
        return self._kept.get(digest)

    @property
    def newest(self) -> Checkpoint | None:
        """The last one."""
        return next(reversed(self._kept.values()), None)

    async def keep(self, digest: Digest) -> None:
        """A header becomes, or has become, a checkpoint: it can be proved from when this returns. One that is not known
        here, or as old as what was folded, is passed over: other oracles have it."""
        final = None if digest in self._kept else self._recent(digest)
        if final is None or (len(self._kept) >= KEPT_MAX and _place(final.certified) < self._places()[0]):
            return
        trees = {section: final.state.tree(section) for section in KEPT_SECTIONS}
        kept = Checkpoint(final.certified, final.state.sections, trees)
        records = self._insert(kept)
        records += self._fold() if len(self._kept) > KEPT_MAX else []
        try:
            await self._store.persist(records)
        except StoreError as error:
            log.warning("a checkpoint was not kept: %s", error)

    def _places(self) -> list[tuple[int, int]]:
        return [_place(kept.certified) for kept in self._kept.values()]

    def _insert(self, kept: Checkpoint) -> list[Record]:
        """In its place: what this oracle would have submitted may stand behind what another one did."""
        at = bisect_left(self._places(), _place(kept.certified))
        held = list(self._kept.values())
        before = held[at - 1].trees if at else self._base
        records: list[Record] = [(_key(_HEADER, kept), pack(_Stored(kept.certified, kept.sections)))]
        records += _records(kept, before)
        if at < len(held):
            records += [(key, None) for key in self._store.load(_key(_CHANGES, held[at]))]
            records += _records(held[at], kept.trees)
        held.insert(at, kept)
        self._kept = OrderedDict((each.digest, each) for each in held)
        return records

    def _fold(self) -> list[Record]:
        """The oldest one goes; what it changed stands in the base from now on."""
        _, oldest = self._kept.popitem(last=False)
        changes = list(_changes(oldest.trees, self._base))
        self._base = dict(oldest.trees)
        gone: list[Record] = [(_key(_HEADER, oldest), None)]
        gone += [(key, None) for key in self._store.load(_key(_CHANGES, oldest))]
        return gone + [(_BASE + bytes([section]) + key, value) for section, key, value in changes]

    def _load(self) -> None:
        for name, value in self._store.load(_BASE).items():
            section, key = Section(name[len(_BASE)]), name[len(_BASE) + 1 :]
            self._base[section] = self._base[section].set(key, value)
        trees = dict(self._base)
        for name, data in self._store.load(_HEADER).items():
            stored = unpack(_Stored, data, limit_bytes=len(data))
            for packed in self._store.load(_CHANGES + name[len(_HEADER) :]).values():
                for change in unpack(_StoredChanges, packed, limit_bytes=len(packed)).changes:
                    section = Section(change.section)
                    trees[section] = trees[section].updated([(change.key, change.value)])
            kept = Checkpoint(stored.certified, stored.sections, dict(trees))
            self._kept[kept.digest] = kept

    # Questions

    def answer(self, question: str) -> dict[str, Any]:
        """``checkpoint:DIGEST:account:ADDRESS`` (or ``name:NAME``): a proof; ``checkpoint``: which are kept. Raises
        CheckpointError."""
        _, _, rest = question.partition(":")
        digits, _, named = rest.partition(":")
        if not digits:
            return {"checkpoints": [_shown(kept) for kept in self._kept.values()]}
        kept = self._find(digits)
        what, _, name = named.partition(":")
        section = {"account": Section.ACCOUNTS, "name": Section.NAMES}.get(what)
        if section is None:
            raise CheckpointError(f"a checkpoint proves no {what[:32]!r}", hint="ask for account or name")
        proof = kept.prove(section, _read_key(section, name))
        return {**_shown(kept), "certified": pack(kept.certified).hex(), "proof": pack(proof).hex()}

    def _find(self, digits: str) -> Checkpoint:
        try:
            kept = self._kept.get(Digest(bytes.fromhex(digits.removeprefix("0x"))))
        except ValueError:
            kept = None
        if kept is None:
            hint = "another oracle may have it, or ask for a later one"
            raise CheckpointError(f"no checkpoint {digits[:64]} is kept here", hint=hint)
        return kept


def _shown(kept: Checkpoint) -> dict[str, Any]:
    header = kept.certified.header
    assert header is not None
    return {"digest": kept.digest.hex(), "epoch": header.epoch, "height": header.height, "deposits": header.deposits}


def _read_key(section: Section, name: str) -> bytes:
    if section is Section.NAMES:
        return name.encode()
    try:
        key = bytes.fromhex(name.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != 20:
        raise CheckpointError(f"{name[:64]!r} is no address", hint="an address is 0x and 40 hexadecimal digits")
    return key


def _place(certified: Certified) -> tuple[int, int]:
    return certified.certificate.epoch, certified.certificate.height


def _key(kind: bytes, kept: Checkpoint) -> bytes:
    return kind + b"".join(number.to_bytes(8, "big") for number in _place(kept.certified))


def _changes(after: Mapping[Section, SparseTree], before: Mapping[Section, SparseTree]) -> Iterable[_Change]:
    return ((section, key, value) for section in KEPT_SECTIONS for key, value in after[section].diff(before[section]))


def _records(kept: Checkpoint, before: Mapping[Section, SparseTree]) -> Iterable[Record]:
    """What a checkpoint changed, in records of a bounded size."""
    page: list[_StoredChange] = []
    size, number = 0, 0
    for section, key, value in _changes(kept.trees, before):
        page.append(_StoredChange(section, key, value))
        size += len(key) + len(value or b"") + 8
        if size > _CHANGES_BYTES_MAX:
            yield _key(_CHANGES, kept) + number.to_bytes(4, "big"), pack(_StoredChanges(tuple(page)))
            page, size, number = [], 0, number + 1
    if page:
        yield _key(_CHANGES, kept) + number.to_bytes(4, "big"), pack(_StoredChanges(tuple(page)))
