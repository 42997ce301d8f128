"""Reads what may hold contradictions: receipts, evidence files, session records, and the folders of oracles."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pnode.oracle_records import stored_genesis
from p2pnode.store import DATABASE, StoreError, read_store
from p2pnode.stored_chain import stored_blocks
from protocol.committee import storage
from protocol.core.codec import unpack
from protocol.core.errors import DecodeError, P2PNodeError, ParameterError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.messages.evidence import EVIDENCE_FILE_BYTES_MAX, PIECE_BYTES_MAX, EvidenceFile
from protocol.messages.receipts import RECEIPT_BYTES_MAX, RECEIPT_FORMAT, Receipt
from protocol.results.contradictions import Statements
from protocol.results.convictions import pack_file, pieces_of, unpack_file, unpack_piece
from protocol.session.record import RECORD_BYTES_MAX, SessionRecord
from protocol.settlement.docket import EVIDENCE

BLOCKS_MAX = 10_000
"""The newest of an oracle's chain that are looked at."""
PAPERS_MAX = 256
BYTES_MAX = max(RECEIPT_BYTES_MAX, EVIDENCE_FILE_BYTES_MAX, RECORD_BYTES_MAX)


class NoPaper(P2PNodeError):
    """What was named is nothing that could hold a contradiction, or not of the others' network."""

    code = "evidence/no-paper"


@dataclass
class Papers:
    """All statements of some papers of one network."""

    genesis: Genesis
    statements: Statements
    read: list[tuple[Path, str]] = field(default_factory=list)
    """Each paper, and what it is."""


Add = Callable[[Statements], None]


def read_papers(paths: Sequence[Path]) -> Papers:
    """The papers at these places (untrusted). Raises NoPaper, StoreError, OSError."""
    if len(paths) > PAPERS_MAX:
        raise NoPaper(f"{len(paths)} papers, at most {PAPERS_MAX} are held against each other", hint="name fewer")
    papers: Papers | None = None
    for path in paths:
        genesis, what, add = _read_folder(path) if path.is_dir() else _read_file(path)
        if papers is None:
            papers = Papers(genesis, Statements(genesis.domain()))
        if genesis.network_id() != papers.genesis.network_id():
            raise NoPaper(
                f"{path} is of the network {genesis.network_id().hex()[:16]}, {paths[0]} of "
                f"{papers.genesis.network_id().hex()[:16]}",
                hint="what is signed in one network contradicts nothing in another: name papers of one",
            )
        add(papers.statements)
        papers.read.append((path, what))
    if papers is None:
        raise NoPaper("no paper is named", hint="name receipts, evidence files or oracles' folders")
    return papers


def read_evidence(path: Path) -> tuple[Genesis, EvidenceFile]:
    """An evidence file (untrusted) and its network. Raises NoPaper, OSError."""
    try:
        file = unpack_file(_bytes_of(path))
        return parse_genesis(file.genesis), file
    except (DecodeError, ParameterError) as error:
        raise NoPaper(f"{path} is no evidence file: {error}", hint="`p2pnode evidence make` writes one") from error


def write_evidence(path: Path, file: EvidenceFile) -> None:
    """Write it whole or not at all. Raises OSError."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(pack_file(file))
    os.replace(draft, path)


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BYTES_MAX + 1)


def _read_file(path: Path) -> tuple[Genesis, str, Add]:
    data = _bytes_of(path)
    for attempt in (_as_evidence, _as_receipt, _as_record):
        try:
            genesis, what, add = attempt(data)
        except DecodeError:
            continue
        try:
            return parse_genesis(genesis), what, add
        except ParameterError as error:
            raise NoPaper(f"{path}: its network cannot be read: {error}", hint="leave it out") from error
    raise NoPaper(
        f"{path} is no receipt, evidence file or session record",
        hint="`p2pnode chat --receipt FILE` writes a receipt; a folder is read as an oracle's",
    )


def _as_evidence(data: bytes) -> tuple[str, str, Add]:
    file = unpack_file(data)
    pieces = pieces_of(file)

    def add(statements: Statements) -> None:
        for piece in pieces:
            statements.evidence(piece)

    return file.genesis, f"{len(pieces)} pieces of evidence", add


def _as_receipt(data: bytes) -> tuple[str, str, Add]:
    receipt = unpack(Receipt, data, limit_bytes=RECEIPT_BYTES_MAX)
    if receipt.format != RECEIPT_FORMAT:
        raise DecodeError(f"a receipt of format {receipt.format}, known is {RECEIPT_FORMAT}")
    what = f"the receipt of session {receipt.order.session.hex()[:16]}, task {receipt.order.task}"
    return receipt.genesis, what, lambda statements: statements.receipt(receipt)


def _as_record(data: bytes) -> tuple[str, str, Add]:
    record = unpack(SessionRecord, data, limit_bytes=RECORD_BYTES_MAX)
    what = "a session record: of its bids and assignments no kind of evidence speaks (`p2pnode explain --bid`)"
    return record.genesis, what, lambda _: None


def _read_folder(folder: Path) -> tuple[Genesis, str, Add]:
    genesis = stored_genesis(folder) if (folder / DATABASE).exists() else None
    if genesis is None:
        raise NoPaper(f"no oracle has worked in {folder}", hint="name the folder of an oracle: its --state-dir")
    try:
        blocks = stored_blocks(folder, BLOCKS_MAX)
        blocks += [storage.unpack_block(data) for data in read_store(folder, storage.OPEN_BLOCK).values()]
        certificates = read_store(folder, storage.OPEN_CERTIFICATE).values()
        open_certificates = [storage.unpack_certificate(data) for data in certificates]
        batches = [storage.unpack_batch(data) for data in read_store(folder, storage.OPEN_BATCH).values()]
        kept = read_store(folder, EVIDENCE).values()
        pieces = [unpack_piece(data, limit_bytes=PIECE_BYTES_MAX) for data in kept]
    except DecodeError as error:
        raise StoreError(f"the chain in {folder} cannot be read: {error}") from error

    def add(statements: Statements) -> None:
        for block in blocks:
            statements.block(block)
        for certificate in open_certificates:
            statements.certificate(certificate)
        for batch in batches:
            statements.batch(batch)
        for piece in pieces:
            statements.evidence(piece)

    return genesis, f"an oracle's chain: {len(blocks)} blocks, {len(pieces)} pieces of evidence", add
