"""Lanes are spoken of and decided: one outcome each, by the committee of their home epoch."""

from collections.abc import Iterable

import msgspec

from protocol.committee.cut import Home
from protocol.committee.members import faulty_max, quorum_of
from protocol.committee.payload import HOMES_KEPT
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.ledger.lanes import Claim, Lane, Said
from protocol.ledger.payments import pay
from protocol.ledger.pool import task_failed, task_succeeded
from protocol.ledger.records import Section, lane_key, lanes_of, open_key
from protocol.ledger.working import Working
from protocol.messages.results import Observation, Outcome, Verdict
from protocol.results.outcome import blamed, decide, is_sound

OpenLane = tuple[int, bytes]
"""Home epoch and lane."""


def observe(work: Working, home: Home, value: Observation) -> OpenLane | None:
    """An oracle's value, its first one of the lane; which lane may be decided now. Spec: [OUTCOME-HOME.1]"""
    home_epoch, oracle = home
    if not is_sound(value) or value.lane >= work.params.lanes_max:
        return None
    place = work.homes[home_epoch].index(NodeId(oracle))
    said = Said(place, value.verdict, value.root, value.count)
    key = lane_key(value.session, value.task, value.lane)
    if (decided := _decided(work, key)) is not None:
        if decided.home_epoch == home_epoch and decided.said_by(place) is None:
            _write(work, lanes_of(home_epoch), key, decided, said)
        return None
    name = open_key(home_epoch, key)
    lane = work.lane(Section.OPEN, name)
    if lane is None:
        if work.opened.get(home, 0) >= work.params.lanes_observed_max:
            return None
        work.opened[home] = work.opened.get(home, 0) + 1
        lane = Lane(home_epoch, place, ())
    elif lane.said_by(place) is not None:
        return None
    _write(work, Section.OPEN, name, lane, said)
    return home_epoch, key


def _decided(work: Working, key: bytes) -> Lane | None:
    """The lane, if it has its outcome, of whatever home epoch: there is no second one. Spec: [OUTCOME-ONE.1]"""
    return next((lane for epoch in work.homes if (lane := work.lane(lanes_of(epoch), key)) is not None), None)


def _write(work: Working, section: Section, key: bytes, lane: Lane, said: Said) -> None:
    work.write(section, key, msgspec.structs.replace(lane, said=(*lane.said, said)))


def decide_lanes(work: Working, spoken_of: Iterable[OpenLane]) -> None:
    """Give the lanes that a block spoke of their outcomes, where 2f+1 oracles have now spoken. Spec: [OUTCOME-DECIDE.1]

    All of the block's openings have been taken before: an outcome says what it paid.
    """
    for home_epoch, key in sorted(set(spoken_of)):
        lane = work.lane(Section.OPEN, open_key(home_epoch, key))
        if lane is not None and len(lane.said) >= quorum_of(len(work.homes[home_epoch])):
            _decide(work, home_epoch, key, lane)


def _decide(work: Working, home_epoch: int, key: bytes, lane: Lane) -> None:
    members, (session, task, number) = work.homes[home_epoch], place_of(key)
    f = faulty_max(len(members))
    values = [Observation(session, task, number, said.verdict, said.root, said.count) for said in lane.said]
    verdict, root, count = decide(values, f)
    _forget_open(work, key)
    outcome = Outcome(session, task, number, verdict, root, count, home_epoch, 0)
    claims = tuple(claim for claim in lane.claims if (claim.root, claim.count) == (root, count))
    decided = msgspec.structs.replace(lane, claims=claims, outcome=outcome)
    if claims:
        decided = settle(work, key, decided)
        outcome = msgspec.structs.replace(outcome, paid_wei=decided.paid_wei)
    failed = blamed(values, verdict, f)
    if failed is not None:
        task_failed(work, failed)
    index = work.append(outcome)
    work.write(lanes_of(home_epoch), key, msgspec.structs.replace(decided, outcome=outcome, index=index))


def settle(work: Working, key: bytes, lane: Lane) -> Lane:
    """Pay a lane that came to OK for what its claim shows now; the first time its miners earn their reputation."""
    session, task, number = place_of(key)
    first = not lane.settled
    lane = pay(work, session, task, number, lane)
    if first and lane.settled:
        reservation = work.session(session)
        assert reservation is not None, "a claim is taken only with its session"
        audits = reservation.audits
        task_succeeded(work, key, _worked(lane.claims[0]), (session, task, number) if audits else None)
    return lane


def _worked(claim: Claim) -> list[tuple[bytes, int]]:
    """The miners of a lane and how many tokens are theirs, in order."""
    starts = [segment.start_index for segment in claim.segments]
    ends = [*starts[1:], claim.count]
    return [(segment.miner, end - start) for segment, start, end in zip(claim.segments, starts, ends, strict=True)]


def run_out(work: Working) -> None:
    """An epoch begins, and with it the time of lanes whose home epoch no batch can speak for any more: those of which
    a correct oracle must have spoken, f+1 or more, come to nothing. Spec: [OUTCOME-UNDECIDED.1]"""
    for name, data in sorted(work.before.tree(Section.OPEN).items()):
        home_epoch, key = int.from_bytes(name[:8], "big"), name[8:]
        if home_epoch > work.epoch - HOMES_KEPT:
            continue
        if len(Lane.read(data).said) > faulty_max(len(work.homes[home_epoch])):
            session, task, number = place_of(key)
            work.append(Outcome(session, task, number, Verdict.UNDECIDED, ZERO_DIGEST, 0, home_epoch, 0))
            _forget_open(work, key)
        else:
            work.write(Section.OPEN, name, None)


def _forget_open(work: Working, key: bytes) -> None:
    """A lane has its outcome: what was said of it at any home is done with."""
    for home_epoch, members in work.homes.items():
        name = open_key(home_epoch, key)
        lane = work.lane(Section.OPEN, name)
        if lane is not None:
            work.write(Section.OPEN, name, None)
            work.opened[home_epoch, members[lane.opener]] -= 1


def place_of(key: bytes) -> tuple[bytes, int, int]:
    """Session, task and lane of a lane's key."""
    return key[:32], int.from_bytes(key[32:36], "big"), key[36]
