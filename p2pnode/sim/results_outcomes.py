"""S5 and S9: what oracles say of a lane, and why.

An oracle's word is looked at when its batch first leaves; an outcome when its block is final. What an oracle has seen
stands in ``results_seen``; whether an opening fits a commit is asked of the protocol's own pure functions, but what
binds them is tried out here, field by field.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_reading import Reading
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from p2pnode.sim.results_replay import Entered, Follower
from p2pnode.sim.results_seen import Brought, Lane, Opened, Seen, content_of
from p2pnode.sim.toy_engine import whole_answer
from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.messages.committee import Offer
from protocol.messages.results import CommitMessage, Observation, Outcome, Reveal, RevealMessage, Verdict
from protocol.results.commitment import commit_of
from protocol.roles.miner import Generate, MinerMachine

TELLING_TOKENS = 6
"""Shorter answers may be the same by chance."""


class SeenByOne(Follower):
    """S5: an ``ok`` rests on what correct oracles were given: a commit in time and an opening that was asked for."""

    invariant = "S5"

    def __init__(self, reading: Reading, seen: Seen) -> None:
        self.oks = 0
        """Values ``ok`` of correct oracles."""
        self._reading = reading
        self._seen = seen
        self._last: Message | None = None
        self._read: set[bytes] = set()

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A batch leaves; one that goes to many is read once."""
        if message is self._last or not isinstance(message, Offer):
            return
        self._last = message
        host = self.world.by_id.get(NodeId(message.signed.batch.oracle))
        if host is None or not host.correct or sender is not host or message.signed.signature in self._read:
            return
        self._read.add(message.signed.signature)
        for value in content_of(message.signed).observations:
            if value.verdict is Verdict.OK:
                self.oks += 1
                self._check(host, value)

    def _check(self, host: Host, value: Observation) -> None:
        lane = (value.session, value.task, value.lane)
        sights = list(self._seen.saw(host, lane, value.root))
        if not sights:
            self.fail(f"calls {_named(lane)} ok, and was given no commit with an opening of that root", host)
        if all(opened.signed.reveal.count != value.count for _, opened in sights):
            self.fail(f"counts {value.count} tokens of {_named(lane)}", host)
        if not any(self._in_time(host, lane, *sight) for sight in sights):
            self.fail(f"calls {_named(lane)} ok: commit too late, or opening before it was asked for", host)

    def _in_time(self, host: Host, lane: Lane, brought: Brought, opened: Opened) -> bool:
        if brought.papers.session.opening.lanes == 1:
            return True
        asked_us = self._seen.asked_us[lane[:2]][host.name]
        closed_us = self._seen.closed_us[lane[:2]].get(host.name)
        if not asked_us or closed_us is None:
            return False
        # What is closed stays closed in the same life at once, and in later ones if it was on the disk.
        until_us = min(closed_us, asked_us.get(brought.life, closed_us))
        return brought.at_us <= until_us and min(asked_us.values()) <= opened.at_us

    def entered(self, entered: Entered) -> None:
        """A lane is decided."""
        for outcome in entered.state.decided if entered.header.height else ():
            if outcome.verdict is Verdict.OK and not any(self._witnesses(outcome)):
                self.fail(f"{_named(_lane(outcome))} is ok, and no correct oracle saw commit and opening")

    def _witnesses(self, outcome: Outcome) -> Iterator[bool]:
        lane = _lane(outcome)
        for member in self._reading.committees[outcome.home_epoch].members:
            host = self.world.by_id[member]
            if host.correct:
                yield any(self._in_time(host, lane, *sight) for sight in self._seen.saw(host, lane, outcome.root))


class OpensItsOwn(Follower):
    """S9: an accepted reveal opens the earliest commit of its own place, and nobody else's."""

    invariant = "S9"

    def __init__(self, reading: Reading, seen: Seen) -> None:
        self.tried = 0
        """Reveals of which it was tried whether they open anything else."""
        self._domain = reading.domain
        self._seen = seen
        self._last: Message | None = None
        self._read: set[bytes] = set()

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A reveal leaves, or a batch."""
        if message is self._last:
            return
        self._last = message
        match message:
            case RevealMessage(signed=signed) | CommitMessage(reveal=signed) if signed is not None:
                self._try(signed.reveal)
            case Offer(signed=batch) if batch.signature not in self._read:
                self._read.add(batch.signature)
                host = self.world.by_id.get(NodeId(batch.batch.oracle))
                for value in content_of(batch).observations if host is not None and host.correct else ():
                    if host is not None and value.verdict is Verdict.OK:
                        self._check(host, value)

    def _try(self, reveal: Reveal) -> None:
        """Whether the same commitment would do for anybody else, elsewhere, or for whoever guesses the result."""
        key = reveal.session + reveal.root + reveal.salt + reveal.miner + bytes([reveal.lane])
        if key in self._read:
            return
        self._read.add(key)
        self.tried += 1
        domain = self._domain
        own = commit_of(domain, reveal).commitment
        others = {
            "another miner": replace(reveal, miner=bytes(20)),
            "another lane": replace(reveal, lane=reveal.lane ^ 1),
            "another generation": replace(reveal, generation=bytes(24)),
            "another task": replace(reveal, task=reveal.task + 1),
            "another session": replace(reveal, session=bytes(32)),
            "another result": replace(reveal, root=bytes(32)),
            "another salt": replace(reveal, salt=bytes(32)),
        }
        for what, other in others.items():
            if other != reveal and commit_of(domain, other).commitment == own:
                self.fail(f"the commitment of {_named((reveal.session, reveal.task, reveal.lane))} is that of {what}")

    def _check(self, host: Host, value: Observation) -> None:
        lane = (value.session, value.task, value.lane)
        commits = self._seen.given(host, lane)
        for brought, opened in self._seen.saw(host, lane, value.root):
            rivals = [other for other in commits if other.life == brought.life and other.at_us < brought.at_us]
            mine = brought.signed.commit
            earlier = [
                other
                for other in rivals
                if (other.signed.commit.miner, other.signed.commit.generation) == (mine.miner, mine.generation)
            ]
            if not earlier and opened.signed.reveal.miner == mine.miner:
                return
        if any(True for _ in self._seen.saw(host, lane, value.root)):
            self.fail(f"accepts a reveal of {_named(lane)} that opens a later commit of its place", host)


class NoiseIsOwn(Checker):
    """S9, of text: each lane's noise is its own, so who copies another lane's answer shows the wrong noise."""

    invariant = "S9"

    def __init__(self) -> None:
        self._answers: dict[tuple[bytes, int], dict[int, list[int]]] = {}

    def handled(self, drive: Drive, event: object, effects: list[object]) -> None:
        """A correct miner is about to run a lane."""
        if not drive.host.correct or not isinstance(drive.machine, MinerMachine):
            return
        for effect in effects:
            if isinstance(effect, Generate):
                session, task, lane = effect.generation
                answers = self._answers.setdefault((session, task), {})
                answer = answers[lane] = whole_answer(effect)
                if len(answer) >= TELLING_TOKENS and any(
                    answer == answers[other] for other in answers if other != lane
                ):
                    self.fail(f"lane {lane} of task {task} has another lane's answer", drive.host)


def _lane(outcome: Outcome) -> Lane:
    return (outcome.session, outcome.task, outcome.lane)


def _named(lane: Lane) -> str:
    return f"lane {lane[2]} of task {lane[1]} of session {lane[0].hex()[:8]}"
