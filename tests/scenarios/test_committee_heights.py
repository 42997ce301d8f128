"""Heights of a committee of four, message by message: 10 ms a message, everything else takes no time."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocol.committee.effects import Settled
from protocol.core.codec import Message
from protocol.messages.committee import Certified, Offer, Propose, State
from tests.unit.protocol.committee_at_hand import KEYS, PARAMS, START_MS, Member, batch, keyed, leader  # noqa: F401

LATENCY_MS = 10
FOLDER = Path(__file__).parent / "committee"


@dataclass
class Room:
    """Four members; those in ``silent`` say nothing, and hear all the same."""

    silent: tuple[int, ...] = ()
    lines: list[str] = field(default_factory=list)
    now_ms: int = START_MS
    heap: list[tuple[int, int, int, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = [Member(place=place) for place in range(4)]

    def run(self, ms: int) -> None:
        """Let time pass."""
        until = self.now_ms + ms
        while True:
            due = [(member.simplex.next_deadline(), member) for member in self.members]
            clocks = [(at, member) for at, member in due if at is not None]
            at, member = min(clocks, key=lambda clock: clock[0], default=(until + 1, self.members[0]))
            if self.heap and self.heap[0][0] <= min(at, until):
                self.now_ms, _, place, message = heapq.heappop(self.heap)
                self.does(place, lambda place=place, message=message: self.members[place].hear(message))  # type: ignore
            elif at <= until:
                self.now_ms = max(at, self.now_ms)
                self.does(member.place, lambda member=member: member.do(member.simplex.on_time(self.now_ms)))  # type: ignore
            else:
                break
        self.now_ms = until

    def does(self, place: int, action: Callable[[], list[Message]]) -> None:
        """Something happens to a member, and what it says is on its way."""
        member = self.members[place]
        member.now_ms = self.now_ms
        for message in action():
            if place not in self.silent:
                self.line(f"o{place} > *", text(message))
                for to in range(4):
                    if to != place:
                        heapq.heappush(self.heap, (self.now_ms + LATENCY_MS, len(self.lines) * 4 + to, to, message))
        for effect in member.effects:
            if isinstance(effect, Settled):
                heights = ", ".join(str(header.height) for header in effect.headers)
                self.line(f"o{place}", f"has final: {heights}, {effect.headers[-1].results_count} batches in all")

    def line(self, who: str, what: str) -> None:
        """A line of the trace."""
        self.lines.append(f"{self.now_ms - START_MS:6} {who:7} {what}")


def text(message: Message) -> str:
    """One message, as a person reads it."""
    match message:
        case Offer(signed=signed):
            place = [key.node_id for key in KEYS].index(signed.batch.oracle)  # type: ignore[arg-type]
            return f"Offer batch {signed.batch.number} of o{place}"
        case Propose(header=header, nullifications=between):
            on = "the opening" if message.parent is None else f"block {message.parent.height}"
            return f"Propose {header.height} on {on}, {len(between)} nullifications, {len(message.body)} bytes"
        case State(statement=said):
            return f"{said.kind.name.capitalize()} {said.height}"
        case Certified(certificate=certificate):
            by = " ".join(f"o{signed.index}" for signed in certificate.signatures)
            return f"Certified {certificate.kind.name.lower()} {certificate.height} by {by}"
    raise AssertionError(message)


def healthy() -> Room:
    """An item becomes final in one height."""
    room = Room()
    room.does(3, lambda: room.members[3].hear(batch(3, 1)))
    room.run(PARAMS.block_interval_ms_min + 5 * LATENCY_MS)
    return room


def nullified() -> Room:
    """The leader of the first height is silent: the others give it up, and the next one's block is final."""
    room = Room(silent=(leader(1),))
    speaker = next(place for place in range(4) if place not in (leader(1), leader(2)))
    room.does(speaker, lambda: room.members[speaker].hear(batch(speaker, 1)))
    room.run(2_500)
    return room


@pytest.mark.spec("SIMPLEX-LEADER.1", "SIMPLEX-LEAVE.1", "SIMPLEX-TIMER.1")
@pytest.mark.parametrize("play", [healthy, nullified], ids=lambda play: str(play.__name__))
def test_a_height_reads_as_it_did(play: Callable[[], Room], rewrite: bool) -> None:
    room = play()
    read = f"# {(play.__doc__ or '').strip()}\n" + "\n".join(room.lines) + "\n"
    path = FOLDER / f"{play.__name__}.txt"
    if rewrite:
        path.write_text(read)
    assert path.read_text() == read, "pytest tests/scenarios --rewrite, then review the diff"
    assert all(member.settled and member.simplex.tree.base.state.count == 1 for member in room.members)
    assert play().lines == room.lines
