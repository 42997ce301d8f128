"""What oracles left on their disks, compared: ``python -m tests.runtime.compare_disks FOLDER...``; they must be down.

No two of them have another block final in one slot, every chain is one, and every signature that any of them holds or
has heard (``listening_oracle`` writes down all) is in its signer's log, so that no crash makes it sign another thing.
"""

import argparse
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from p2pnode.oracle_records import stored_genesis
from p2pnode.signer_file import BESIDE
from p2pnode.store import DATABASE, read_store
from p2pnode.stored_chain import stored_blocks
from protocol.committee import storage
from protocol.committee.certificates import statement_signer, statements_of, verify_batch
from protocol.committee.signer import SILENCE, Signer
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId, Signature
from protocol.core.signing import Domain
from protocol.messages.committee import Certificate, CertificateKind, SignedBatch, Statement, header_digest
from tests.runtime.listening_oracle import HEARD, Signed, heard

NOBODY: Set[NodeId] = frozenset()

Slot = tuple[int, int]


@dataclass
class Found:
    """What a comparison came to. ``wrong`` is empty if all is well."""

    wrong: list[str] = field(default_factory=list)
    blocks: int = 0
    signatures: int = 0
    excused: int = 0
    """Of keys whose log was lost later; they are silent in those epochs."""


class Disk:
    """One oracle's folder."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.genesis = stored_genesis(folder)
        self.blocks = stored_blocks(folder)
        records = {**read_store(folder, storage.OPEN_BLOCK), **read_store(folder, storage.OPEN_CERTIFICATE)}
        self.open_blocks = [storage.unpack_block(data) for name, data in records.items() if _is_block(name)]
        self.open_certificates = [
            storage.unpack_certificate(data) for name, data in records.items() if not _is_block(name)
        ]
        self.signers = dict(_signer_logs(folder))
        self.heard: list[Signed] = list(heard(folder / HEARD)) if (folder / HEARD).exists() else []

    def signed(self) -> Iterator[Signed]:
        """Every signature of which this oracle knows."""
        certificates = [block.certificate for block in (*self.blocks, *self.open_blocks) if block.certificate]
        yield from certificates
        yield from self.open_certificates
        yield from self.heard

    def final(self, domain: Domain) -> Iterator[tuple[Slot, bytes]]:
        """Every block that is final here, executed or not."""
        for block in self.blocks:
            yield (block.header.epoch, block.header.height), header_digest(domain, block.header)
        for certificate in self.open_certificates:
            if certificate.kind is CertificateKind.FINALIZATION:
                yield (certificate.epoch, certificate.height), certificate.header


def compare(folders: Sequence[Path], liars: Set[NodeId] = NOBODY) -> Found:
    """Compare the disks of oracles of one network; nobody expects a liar to keep a log."""
    disks = [Disk(folder) for folder in folders if (folder / DATABASE).exists()]
    genesis = next((disk.genesis for disk in disks if disk.genesis is not None), None)
    found = Found()
    if genesis is None:
        found.wrong.append("there is no chain in any of these folders")
        return found
    _compare_chains(disks, genesis, found)
    _compare_signatures(disks, genesis, liars, found)
    return found


def _compare_chains(disks: Sequence[Disk], genesis: Genesis, found: Found) -> None:
    domain = genesis.domain()
    final: dict[Slot, tuple[bytes, str]] = {}
    for disk in disks:
        if disk.genesis != genesis:
            found.wrong.append(f"{disk.name} is of another network")
        for slot, digest in disk.final(domain):
            known, where = final.setdefault(slot, (digest, disk.name))
            if known != digest:
                found.wrong.append(f"CONFLICT: {slot[0]}/{slot[1]} is another block at {disk.name} than at {where}")
        for before, after in zip(disk.blocks, disk.blocks[1:], strict=False):
            linked = after.header.parent == header_digest(domain, before.header)
            if after.header.epoch == before.header.epoch and not linked:
                found.wrong.append(f"{disk.name}: {after.header.height} does not follow {before.header.height}")
    found.blocks = len(final)


def _compare_signatures(disks: Sequence[Disk], genesis: Genesis, liars: Set[NodeId], found: Found) -> None:
    domain = genesis.domain()
    logs: dict[NodeId, tuple[Signer, int]] = {}
    for disk in disks:
        for node, (records, silent_before) in disk.signers.items():
            if node in liars:
                continue
            logs[node] = (Signer(domain, node, _no_key, _statements_and_batches(records)), silent_before)
    seen: set[tuple[object, ...]] = set()
    for disk in disks:
        for signed in disk.signed():
            for one in _taken_apart(signed):
                if (key := _identity(one)) not in seen:
                    seen.add(key)
                    _look_up(one, domain, logs, f"seen by {disk.name}", found)


def _look_up(
    one: Statement | SignedBatch, domain: Domain, logs: dict[NodeId, tuple[Signer, int]], where: str, found: Found
) -> None:
    try:
        signer, epoch = _signer_of(domain, one)
    except RemoteProtocolError:
        return  # nobody's signature: forged on the way
    if signer not in logs:
        return
    found.signatures += 1
    log, silent_before = logs[signer]
    if epoch < silent_before:
        found.excused += 1
        return
    if isinstance(one, Statement):
        known = log.signed(one.kind, one.epoch, one.height)
        if known is None or known.header != one.header:
            what = f"{one.kind.name.lower()} of {one.epoch}/{one.height} by 0x{signer.hex()[:8]}"
            found.wrong.append(f"{what}, {where}, is not in its log")
    elif log.lacks_batch(one.batch):
        found.wrong.append(f"batch {one.batch.number} of epoch {epoch} by 0x{signer.hex()[:8]}, {where}, is not there")


def _signer_of(domain: Domain, one: Statement | SignedBatch) -> tuple[NodeId, int]:
    if isinstance(one, Statement):
        return statement_signer(domain, one), one.epoch
    verify_batch(domain, one)
    return NodeId(one.batch.oracle), one.batch.home_epoch


def _taken_apart(signed: Signed) -> Iterator[Statement | SignedBatch]:
    if isinstance(signed, Certificate):
        yield from (statement for _, statement in statements_of(signed))
    else:
        yield signed


def _identity(one: Statement | SignedBatch) -> tuple[object, ...]:
    return (one.signature, one.kind, one.epoch, one.height) if isinstance(one, Statement) else (one.signature,)


def _signer_logs(folder: Path) -> Iterator[tuple[NodeId, tuple[dict[bytes, bytes], int]]]:
    """What is in the signer logs of a folder, and before which epoch their keys are silent."""
    for path in sorted(folder.glob("signer-*.db")):
        with tempfile.TemporaryDirectory() as copies:
            # A log that was not closed has its newest part in a second file, which SQLite folds into the first.
            for suffix in ("", *BESIDE):
                if Path(f"{path}{suffix}").exists():
                    shutil.copy(f"{path}{suffix}", copies)
            with closing(sqlite3.connect(Path(copies) / path.name)) as connection:
                records = dict(connection.execute("SELECT key, value FROM signed"))
                silent_before = max(
                    (row[0] for row in connection.execute("SELECT before_epoch FROM silence")), default=0
                )
        yield NodeId(bytes.fromhex(path.stem.removeprefix("signer-"))), (records, silent_before)


def _statements_and_batches(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in records.items() if not name.startswith(SILENCE)}


def _is_block(name: bytes) -> bool:
    return name.startswith(storage.OPEN_BLOCK)


def _no_key(_: bytes) -> Signature:
    raise AssertionError("a comparison signs nothing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is wrong; exit status 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m tests.runtime.compare_disks")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of an oracle that does not run")
    found = compare(parser.parse_args(arguments).folders)
    for line in found.wrong:
        print(line)
    print(
        f"{found.blocks} blocks, {found.signatures} signatures ({found.excused} of lost logs): "
        + (f"{len(found.wrong)} things are wrong" if found.wrong else "no conflict, and each is in its signer's log")
    )
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
