"""The records that a user and a miner's node keep: kept bids come back oldest first, and foreign ones go."""

from pathlib import Path

import pytest

from p2pnode.records import load_kept_bids, load_results, stored_bids, stored_results
from p2pnode.session_records import NoBids, load_bids
from p2pnode.store import open_store
from protocol.core.codec import pack
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import CountersignedBid
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.roles.miner.result import RESULT_RECORDS
from protocol.session.record import KeptBids
from tests.unit.protocol.machines import NOW_MS, bid_of, opening_of, receipt_of
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed

OPENING = opening_of()


def signed(issued_ms: int) -> CountersignedBid:
    """A countersigned bid of some time."""
    bid = bid_of(OPENING, issued_ms=issued_ms)
    return CountersignedBid(bid, receipt_of(bid, OPENING, Envelope(b"", bytes(65))))


BIDS = [signed(NOW_MS + number) for number in range(3)]


@pytest.mark.spec("BID-KEPT.1")
async def test_a_miner_finds_its_bids_again_and_drops_what_it_cannot_read(tmp_path: Path) -> None:
    readable = [(BID_RECORDS + bytes([9 - place]), pack(bid)) for place, bid in enumerate(BIDS)]
    receipt_for_bid = CountersignedBid(BIDS[0].receipt, BIDS[0].receipt)
    foreign = [(BID_RECORDS + b"x", b"of another build"), (BID_RECORDS + b"y", pack(receipt_for_bid))]
    other = (b"assignment/1", b"1")
    with open_store(tmp_path) as store:
        await store.persist([*readable, *foreign, other])
        kept = await load_kept_bids(store)
        assert list(kept.items()) == [(name, bid) for (name, _), bid in zip(readable, BIDS, strict=True)]
        assert store.load(b"") == dict(sorted([*readable, other]))
    assert stored_bids({}) == ({}, [])


@pytest.mark.parametrize("data", [None, b"", b"no bids", pack(KeptBids(tuple(BIDS))) + b"!", b"\x91\x90"])
def test_what_holds_no_bids_is_refused(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "a.bids"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(NoBids, match="holds no countersigned bids") as caught:
        load_bids(path)
    assert "p2pnode bids" in str(caught.value.hint)


def test_exported_bids_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.bids"
    path.write_bytes(pack(KeptBids(tuple(BIDS))))
    assert list(load_bids(path).bids) == BIDS


async def test_results_of_an_earlier_life_are_loaded_oldest_first_and_what_is_none_is_dropped(tmp_path: Path) -> None:
    mine = Bound()
    for number in (3, 1, 2):
        mine.now_ms += 1
        Streamed(mine, opening_of(number=number)).end()
    names = list(mine.disk)
    foreign = {RESULT_RECORDS + b"x": b"\x01", RESULT_RECORDS + b"y": mine.disk[names[0]]}
    with open_store(tmp_path) as store:
        await store.persist([*mine.disk.items(), *foreign.items()])
        results = await load_results(store)
        assert list(results) == names
        assert [stored.made_ms for stored in results.values()] == [NOW_MS + 1, NOW_MS + 2, NOW_MS + 3]
        assert set(store.load(RESULT_RECORDS)) == set(names)
        assert {name: pack(stored) for name, stored in results.items()} == mine.disk
    assert stored_results({}) == ({}, [])
