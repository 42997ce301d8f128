"""Where the chain lies among a node's durable records.

``open/`` holds what is not final yet, and is small; ``chain/`` one record a finalized height, for ``sync`` and to
execute again; ``state`` the last snapshot of the ledger: at the beginning of each epoch, and whenever
``snapshot_blocks`` heights have become final since. Finalizing moves blocks from the first to the second, and writes
the snapshot that is due, in one batch, so the chain ends where it ends on disk.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.committee.members import Committee
from protocol.committee.tree import Base, Tree
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError
from protocol.core.signing import U32, U64, Bytes20
from protocol.messages.committee import Block, Certificate, Certified, Header, SignedBatch

FIRST_EPOCH = 1

OPEN_BLOCK = b"open/block/"
OPEN_CERTIFICATE = b"open/certificate/"
OPEN_BATCH = b"open/batch/"
CHAIN = b"chain/"
STATE = b"state"
STATE_PART = STATE + b"/part/"

Load = Callable[[bytes], Mapping[bytes, bytes]]
"""A node's own durable records whose key starts so."""

Record = tuple[bytes, bytes | None]

RECORD_BYTES_MAX = 16 << 20
PART_BYTES = 4 << 20
HEIGHTS_A_STEM = 256
"""Heights whose keys in the chain differ in the last byte alone."""


class StoredState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last snapshot: after which block, and in how many parts the ledger's state lies beside this.

    ``closing`` is what closed the epoch before, if any. Spec: [STATE-SNAPSHOT.1]
    """

    epoch: U64
    header: Header
    parts: U32
    members: Annotated[tuple[Bytes20, ...], Meta(max_length=31)]
    certificate: Certificate | None
    closing: Certified | None


def open_block_key(epoch: int, height: int, digest: bytes) -> bytes:
    """Of a block that is not final."""
    return OPEN_BLOCK + _slot(epoch, height) + digest


def open_certificate_key(certificate: Certificate) -> bytes:
    """Of a certificate above the finalized chain's end."""
    return OPEN_CERTIFICATE + _slot(certificate.epoch, certificate.height) + bytes([certificate.kind])


def open_batch_key(signed: SignedBatch) -> bytes:
    """Of a batch of this node that is not final."""
    return OPEN_BATCH + _slot(signed.batch.home_epoch, signed.batch.number)


def chain_key(epoch: int, height: int) -> bytes:
    """Of a finalized block."""
    return CHAIN + _slot(epoch, height)


def block_record(tree: Tree, digest: bytes) -> Record:
    """A block that is not final."""
    header = tree.headers[digest]
    return open_block_key(header.epoch, header.height, digest), pack(Block(header, tree.bodies[digest]))


def settled_records(tree: Tree, certificate: Certificate) -> list[Record]:
    """Moves the blocks up to a finalized one into the chain, each with its best certificate, and drops what lay
    beside them."""
    low, high, digest = tree.base.header.height, certificate.height, certificate.header
    records: list[Record] = []
    while digest != tree.base.digest:
        header = tree.headers[digest]
        best = tree.finalizations.get(header.height) or tree.certified(digest, header.height)
        records.append((chain_key(header.epoch, header.height), pack(Block(header, tree.bodies[digest], best))))
        digest = header.parent
    for name, header in tree.headers.items():
        if low < header.height <= high:
            records.append((open_block_key(header.epoch, header.height, name), None))
    epoch = tree.base.header.epoch
    records += [(open_block_key(epoch, height, name), None) for height, name in tree.dropped]
    passed = [held for held in tree.certificates(above=low) if held.height <= high]
    return records + [(open_certificate_key(held), None) for held in passed]


def state_records(
    committee: Committee, base: Base, certificate: Certificate | None, closing: Certified | None
) -> list[Record]:
    """A snapshot of where the finalized chain ends, and by which certificate, or by what the epoch before was closed.

    Parts of an older one that was longer stay behind, and are never read.
    """
    packed = base.state.pack()
    parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
    stored = StoredState(committee.epoch, base.header, len(parts), committee.members, certificate, closing)
    records: list[Record] = [(_part_key(number), part) for number, part in enumerate(parts)]
    return [*records, (STATE, pack(stored))]


def packed_state(stored: StoredState, records: Mapping[bytes, bytes | None]) -> bytes:
    """The ledger's state of a snapshot. Raises DecodeError if a part is missing."""
    parts = [records.get(_part_key(number)) or b"" for number in range(stored.parts)]
    if not all(parts):
        raise DecodeError("a part of the ledger's state is missing")
    return b"".join(parts)


def resumed_from(load: Load, snapshot_blocks: int) -> dict[bytes, bytes]:
    """What a node goes on from: its last snapshot, the blocks after it, and what is not final."""
    records = {**load(STATE), **load(OPEN_BLOCK), **load(OPEN_CERTIFICATE)}
    stored = unpack_state(records[STATE]) if STATE in records else None
    epoch, height = (FIRST_EPOCH, 0) if stored is None else (stored.epoch, stored.header.height)
    for stem in range((height + 1) // HEIGHTS_A_STEM, (height + snapshot_blocks) // HEIGHTS_A_STEM + 1):
        records.update(load(_slot_prefix(epoch) + stem.to_bytes(7, "big")))
    return records


def chain_after(records: Mapping[bytes, bytes], epoch: int, height: int) -> list[Block]:
    """The finalized blocks of an epoch above a height, the lowest first. Raises DecodeError."""
    first, prefix = chain_key(epoch, height), _slot_prefix(epoch)
    return [unpack_block(records[key]) for key in sorted(records) if key > first and key.startswith(prefix)]


def unpack_block(data: bytes) -> Block:
    """Raises DecodeError."""
    return unpack(Block, data, limit_bytes=RECORD_BYTES_MAX)


def unpack_certificate(data: bytes) -> Certificate:
    """Raises DecodeError."""
    return unpack(Certificate, data, limit_bytes=RECORD_BYTES_MAX)


def unpack_batch(data: bytes) -> SignedBatch:
    """Raises DecodeError."""
    return unpack(SignedBatch, data, limit_bytes=RECORD_BYTES_MAX)


def unpack_state(data: bytes) -> StoredState:
    """Raises DecodeError."""
    return unpack(StoredState, data, limit_bytes=RECORD_BYTES_MAX)


def _part_key(number: int) -> bytes:
    return STATE_PART + number.to_bytes(4, "big")


def _slot_prefix(epoch: int) -> bytes:
    return CHAIN + epoch.to_bytes(8, "big")


def _slot(epoch: int, height: int) -> bytes:
    return epoch.to_bytes(8, "big") + height.to_bytes(8, "big")
