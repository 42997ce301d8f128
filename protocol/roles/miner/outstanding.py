"""Results whose outcome is not final: committed to, opened when it is time, and said again until they are.

What a commit binds is durable before it leaves. A lane that could be copied is opened when f+1 oracles take no more
commits of its task, so at least one correct one does not; and not before.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping

import msgspec

from protocol.committee.epochs import FIRST_EPOCH
from protocol.core.codec import pack
from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.machine import Key, Note, Persist, Publish, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest, verify
from protocol.light.committee_links import CommitteeLinks
from protocol.messages.envelope import seal
from protocol.messages.results import COMMITS_MAX, Commits, CommittedNews, Outcome, RevealAsked, Verdict
from protocol.messages.tasks import AckMessage
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import Lease
from protocol.roles.miner.result import (
    Result,
    StoredResult,
    make_result,
    needs_ack,
    record_of,
    with_ack,
)

RESULTS: Key = b"results"
"""Everything that leaves here waits for what was to be durable before it."""
RESULTS_MAX = 1_024
KEPT_MS = 6 * 3_600_000
"""Longer than a committee can be gone and come back to a lane that it still decides."""
HOMES_KEPT = 2
"""Epochs after its own in which a lane is still decided and paid."""
AGAIN_MS_MAX = 16_000
TICK_MS = 20
"""Bare commits that fall due so close together leave together."""
GOSSIPED_MIN = 4
"""Fewer are sent to each oracle."""
GOSSIP_INTERVAL_MS = 1_000
"""The topic's budget is the whole network's."""
PAPERS_SOONER = 4
"""The papers of gossiped commits follow in this part of the time after which anything is sent again."""
BURST_MAX = 32
"""Results that are sent again at once."""
TOP_UP_MS = 60_000
"""How long a later ack can still raise the pay of a lane whose outcome is final."""
TOP_UPS = 3


class Outstanding:
    """See the module. At most :data:`RESULTS_MAX`; the oldest is given up for a new one."""

    def __init__(
        self,
        domain: Domain,
        params: Params,
        sign: Sign,
        node: NodeId,
        salt_key: bytes,
        links: CommitteeLinks,
        kept: Mapping[bytes, StoredResult],
        tell: Callable[[CommittedNews], None] | None = None,
    ) -> None:
        self._domain = domain
        self._params = params
        self._sign = sign
        self._node = node
        self._salt_key = salt_key
        self._links = links
        self._tell = tell
        """Told of each commit that leaves."""
        self.held: OrderedDict[bytes, Result] = OrderedDict()
        self.homes: Counter[int] = Counter()
        """Their home epochs: the committees that they are told to."""
        self._of_task: dict[tuple[bytes, int], list[Result]] = {}
        self._bare: dict[bytes, None] = {}
        """Commits that leave alone, at the next tick."""
        self._clocks: Deadlines[tuple[str, bytes]] = Deadlines()
        self._gossiped_ms: int | None = None
        for name, stored in list(kept.items())[-RESULTS_MAX:]:
            result = self._add(name, stored, Result(name, stored, None, params.result_resend_ms))
            # What an earlier life sent cannot be told: it is all sent again.
            result.committed, result.opened = True, stored.asked
            self._clocks.set(("again", name), 0)

    # A lane's life

    def ended(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        """A lane's end is signed: its result is durable before anything of it leaves. Spec: [COMMIT-DURABLE.1]"""
        if lane.order.home_epoch < FIRST_EPOCH:
            return []  # its client has heard of no epoch: nobody would observe the lane, ever
        stored = make_result(self._domain, self._sign, self._salt_key, lane, now_ms)
        name = record_of(stored.commit.commit)
        given_up = self._make_room()
        result = self._add(name, stored, Result(name, stored, lease.channel, self._params.result_resend_ms))
        if needs_ack(stored.opening):
            result.waits = True
            self._clocks.set(("ack", name), now_ms + self._params.ack_wait_ms)
        return [*given_up, Persist(RESULTS, ((name, pack(stored)),)), *self._advance(result, now_ms)]

    def acked(self, message: AckMessage, now_ms: int) -> list[object]:
        """The client acknowledges more of a lane that ended. Raises SignatureError. Spec: [OPENING-ACK.1]"""
        for result in self._of_task.get((message.ack.session, message.ack.task), []):
            opening = with_ack(self._domain, result.stored.opening, message)
            if opening is not None:
                client = result.stored.papers.session.opening.client
                verify(typed_digest(self._domain, message.ack), message.signature, client, "the ack")
                result.stored = msgspec.structs.replace(result.stored, opening=opening)
                return self._paid_more(result, now_ms)
        return []

    def _paid_more(self, result: Result, now_ms: int) -> list[object]:
        complete = not needs_ack(result.stored.opening)
        effects: list[object] = []
        if result.waits and complete:
            effects = self._waited(result, now_ms)
        elif result.opened:
            result.raised = True
            result.delay_ms = self._params.result_resend_ms
            result.repeats = None if result.repeats is None else TOP_UPS
            # The last ack is worth a message of its own, those before it go along with what is sent anyway.
            self._clocks.set(("again", result.name), now_ms + (0 if complete else result.delay_ms))
            effects = self._again(result.name, now_ms) if complete else []
        # After what leaves: without this ack it would be paid less, and nothing worse.
        return [*effects, self._record(result)] if complete and result.repeats is None else effects

    def asked(self, oracle: NodeId, message: RevealAsked, now_ms: int) -> list[object]:
        """An oracle takes no more commits of a task. Spec: [REVEAL-WHEN.1]"""
        effects: list[object] = []
        for result in self._of_task.get((message.session, message.task), []):
            if oracle in result.asked_by:
                continue
            result.asked_by.add(oracle)
            if result.opened:
                effects += self._links.send(oracle, result.reveal(), RESULTS)
            elif not result.stored.asked and self._may_open(result):
                result.stored = msgspec.structs.replace(result.stored, asked=True)
                effects += [*self._advance(result, now_ms), self._record(result)]
        return effects

    def _may_open(self, result: Result) -> bool:
        """Whether so many of its home's oracles asked that one of them is correct."""
        home = self._home(result)
        return len(result.asked_by.intersection(home)) > (len(home) - 1) // 3

    def _home(self, result: Result) -> tuple[NodeId, ...]:
        """Who observes it. As long as that is not known, whoever is the last that is."""
        trust = self._links.trust
        return trust.members_of(result.home_epoch) or trust.members

    def waits_for(self, outcome: Outcome) -> bool:
        """Whether the outcome of a lane is news here."""
        return any(
            result.stored.commit.commit.lane == outcome.lane and result.repeats is None
            for result in self._of_task.get((outcome.session, outcome.task), [])
        )

    def decided(self, outcome: Outcome, now_ms: int) -> list[object]:
        """The outcome of a lane is final. Spec: [RESULT-RESEND.1]"""
        effects: list[object] = []
        for result in list(self._of_task.get((outcome.session, outcome.task), [])):
            kept = result.stored
            if kept.commit.commit.lane != outcome.lane or result.repeats is not None:
                continue
            held = (outcome.verdict, outcome.root) == (Verdict.OK, kept.reveal.reveal.root)
            told = (("verdict", outcome.verdict.name.lower()), ("own", int(held)), ("paid_wei", outcome.paid_wei))
            effects.append(Persist(RESULTS, ((result.name, None),)))
            effects.append(Note("miner.result-final", (("session", outcome.session.hex()), *told)))
            if held and needs_ack(kept.opening):
                # What the client acknowledges from now on is paid as well.
                result.repeats = 0
                self._clocks.set(("again", result.name), now_ms + TOP_UP_MS)
            else:
                self._drop(result)
        return effects

    def turned(self, epoch: int) -> list[object]:
        """An epoch has begun: lanes that cannot be decided any more are given up."""
        late = [result for result in self.held.values() if result.home_epoch + HOMES_KEPT < epoch]
        return [effect for result in late for effect in self._give_up(result)]

    # What leaves

    def _advance(self, result: Result, now_ms: int) -> list[object]:
        if not result.committed:
            if result.alone:
                return [] if result.waits else self._leave(result, now_ms)
            self._bare[result.name] = None
            if self._clocks.at(("tick", b"")) is None:
                self._clocks.set(("tick", b""), now_ms + TICK_MS)
            return []
        return self._open(result, now_ms)

    def _leave(self, result: Result, now_ms: int) -> list[object]:
        """Commit to each oracle of its home, with the opening where there is one lane. Spec: [RESULT-HOME.1]"""
        result.opened = result.alone
        said = self._links.send_to(self._home(result), result.commit(), RESULTS)
        return [*said, *self._committed(result, now_ms)]

    def _committed(self, result: Result, now_ms: int) -> list[object]:
        result.committed = True
        self._clocks.set(("again", result.name), now_ms + result.delay_ms)
        if self._tell is not None:
            self._tell(result.news())
        told = [] if result.stream is None else [Send(result.stream, result.news(), key=RESULTS)]
        return [*told, *self._open(result, now_ms)]

    def _open(self, result: Result, now_ms: int) -> list[object]:
        if result.opened or result.waits or not result.stored.asked:
            return []
        result.opened = True
        result.delay_ms = self._params.result_resend_ms
        self._clocks.set(("again", result.name), now_ms + result.delay_ms)
        return self._links.send_to(self._home(result), result.reveal(), RESULTS)

    def _tick(self, now_ms: int) -> list[object]:
        """Bare commits leave, many of them together. Spec: [COMMIT-BATCH.1]"""
        due = [self.held[name] for name in self._bare]
        self._bare.clear()
        effects: list[object] = []
        waited = self._gossiped_ms is None or now_ms - self._gossiped_ms >= GOSSIP_INTERVAL_MS
        if len(due) >= GOSSIPED_MIN and waited:
            self._gossiped_ms = now_ms
            told, due = due[:COMMITS_MAX], due[COMMITS_MAX:]
            commits = Commits(self._node, now_ms, tuple(result.stored.commit for result in told))
            effects.append(Publish("results", seal(self._domain, self._sign, commits), RESULTS))
            for result in told:
                # No oracle can ask before it has the papers.
                result.delay_ms = self._params.result_resend_ms // PAPERS_SOONER
                effects += self._committed(result, now_ms)
        return effects + [effect for result in due for effect in self._leave(result, now_ms)]

    def greet(self, oracle: NodeId) -> list[object]:
        """What an oracle is told whose link stands again: the latest; older ones come again in their turn."""
        of_use = (result for result in reversed(self.held.values()) if oracle in self._home(result))
        left = [result for result in of_use if result.committed and result.repeats is None]
        messages = [message for result in left[:BURST_MAX] for message in result.messages()]
        return [effect for message in messages for effect in self._links.send(oracle, message, RESULTS)]

    # Time

    def next_deadline(self) -> int | None:
        """When something is to be sent, sent again or given up."""
        return self._clocks.next()

    def expire(self, now_ms: int) -> list[object]:
        """Do what is due."""
        effects: list[object] = []
        again: list[bytes] = []
        for kind, name in self._clocks.due(now_ms):
            if kind == "tick":
                effects += self._tick(now_ms)
            elif kind == "ack":
                effects += self._waited(self.held[name], now_ms)
            else:
                again.append(name)
        for name in again[:BURST_MAX]:
            effects += self._again(name, now_ms)
        for name in again[BURST_MAX:]:
            self._clocks.set(("again", name), now_ms + TICK_MS)
        return effects

    def _waited(self, result: Result, now_ms: int) -> list[object]:
        """All is acknowledged, or the client had its time."""
        result.waits = False
        self._clocks.clear(("ack", result.name))
        return self._advance(result, now_ms)

    def _again(self, name: bytes, now_ms: int) -> list[object]:
        """Spec: [RESULT-RESEND.1]"""
        result = self.held[name]
        if now_ms - result.stored.made_ms > KEPT_MS or result.repeats == 0:
            return self._give_up(result)
        if result.repeats is not None:
            result.repeats -= 1
        result.delay_ms = min(2 * result.delay_ms, AGAIN_MS_MAX)
        self._clocks.set(("again", name), now_ms + result.delay_ms)
        home = self._home(result)
        return [effect for message in result.messages() for effect in self._links.send_to(home, message, RESULTS)]

    # The table

    def _add(self, name: bytes, stored: StoredResult, result: Result) -> Result:
        self.held[name] = result
        self.homes[result.home_epoch] += 1
        self._of_task.setdefault(result.task, []).append(result)
        return result

    def _make_room(self) -> list[object]:
        if len(self.held) < RESULTS_MAX:
            return []
        final: Iterable[Result] = (result for result in self.held.values() if result.repeats is not None)
        oldest = next(iter(final), None) or next(iter(self.held.values()))
        return self._give_up(oldest)

    def _give_up(self, result: Result) -> list[object]:
        self._drop(result)
        if result.repeats is not None:
            return []  # its outcome is final
        commit = result.stored.commit.commit
        told = (("session", commit.session.hex()), ("task", commit.task), ("lane", commit.lane))
        return [Persist(RESULTS, ((result.name, None),)), Note("miner.result-given-up", told)]

    def _drop(self, result: Result) -> None:
        del self.held[result.name]
        self.homes[result.home_epoch] -= 1
        if not self.homes[result.home_epoch]:
            del self.homes[result.home_epoch]
        self._bare.pop(result.name, None)
        others = [other for other in self._of_task.pop(result.task) if other is not result]
        if others:
            self._of_task[result.task] = others
        for clock in ("ack", "again"):
            self._clocks.clear((clock, result.name))

    def _record(self, result: Result) -> Persist:
        return Persist(RESULTS, ((result.name, pack(result.stored)),))
