"""Lanes in the ledger: what the oracles said of one, what became of it, what was claimed and paid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from protocol.core.ids import NodeId
from protocol.core.signing import U8, U64, Bytes20, Bytes32
from protocol.ledger.records import Record
from protocol.messages.results import SEGMENTS_CLAIMED_MAX, Observation, Outcome, Verdict


class Said(Record, frozen=True):
    """One oracle's value of a lane. The oracle is named by its place in the committee of the lane's home epoch."""

    place: U8
    verdict: Verdict
    root: Bytes32
    count: U64


class Claimed(Record, frozen=True):
    """A segment that an opening shows."""

    miner: Bytes20
    router: Bytes20
    price_wei: U64
    start_index: U64
    acked: U64
    """Up to this token the client accepted it."""
    paid: U64
    """Up to this token it is paid for."""


class Claim(Record, frozen=True):
    """What openings that lead to one result root show, together."""

    root: Bytes32
    count: U64
    cap_wei: U64
    """Of the order."""
    segments: Annotated[tuple[Claimed, ...], Meta(min_length=1, max_length=SEGMENTS_CLAIMED_MAX)]


class Lane(Record, frozen=True):
    """See the module. Not decided while ``outcome`` is None; then it holds a claim of each root that an oracle said is
    the right one, after that only of the one that is."""

    home_epoch: U64
    opener: U8
    """The place of the oracle that spoke first."""
    said: tuple[Said, ...]
    claims: tuple[Claim, ...] = ()
    outcome: Outcome | None = None
    index: U64 = 0
    """The outcome's place among all."""
    paid_wei: U64 = 0
    settled: bool = False
    """The claim was met once; in lane 0 later acks bring more."""

    def said_by(self, place: int) -> Said | None:
        """An oracle's value; None while it has given none."""
        return next((said for said in self.said if said.place == place), None)


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as whoever asks the state for it sees it."""

    home_epoch: int
    values: Mapping[NodeId, Observation]
    """What was said of it, by oracle, in the order in which it came in."""
    outcome: Outcome | None
    index: int | None
    """The outcome's place among all."""
    paid_wei: int
    record: Lane


def view(lane: Lane, members: tuple[NodeId, ...], session: bytes, task: int, number: int) -> LaneView:
    """The lane with the names of all that its record leaves out."""
    values = {
        members[said.place]: Observation(session, task, number, said.verdict, said.root, said.count)
        for said in lane.said
    }
    index = None if lane.outcome is None else lane.index
    return LaneView(lane.home_epoch, values, lane.outcome, index, lane.paid_wei, lane)
