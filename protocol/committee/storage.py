"""Where the chain lies among a node's durable records.

``open/`` holds what is not final yet, and is small; ``chain/`` one record a finalized height, for ``sync``;
``state`` where the finalized chain ends and the ledger's state there. Finalizing moves blocks from the first to the
second together with the state, in one batch.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.committee.tree import Tree
from protocol.core.codec import pack, unpack
from protocol.core.signing import U64, Bytes20
from protocol.messages.committee import Block, Certificate, Certified, Header, SignedBatch

OPEN_BLOCK = b"open/block/"
OPEN_CERTIFICATE = b"open/certificate/"
OPEN_BATCH = b"open/batch/"
CHAIN = b"chain/"
STATE = b"state"

Record = tuple[bytes, bytes | None]

RECORD_BYTES_MAX = 16 << 20


class StoredState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where the finalized chain ends. ``closing`` is what closed the epoch before, if any."""

    epoch: U64
    header: Header
    state: bytes
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


def _slot(epoch: int, height: int) -> bytes:
    return epoch.to_bytes(8, "big") + height.to_bytes(8, "big")
