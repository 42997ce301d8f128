"""The client's machine and the lanes that are streamed to nobody: what a router may tell it of their ends."""

from typing import Any

import msgspec
import pytest

from protocol.core.ids import NO_GENERATION, NOBODY
from protocol.core.machine import Close
from protocol.core.signing import typed_digest
from protocol.messages.envelope import envelope_digest
from protocol.messages.sessions import BidSet, SessionReady
from protocol.messages.tasks import EndReason, EndRecord, LaneEnded
from protocol.roles.client import LaneReported, SessionAssigned
from protocol.roles.client.tasks import WITHHELD_MAX
from protocol.session.transcript import SegmentWriter, close_chain
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    DOMAIN,
    MALLORY,
    MINERS,
    PROMPT_TOKENS,
    ROUTER,
    assignment_of,
    bid_set_of,
    head_of,
    id_of,
    of,
    stream_of,
)

LEASES = [bytes(23) + bytes([1 + number]) for number in range(6)]


class Lanes:
    """A client with a session of some lanes, and one order."""

    def __init__(self, lanes: int = 3) -> None:
        self.client = Client()
        self.client.says(HELLO)
        self.opening = self.client.open(lanes=lanes)
        self.assign(1, list(range(lanes)))
        self.order = self.client.order(self.client.ask())

    def assign(self, number: int, miners: list[int | None]) -> list[object]:
        """The router assigns lanes to miners."""
        bids = bid_set_of(self.opening, MINERS)
        assignment = assignment_of(
            self.opening,
            number=number,
            miners=tuple(NOBODY if at is None else MINERS[at].node for at in miners),
            generations=tuple(NO_GENERATION if at is None else LEASES[at] for at in miners),
            bid_set=envelope_digest(DOMAIN, bids, BidSet),
        )
        signature = ROUTER.sign(typed_digest(DOMAIN, assignment))
        effects = self.client.says(SessionReady(id_of(self.opening), assignment, signature, bids))
        assert isinstance(self.client.items[SESSION_HANDLE][-1], SessionAssigned)
        return effects

    def ended(self, lane: int, miner: int | None = None, signer: Key | None = None, **head: Any) -> LaneEnded:
        """What the miner of a lane signs at its end."""
        at = lane if miner is None else miner
        content: dict[str, Any] = {"generation": LEASES[at], "miner": MINERS[at].node, "lane": lane}
        writer = SegmentWriter(DOMAIN, (signer or MINERS[at]).sign, head_of(self.order, **{**content, **head}))
        end = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), writer.index + 2, 0)
        frame = writer.frame((1, 2), (b"a", b"b"), end)
        return LaneEnded(writer.head, end, close_chain(writer.chain, end), frame.signature)

    def reported(self) -> list[LaneEnded]:
        """Ends that were delivered."""
        items = self.client.items[SESSION_HANDLE]
        return [item.ended for item in items if isinstance(item, LaneReported)]

    def refused(self, effects: list[object]) -> bool:
        """Whether the client leaves the router for what it said."""
        return any(close.channel == self.client.channel for close in of(effects, Close))


@pytest.mark.spec("LANE-WITHHELD.1")
def test_the_ends_of_other_lanes_come_beside_the_answer_before_it_or_after() -> None:
    lanes = Lanes()
    first, second = lanes.ended(2), lanes.ended(1)
    lanes.client.says(first)
    lanes.client.says(*stream_of(lanes.order, generation=LEASES[0]))
    assert not lanes.refused(lanes.client.says(second))
    assert lanes.reported() == [first, second]
    assert lanes.client.text(3)


@pytest.mark.spec("LANE-WITHHELD.1")
@pytest.mark.parametrize(
    "what", ["lane 0", "no such lane", "signer", "miner", "lease", "order", "start", "chain", "usage", "again"]
)
def test_an_end_that_does_not_hold_is_the_routers_fault(what: str) -> None:
    lanes = Lanes()
    good = lanes.ended(1)
    forged = {
        "lane 0": lambda: lanes.ended(0),
        "no such lane": lambda: lanes.ended(3),
        "signer": lambda: lanes.ended(1, signer=MALLORY),
        "miner": lambda: lanes.ended(1, 2),
        "lease": lambda: lanes.ended(1, generation=LEASES[4]),
        "order": lambda: lanes.ended(1, prompt=bytes(32)),
        "start": lambda: lanes.ended(1, start_index=5, previous_head=b"\x01" * 32),
        "chain": lambda: msgspec.structs.replace(good, chain=bytes(32)),
        "usage": lambda: msgspec.structs.replace(good, end=EndRecord(EndReason.STOP, 3, 401, 0)),
        "again": lambda: good,
    }[what]()
    if what == "again":
        assert not lanes.refused(lanes.client.says(good))
    assert lanes.refused(lanes.client.says(forged))
    assert lanes.reported() == ([good] if what == "again" else [])


@pytest.mark.spec("LANE-WITHHELD.1", "LANES-FILL.1")
def test_the_end_of_a_lane_is_its_present_miners() -> None:
    lanes = Lanes()
    lanes.assign(2, [0, 4, 2])
    assert not lanes.refused(lanes.client.says(lanes.ended(1, 4)))
    lanes.assign(3, [0, 4, None])
    assert lanes.refused(lanes.client.says(lanes.ended(2)))
    other = Lanes()
    other.assign(2, [0, 4, 2])
    assert other.refused(other.client.says(other.ended(1)))


@pytest.mark.spec("LANE-WITHHELD.1")
def test_the_end_of_an_order_that_is_not_known_any_more_says_nothing() -> None:
    lanes = Lanes()
    assert lanes.client.says(lanes.ended(1, task=2)) == []
    single = Lanes(1)
    assert single.client.says(single.ended(1, 1)) == []
    assert lanes.reported() == single.reported() == []
    session = lanes.client.machine._held.sessions[SESSION_HANDLE]
    assert list(session.withheld) == [1]
    assert len(session.withheld) <= WITHHELD_MAX


@pytest.mark.spec("LANES-FILL.1")
def test_a_lane_that_changes_its_miner_leaves_the_answer_as_it_is() -> None:
    lanes = Lanes()
    head, *frames = stream_of(lanes.order, generation=LEASES[0])
    lanes.client.says(head, *frames[:2])
    assert lanes.assign(2, [0, 4, None]) is not None
    lanes.client.says(*frames[2:])
    assert len(lanes.client.text(3)) == sum(len(t) for frame in frames for t in frame.texts)  # type: ignore[attr-defined]
    assert lanes.client.over(3).end is not None
