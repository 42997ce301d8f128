"""Bids that a router countersigned: kept through restarts, and of use against a router that left one out only."""

from dataclasses import replace

import pytest

from protocol.core.codec import unpack
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Close, Open, Persist, Publish
from protocol.messages.envelope import Envelope, envelope_digest, unseal
from protocol.messages.sessions import (
    Announcement,
    Bid,
    BidReceipt,
    CountersignedBid,
    LeaseBusy,
    LeaseGrant,
    SessionOpen,
    SessionReady,
)
from protocol.roles.miner import MinerMachine, MinerSettings
from protocol.roles.miner.bidding import BID_RECORDS, RECEIPTS_MAX
from protocol.roles.router.rounds import RETRY_MS_MIN
from protocol.session.lottery import is_eligible
from protocol.session.record import BIDS_BYTES_MAX, BidFate, explain, judge_bid
from tests.unit.protocol.machines import (
    DOMAIN,
    GENERATION,
    MINER,
    MINERS,
    MODEL,
    NOW_MS,
    OFFER,
    PARAMS,
    ROUTER,
    id_of,
    of,
    opening_of,
    receipt_of,
    sent,
)
from tests.unit.protocol.miner_at_hand import BOOT, Mine
from tests.unit.protocol.omission import auction, countersigned, record_of
from tests.unit.protocol.router_at_hand import Route


def kept(persist: Persist) -> CountersignedBid:
    """The countersigned bid in a record."""
    ((_, value),) = persist.records
    assert value is not None
    return unpack(CountersignedBid, value, limit_bytes=BIDS_BYTES_MAX)


# The miner


def win_receipt(mine: Mine, opening: SessionOpen) -> list[Persist]:
    """The miner bids and the router countersigns."""
    effects = mine.announce(opening)
    (stream,), (bid,) = of(effects, Open), sent(effects)
    assert isinstance(bid, Envelope)
    announcement = Envelope(b"of the round", bytes(65))
    return of(mine.receive(stream.channel, receipt_of(bid, opening, announcement)), Persist)


@pytest.mark.spec("BID-KEPT.1")
def test_a_receipt_is_durable_with_its_bid_and_nothing_of_the_session_waits_for_it() -> None:
    mine, opening = Mine(), opening_of()
    (persist,) = win_receipt(mine, opening)
    signed = kept(persist)
    name = BID_RECORDS + envelope_digest(DOMAIN, signed.bid, Bid)
    assert [record for record, _ in persist.records] == [name]
    assert persist.key == name
    assert list(mine.machine._bids.kept.values()) == [signed]


@pytest.mark.spec("BID-KEPT.1")
def test_the_newest_bids_are_kept_through_a_restart_and_the_oldest_make_room() -> None:
    mine = Mine()
    disk: dict[bytes, bytes] = {}
    names: list[bytes] = []
    for number in range(RECEIPTS_MAX + 2):
        if number == RECEIPTS_MAX:
            before = {name: unpack(CountersignedBid, disk[name], limit_bytes=BIDS_BYTES_MAX) for name in disk}
            settings = MinerSettings(MINER.node, {MODEL: OFFER}, BOOT, before)
            mine.machine = MinerMachine(settings, DOMAIN, PARAMS, MINER.sign)
        for persist in win_receipt(mine, opening_of(number=number)):
            for name, value in persist.records:
                assert persist.key == name, "so a record is deleted after it was written"
                if value is None:
                    del disk[name]
                else:
                    disk[name] = value
                    names.append(name)
    assert list(disk) == names[2:]


# The router


def round_of(effects: list[object]) -> bytes:
    """The digest of the announcement among the effects."""
    (published,) = of(effects, Publish)
    assert isinstance(published.message, Envelope)
    return envelope_digest(DOMAIN, published.message, Announcement)


@pytest.mark.spec("AUCTION-BID.1", "AUCTION-VERIFY.1")
def test_a_router_takes_no_bid_of_a_miner_that_was_not_drawn() -> None:
    """Or one bidder out of turn could spoil the bid set, and with it the session."""
    params = replace(PARAMS, bid_target=1, bids_good=1)
    for number in range(50):
        opening = opening_of(number=number)
        drawn = [is_eligible(params, id_of(opening), miner.node, len(MINERS), 0) for miner in MINERS]
        if any(drawn) and not all(drawn):
            break
    route = Route(len(MINERS), params)
    route.open(route.client(), opening)
    refused = route.bid(opening, MINERS[drawn.index(False)])
    assert (sent(refused, route.bidder), of(refused, Close)) == ([], [Close(route.bidder)])
    assert route.asked(route.bid(opening, MINERS[drawn.index(True)]))


def grant(route: Route, opening: SessionOpen, client: Channel, effects: list[object]) -> SessionReady:
    """Whoever is asked grants a lease."""
    channel, _ = route.asked(effects)
    (ready,) = sent(route.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000)), client)
    assert isinstance(ready, SessionReady)
    return ready


@pytest.mark.spec("BID-OMISSION.1")
def test_an_honest_router_is_not_accused_by_a_bid_of_a_round_that_found_no_miner() -> None:
    route, mine, opening = Route(), Mine(), opening_of()
    client = route.client()
    announced = route.open(client, opening)
    (persist,) = of(countersigned(mine, route, announced), Persist)
    channel, miner = route.asked(route.wait(PARAMS.bid_window_ms))
    assert miner == MINER.node
    route.receive(channel, LeaseBusy(id_of(opening), 1_000, "just given away"))
    again = route.wait(RETRY_MS_MIN)
    assert round_of(announced) != round_of(again)
    mine.now_ms = route.now_ms
    (later,) = of(countersigned(mine, route, again), Persist)
    ready = grant(route, opening, client, route.wait(PARAMS.bid_window_ms))

    record = record_of(opening, ready)
    assert judge_bid(record, kept(persist)).fate is BidFate.UNPROVEN
    assert judge_bid(record, kept(later)).fate is BidFate.LISTED


@pytest.mark.spec("BID-OMISSION.1")
def test_a_late_bid_belongs_to_the_round_that_took_it() -> None:
    route, opening = Route(), opening_of()
    client = route.client()
    route.open(client, opening)
    again = route.wait(PARAMS.bid_window_ms + RETRY_MS_MIN)
    effects = route.bid(opening, MINER, issued_ms=NOW_MS)
    (envelope,) = sent(effects, route.bidder)
    assert isinstance(envelope, Envelope)
    assert unseal(DOMAIN, envelope, BidReceipt)[0].announcement == round_of(again)
    ready = grant(route, opening, client, route.wait(2 * PARAMS.bid_window_ms))
    (told,) = explain(record_of(opening, ready)).assignments
    assert (told.announcement.widening, told.bids[0].bid.miner) == (1, MINER.node)


# Both


@pytest.mark.spec("BID-OMISSION.1")
@pytest.mark.parametrize(("honest", "fate"), [(True, BidFate.LISTED), (False, BidFate.LEFT_OUT)])
def test_a_router_that_leaves_out_a_bid_convicts_itself(honest: bool, fate: BidFate) -> None:
    record, persist = auction(honest=honest)
    listed = [NodeId(bid.bid.miner) for bid in explain(record).assignments[0].bids]
    assert (MINER.node in listed) == honest
    judged = judge_bid(record, kept(persist))
    assert (judged.fate, judged.router, judged.bid.miner) == (fate, ROUTER.node, MINER.node)
