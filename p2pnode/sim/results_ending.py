"""L10, and how a ``results`` world ends: results get to their end once faults are over.

When all links stand again and what waited is final, a last client asks its questions in sessions of its own, at sound
routers. Every lane of them that a correct miner ended, and committed to in time at every correct oracle, has to come to
``ok``; lane 0 is paid to the client's last ack; the client is shown ``finalized``. Any lane that a correct miner
committed to at any correct oracle has to be decided. Then nobody says anything more of what is decided, and it is over.
"""

from collections.abc import Callable
from dataclasses import dataclass

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_bounds import Bounds
from p2pnode.sim.committee_promises import Promises
from p2pnode.sim.host import Host
from p2pnode.sim.network import DIAL_TIMEOUT_US
from p2pnode.sim.results_levels import LevelsHold, Shown
from p2pnode.sim.results_replay import OneLedger
from p2pnode.sim.results_seen import Brought, Lane, Seen
from protocol.core.codec import Message
from protocol.core.ids import NOBODY, NodeId
from protocol.ledger.sessions import Session
from protocol.light.levels import Level
from protocol.messages.results import CommitMessage, Outcome, RevealMessage, Verdict
from protocol.results.links import RETRY_MS_MAX
from protocol.roles.miner.outstanding import AGAIN_MS_MAX

LOOK_EVERY_MS = 250
LAST_MS = 90_000
"""The last client's questions, from the first to the end of the last, take no longer."""
QUIET_MS = 10_000
"""So long nobody may say anything of what is decided."""


@dataclass(slots=True)
class Last:
    """The last client, as far as the ending must know."""

    host: Host
    begin: Callable[[], None]
    answers: int
    """Orders that end well, at least."""


class Ends(Checker):
    """L10. ``steps`` happen one after the other."""

    invariant = "L10"

    def __init__(
        self, bounds: Bounds, seen: Seen, ledger: OneLedger, levels: LevelsHold, promises: Promises, last: Last
    ) -> None:
        self.honest_lanes = 0
        """That had to be ok, and were."""
        self.finalized = 0
        """Answers of the last client that were shown so."""
        self._bounds = bounds
        self._seen = seen
        self._ledger = ledger
        self._levels = levels
        self._promises = promises
        self._last = last
        self._steps = [self._settles, self._asks, self._answered, self._decided, self._is_told, self._is_quiet]
        self._since_ms = 0
        self._calm_us = 0
        self._quiet_us: int | None = None

    # Along the way

    def healed(self) -> None:
        """The end begins."""
        self._since_ms = self._now_ms()
        self._look()

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """In the end nothing is said again of what is decided."""
        if self._quiet_us is None or not sender.correct or not isinstance(message, CommitMessage | RevealMessage):
            return
        signed = message.signed
        place = signed.commit if hasattr(signed, "commit") else signed.reveal
        if (place.session, place.task, place.lane) in self._ledger.outcomes:
            self.fail(f"goes on sending its result of lane {place.lane} of task {place.task}, long decided", sender)

    def _look(self) -> None:
        self._promises.look()
        if self._steps[0]():
            self._steps.pop(0)
            self._since_ms = self._now_ms()
        if self._steps:
            self.world.after(LOOK_EVERY_MS * 1_000, self._look)
        else:
            self.world.stop()

    # The steps

    def _settles(self) -> bool:
        # Clients and miners redial as late as oracles do, and a router's round may have to wait for that once more.
        wait_ms = self._bounds.links_ms + 2 * RETRY_MS_MAX + DIAL_TIMEOUT_US // 1_000
        if self._promises.owed or self._now_ms() < self._since_ms + wait_ms:
            return False
        self._promises.calm, self._calm_us = True, self.world.now_us
        return True

    def _asks(self) -> bool:
        self._last.begin()
        return True

    def _answered(self) -> bool:
        """All of its orders have ended."""
        ended = sum(shown.tokens is not None for shown in self._of_last())
        if ended < self._last.answers and self._late(LAST_MS):
            self.fail(f"{ended} of {self._last.answers} answers of the last client ended", self._last.host)
        return ended >= self._last.answers

    def _decided(self) -> bool:
        """Lanes that a correct oracle was given a commit of in calm are decided, and honest ones are ok."""
        params, open_lanes = self.world.genesis.params, self._open_lanes()
        windows_ms = params.commit_window_ms + params.reveal_window_ms + 2 * params.result_resend_ms
        if open_lanes and self._late(windows_ms + AGAIN_MS_MAX + 2 * self._bounds.item_ms):
            lane = open_lanes[0]
            self.fail(f"lane {lane[2]} of task {lane[1]} of session {lane[0].hex()[:8]} is not decided in time")
        if open_lanes:
            return False
        for lane in self._calm_lanes():
            self._check_honest(lane, self._ledger.outcomes[lane][0])
        return True

    def _is_told(self) -> bool:
        """The last client is shown what became of its answers, and they are paid: an opening may come a block later."""
        late = self._late(self._bounds.told_ms + AGAIN_MS_MAX)
        waiting = [shown for shown in self._of_last() if self._is_ok(shown.lane) and shown.level < Level.FINALIZED]
        if waiting and late:
            self.fail(f"is shown {waiting[0].level.name} of an answer that is final", self._last.host)
        unpaid = [shown.lane for shown in self._of_last() if not self._is_paid(shown.lane)]
        if unpaid and late:
            self.fail(f"task {unpaid[0][1]} is not paid to its client's last ack", self._last.host)
        self.finalized = sum(shown.level is Level.FINALIZED for shown in self._of_last())
        if waiting or unpaid:
            return False
        # It goes for good: what everybody held for it is let go of.
        self._last.host.crash()
        return True

    def _is_quiet(self) -> bool:
        if self._quiet_us is None and self._late(2 * AGAIN_MS_MAX):
            self._quiet_us = self.world.now_us
        return self._quiet_us is not None and self.world.now_us > self._quiet_us + QUIET_MS * 1_000

    # What is asked of lanes

    def _of_last(self) -> list[Shown]:
        name = self._last.host.name
        return [shown for (host, _), shown in self._levels.shown.items() if host == name]

    def _calm_lanes(self) -> list[Lane]:
        """Of which a correct oracle first heard in calm, by a correct miner, early enough to speak of them."""
        lanes = []
        for lane, by_oracle in self._seen.commits.items():
            heard = [brought for commits in by_oracle.values() for brought in commits if self._is_honest(brought)]
            if heard and min(brought.at_us for brought in heard) >= self._calm_us and self._in_epoch(lane, heard[0]):
                lanes.append(lane)
        return lanes

    def _is_honest(self, brought: Brought) -> bool:
        host = self.world.by_id.get(NodeId(brought.signed.commit.miner))
        return host is not None and host.correct

    def _in_epoch(self, lane: Lane, brought: Brought) -> bool:
        """Whether all of it fits into its home epoch and the next: two epochs on it may be given up."""
        known = self._ledger.outcomes.get(lane)
        epoch = self._ledger.best[0] if known is None else self._ledger.decided_in[lane][0]
        return epoch <= brought.papers.order.home_epoch + 1

    def _open_lanes(self) -> list[Lane]:
        """Those, and what the last client asked of correct miners, whoever was told of it."""
        asked = [shown.lane for shown in self._of_last() if self._has_home(shown)]
        lanes = dict.fromkeys((*self._calm_lanes(), *asked))
        return [lane for lane in lanes if lane not in self._ledger.outcomes]

    def _has_home(self, shown: Shown) -> bool:
        """Whether an answer has oracles who observe it, and a correct miner who tells them."""
        head, orders = self._seen.latest.get(shown.lane[:2]), self._seen.orders[shown.lane[:2]].values()
        if head is None or shown.tokens is None or not any(order.home_epoch for order in orders):
            return False
        return self.world.by_id[NodeId(head.miner)].correct

    def _check_honest(self, lane: Lane, outcome: Outcome) -> None:
        """Whether a lane that a correct miner committed to everywhere in time is ok."""
        window_us = self.world.genesis.params.commit_window_ms * 1_000
        task = [by_oracle for other, by_oracle in self._seen.commits.items() if other[:2] == lane[:2]]
        first_us = min(brought.at_us for by_oracle in task for commits in by_oracle.values() for brought in commits)
        correct = [host for host in self._oracles(outcome.home_epoch) if host.correct]
        brought = [self._seen.commits[lane][host.name][:1] for host in correct]
        mine = {commit.signed.commit.miner for commits in brought for commit in commits}
        margin_us = 2 * self._bounds.hop_ms * 1_000
        in_time = all(commits and commits[0].at_us + margin_us < first_us + window_us for commits in brought)
        if not in_time or len(mine) != 1 or not all(self._is_honest(commits[0]) for commits in brought):
            return
        if any(self._had_nobody(lane, host.name) for host in correct):
            return
        if outcome.verdict is not Verdict.OK:
            self.fail(f"lane {lane[2]} of task {lane[1]} was committed to in time, and is {outcome.verdict.name}")
        self.honest_lanes += 1

    def _had_nobody(self, lane: Lane, oracle: str) -> bool:
        """Whether the latest assignment that an oracle knew before the lane's commit leaves the lane empty: it need not
        have waited for whoever was found for it since. Spec: [REVEAL-ASKED.1]"""
        at_us = self._seen.commits[lane][oracle][0].at_us
        task = [by_oracle for other, by_oracle in self._seen.commits.items() if other[:2] == lane[:2]]
        papers = [
            brought.papers for by_oracle in task for brought in by_oracle.get(oracle, ()) if brought.at_us < at_us
        ]
        latest = max((each.assignment for each in papers), key=lambda assignment: assignment.number, default=None)
        return latest is not None and latest.miners[lane[2]] == NOBODY

    def _is_ok(self, lane: Lane) -> bool:
        """Whether a lane is ok, by a correct miner. A Byzantine one that its router left may go on alone, and commit
        before whoever took over: then that is the lane's result, unread and unpaid."""
        known = self._ledger.outcomes.get(lane)
        if known is None or known[0].verdict is not Verdict.OK:
            return False
        openers = self._seen.openers(lane, known[0].root)
        return all(self.world.by_id[miner].correct for miner in openers)

    def _is_paid(self, lane: Lane) -> bool:
        """Whether lane 0 is paid to the last ack, where its session was reserved and its cap allows it."""
        state = self._ledger.states[self._ledger.best]
        session, view = state.session(lane[0]), state.lane(*lane)
        if session is None or view is None or not self._is_ok(lane) or session.spent_wei >= session.cap_wei:
            return True
        due = self._due(lane, session)
        return due is None or view.paid_wei >= due

    def _due(self, lane: Lane, session: Session) -> int | None:
        """What the client's acks come to; None where a miner of the lane is not correct, or an order's cap is less."""
        due = 0
        for segment, ack in self._seen.acks[lane].items():
            head = self._seen.heads.get(segment)
            if head is None or not self.world.by_id[NodeId(head.miner)].correct:
                return None
            due += (ack.index - head.start_index) * head.price_wei if head.price_wei <= session.price_cap_wei else 0
        (order,) = self._seen.orders[lane[:2]].values()
        return due if due <= order.cap_wei else None

    def _oracles(self, home_epoch: int) -> list[Host]:
        return [self.world.by_id[node] for node in self._ledger.reading.committees[home_epoch].members]

    def _late(self, bound_ms: int) -> bool:
        return self._now_ms() > self._since_ms + bound_ms

    def _now_ms(self) -> int:
        return self.world.now_us // 1_000
