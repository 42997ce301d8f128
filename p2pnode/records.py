"""The records of this user's sessions, one small file each, the latest hundred kept; and what a miner keeps."""

import os
from collections.abc import Mapping
from pathlib import Path

from p2pnode.store import NodeStore
from protocol.core.codec import decode, pack, unpack
from protocol.core.errors import DecodeError, P2PNodeError
from protocol.core.ids import Digest, SessionId
from protocol.messages.sessions import Bid, CountersignedBid
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.roles.miner.result import RESULT_BYTES_MAX, RESULT_RECORDS, StoredResult, record_of
from protocol.roles.router import ASSIGNMENT_RECORDS
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


async def load_kept_bids(store: NodeStore) -> dict[bytes, CountersignedBid]:
    """What routers countersigned before a restart; what another build wrote in another form is dropped here."""
    kept, foreign = stored_bids(store.load(BID_RECORDS))
    if foreign:
        await store.persist([(name, None) for name in foreign])
    return kept


def stored_bids(records: Mapping[bytes, bytes]) -> tuple[dict[bytes, CountersignedBid], list[bytes]]:
    """The kept bids among a node's records, oldest first, and the names of those that another build wrote."""
    dated: list[tuple[int, bytes, CountersignedBid]] = []
    foreign: list[bytes] = []
    for name, value in records.items():
        try:
            signed = unpack(CountersignedBid, value, limit_bytes=BIDS_BYTES_MAX)
            bid = decode(signed.bid.payload)
            if not isinstance(bid, Bid):
                raise DecodeError("no bid")
            dated.append((bid.issued_ms, name, signed))
        except DecodeError:
            foreign.append(name)
    return {name: signed for _, name, signed in sorted(dated, key=lambda item: item[:2])}, foreign


async def load_results(store: NodeStore) -> dict[bytes, StoredResult]:
    """What was committed to before a restart and is not final; what another build wrote is dropped here."""
    kept, foreign = stored_results(store.load(RESULT_RECORDS))
    if foreign:
        await store.persist([(name, None) for name in foreign])
    return kept


def stored_results(records: Mapping[bytes, bytes]) -> tuple[dict[bytes, StoredResult], list[bytes]]:
    """A miner's results that are not final, oldest first, and the names of those that another build wrote."""
    dated: list[tuple[int, bytes, StoredResult]] = []
    foreign: list[bytes] = []
    for name, value in records.items():
        try:
            stored = unpack(StoredResult, value, limit_bytes=RESULT_BYTES_MAX)
            if record_of(stored.commit.commit) != name:
                raise DecodeError("another lane's")
            dated.append((stored.made_ms, name, stored))
        except DecodeError:
            foreign.append(name)
    return {name: stored for _, name, stored in sorted(dated, key=lambda item: item[:2])}, foreign


def stored_numbers(records: Mapping[bytes, bytes], now_ms: int) -> tuple[dict[SessionId, int], list[bytes]]:
    """The highest assignment number that a router signed for each session, and the records of expired sessions."""
    numbers: dict[SessionId, int] = {}
    expired: list[bytes] = []
    for name, value in records.items():
        if int.from_bytes(value[8:], "big") < now_ms:
            expired.append(name)
        else:
            numbers[SessionId(Digest(name.removeprefix(ASSIGNMENT_RECORDS)))] = int.from_bytes(value[:8], "big")
    return numbers, expired
