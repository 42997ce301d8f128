"""The records of this user's sessions, one small file each, the latest hundred kept; and bids that a miner's operator
exported. Whoever reads them needs no role of a node.
"""

import os
from pathlib import Path

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, P2PNodeError
from protocol.core.ids import SessionId
from protocol.session.record import BIDS_BYTES_MAX, RECORD_BYTES_MAX, KeptBids, SessionRecord

RECORDS_MAX = 100
SUFFIX = ".session"


class UnknownSession(P2PNodeError):
    """No record has this session id, or the file is none."""

    code = "session/unknown"


class NoBids(P2PNodeError):
    """No countersigned bid is where it was looked for."""

    code = "bids/none"


def save_record(folder: Path, session: SessionId, record: SessionRecord) -> Path:
    """Write a record under its session id and drop the oldest beyond the hundredth. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{session.hex()}{SUFFIX}"
    draft = path.with_suffix(".draft")
    draft.write_bytes(pack(record))
    os.replace(draft, path)
    for old in sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)[:-RECORDS_MAX]:
        old.unlink(missing_ok=True)
    return path


def load_record(folder: Path, wanted: str) -> SessionRecord:
    """A record by the first digits of its session id, or by its path. Raises UnknownSession."""
    path = _find(folder, wanted)
    try:
        return unpack(SessionRecord, path.read_bytes()[: RECORD_BYTES_MAX + 1], limit_bytes=RECORD_BYTES_MAX)
    except (OSError, DecodeError) as error:
        raise UnknownSession(f"{path} is no session record: {error}", hint="name a session or its file") from error


def _find(folder: Path, wanted: str) -> Path:
    if "/" in wanted or wanted.endswith(SUFFIX):
        return Path(wanted)
    found = sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
    matching = [file for file in found if wanted == "last" or file.name.startswith(wanted.lower())]
    if not matching:
        raise UnknownSession(
            f"there is no record of session {wanted[:64]!r} in {folder}",
            hint="`p2pnode chat` keeps a record of every session; `p2pnode explain last` explains the latest",
        )
    return matching[-1]


def load_bids(path: Path) -> KeptBids:
    """What `p2pnode bids --export` wrote. Raises NoBids."""
    try:
        with path.open("rb") as file:
            return unpack(KeptBids, file.read(BIDS_BYTES_MAX + 1), limit_bytes=BIDS_BYTES_MAX)
    except (OSError, DecodeError) as error:
        hint = "a miner's operator writes one with `p2pnode bids SESSION --export FILE`"
        raise NoBids(f"{path} holds no countersigned bids: {error}", hint=hint) from error
