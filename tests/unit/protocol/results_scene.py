"""A committee at work in a room, a client that watches a session, and miners that do what is right."""

from collections.abc import Callable

from protocol.core.ids import NodeId
from protocol.ledger import LedgerState
from protocol.messages.results import (
    Observation,
    RevealAsked,
    Submit,
    Verdict,
    Watch,
)
from protocol.results.evidence import observations_of
from tests.unit.protocol.oracles_in_a_room import OracleHost, Puppet, Room
from tests.unit.protocol.results_at_hand import CLIENT, PARAMS, Job

ONE = Job()


class Scene:
    """A room in which the committee works, a client that watches a session, and miners that do what is right."""

    def __init__(self, job: Job = ONE, *, reserve: bool = True, room: Room | None = None) -> None:
        self.room, self.job = room or Room(), job
        self.room.run(3_000)
        self.client = self.room.puppet(CLIENT).say(Watch(job.session))
        if reserve:
            self.client.say(Submit(sessions=(job.signed_session,)))
            assert self.room.run(5_000, lambda: all(self.state(at).session(job.session) for at in self.room.hosts))
        self.said: dict[tuple[NodeId, bytes, int, int], set[Observation]] = {}
        self.room.watch = self.note

    @staticmethod
    def state(host: OracleHost) -> LedgerState:
        return host.state

    def note(self) -> None:
        """Everything that an oracle ever says of a lane on any wire."""
        for _, _, message in self.room.wire:
            signed = getattr(message, "signed", None)
            if signed is not None and hasattr(signed, "batch"):
                for value in observations_of(signed):
                    name = (NodeId(signed.batch.oracle), value.session, value.task, value.lane)
                    self.said.setdefault(name, set()).add(value)
        self.room.wire.clear()

    def miner(self, lane: int = 0, job: Job | None = None) -> Puppet:
        """A miner that opens its commit when f+1 oracles have asked."""
        job = job or self.job
        puppet = self.room.puppet(job.miner(lane))

        def on_message(place: int, message: object) -> None:
            if isinstance(message, RevealAsked):
                asked = {at for at, told in puppet.heard if isinstance(told, RevealAsked)}
                if len(asked) == 2:
                    puppet.say(job.reveals(lane))
                elif len(asked) > 2:
                    puppet.say(job.reveals(lane), place)

        puppet.on_message = on_message
        return puppet

    def works(self, job: Job, lane: int) -> None:
        """A miner commits, and opens what it was asked for, until the outcome is final."""
        miner = self.miner(lane, job)
        self.again(lambda: miner.say(job.commits(lane)))
        self.again(lambda: miner.say(job.reveals(lane)) if miner.of(RevealAsked) else None)

    def again(self, say: Callable[[], object], ms: int = PARAMS.result_resend_ms, times: int = 30) -> None:
        """A node says something again and again, as miners do until the outcome is final."""
        if times:
            say()
            self.room.later(ms, lambda: self.again(say, ms, times - 1))

    def outcome(self, job: Job | None = None, lane: int = 0) -> Verdict | None:
        """The verdict on a lane, the same at every oracle that runs; None until then."""
        job = job or self.job
        found = {
            None if view is None or view.outcome is None else view.outcome.verdict
            for host in self.room.hosts
            if host.up
            for view in [host.state.lane(job.session, job.task, lane)]
        }
        return found.pop() if len(found) == 1 else None

    def decided(self, ms: int = 30_000, job: Job | None = None) -> list[Verdict | None]:
        """Wait for the verdicts on all lanes."""
        lanes = range((job or self.job).lanes)
        self.room.run(ms, lambda: all(self.outcome(job, lane) is not None for lane in lanes))
        return [self.outcome(job, lane) for lane in lanes]

    def one_value_each(self) -> None:
        """No oracle ever said two things of a lane."""
        assert self.said
        assert all(len(values) == 1 for values in self.said.values())


def apart(scene: Scene) -> None:
    """No oracle hears another."""
    scene.room.cut = lambda sender, receiver: isinstance(receiver, OracleHost) and isinstance(sender, OracleHost)
