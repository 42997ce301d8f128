"""What a node finds of its roles on its disk when it starts again."""

from collections.abc import Mapping

from p2pnode.store import NodeStore
from protocol.core.codec import decode, unpack
from protocol.core.errors import DecodeError
from protocol.core.ids import Digest, SessionId
from protocol.messages.sessions import Bid, CountersignedBid
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.roles.miner.result import RESULT_BYTES_MAX, RESULT_RECORDS, StoredResult, record_of
from protocol.roles.router import ASSIGNMENT_RECORDS
from protocol.session.record import BIDS_BYTES_MAX


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


async def load_numbers(store: NodeStore, now_ms: int) -> dict[SessionId, int]:
    """What the router signed before a restart; records of expired sessions are dropped here."""
    numbers, expired = stored_numbers(store.load(ASSIGNMENT_RECORDS), now_ms)
    if expired:
        await store.persist([(name, None) for name in expired])
    return numbers


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
