"""S6: a lane has one outcome, and nobody picks it.

What is in a cut is reckoned here from the batches themselves: each oracle's chain, from the last batch that the ledger
says it includes back to the first. The outcome has to be what those values come to, by a rule that is written down here
a second time. Where 2f+1 oracles signed the same, it is that, or one of them signed two things.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from p2pnode.sim.committee_reading import Reading
from p2pnode.sim.host import Host
from p2pnode.sim.results_replay import Entered, Follower, OneLedger
from p2pnode.sim.results_seen import Lane, Seen, content_of
from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.ledger import LedgerState, Section
from protocol.messages.committee import Offer, SignedBatch
from protocol.messages.results import Observation, Outcome, Verdict

Home = tuple[int, NodeId]
Values = dict[Lane, Observation]
"""An oracle's first value of each lane."""


class OneOutcome(Follower):
    """S6. That a lane has no second outcome is looked after by ``OneLedger``."""

    invariant = "S6"

    def __init__(self, reading: Reading, seen: Seen, ledger: OneLedger) -> None:
        self.certified = 0
        """Lanes of which 2f+1 oracles signed the same."""
        self.expired = 0
        """Of these, lanes whose time was over before that was in a block."""
        self.undecided = 0
        self._reading = reading
        self._seen = seen
        self._ledger = ledger
        self._said: dict[Home, Values] = defaultdict(dict)
        """What is in the cut."""
        self._upto: dict[Home, int] = defaultdict(int)
        self._last: Message | None = None
        self._gaps: set[Home] = set()
        """Of whom not every batch is known here."""

    def entered(self, entered: Entered) -> None:
        """The cut has grown, lanes are decided, or an epoch begins."""
        state, header = entered.state, entered.header
        self._check_open(state, header.epoch)
        if not header.height:
            return
        touched: set[tuple[int, Lane]] = set()
        for epoch, members in state.homes.items():
            for member in members:
                touched.update((epoch, lane) for lane in self._grow((epoch, member), state))
        for outcome in state.decided:
            self.undecided += outcome.verdict is Verdict.UNDECIDED
            # What the turn gave up stands in the first block of its epoch.
            if outcome.home_epoch in state.homes and outcome not in entered.before.decided:
                self._check(outcome)
        for epoch, lane in sorted(touched):
            if lane not in self._ledger.outcomes:
                self._check_waiting(epoch, lane)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """An oracle speaks of lanes: in the epoch that is theirs."""
        if message is self._last or not isinstance(message, Offer):
            return
        self._last = message
        batch, host = message.signed.batch, self.world.by_id.get(NodeId(message.signed.batch.oracle))
        if host is None or not host.correct or sender is not host:
            return
        for value in content_of(message.signed).observations:
            orders = self._seen.orders.get((value.session, value.task), {})
            if orders and batch.home_epoch not in {order.home_epoch for order in orders.values()}:
                lane = (value.session, value.task, value.lane)
                self.fail(f"speaks in epoch {batch.home_epoch} of {_named(lane)}, which is another's", host)

    def _check_open(self, state: LedgerState, epoch: int) -> None:
        """Two epochs on nothing is open any more."""
        for name, _ in state.tree(Section.OPEN).items():
            if int.from_bytes(name[:8], "big") + 2 < epoch:
                self.fail(f"a lane of home epoch {int.from_bytes(name[:8], 'big')} is still open in epoch {epoch}")

    def _grow(self, home: Home, state: LedgerState) -> list[Lane]:
        """Take in an oracle's batches that are new in the cut; of which lanes they speak."""
        number, digest = state.included(*home)
        name: bytes = digest
        chain: list[SignedBatch] = []
        while number > self._upto[home]:
            signed = self._seen.batches[(*home, number)].get(name)
            if signed is None:
                self._gaps.add(home)
                break
            chain.append(signed)
            number, name = number - 1, signed.batch.previous
        self._upto[home] += len(chain) if home not in self._gaps else 0
        lanes = []
        for signed in reversed(chain):
            for value in content_of(signed).observations:
                if _is_sound(value, self.world.genesis.params.lanes_max):
                    lane = (value.session, value.task, value.lane)
                    self._said[home].setdefault(lane, value)
                    lanes.append(lane)
        return lanes

    def _check_waiting(self, epoch: int, lane: Lane) -> None:
        """A lane that is not decided: is what is in the cut of its home really too little?"""
        committee = self._reading.committees[epoch]
        if self._gaps & {(epoch, member) for member in committee.members}:
            return
        oracles = sum(lane in self._said[epoch, member] for member in committee.members)
        if oracles >= committee.quorum:
            self.fail(f"{_named(lane)} is not decided, and the cut holds what {oracles} oracles say of it")

    def _check(self, outcome: Outcome) -> None:
        lane = (outcome.session, outcome.task, outcome.lane)
        committee = self._reading.committees[outcome.home_epoch]
        homes: list[Home] = [(outcome.home_epoch, member) for member in committee.members]
        if self._gaps & set(homes):
            return
        values = {home[1]: self._said[home][lane] for home in homes if lane in self._said[home]}
        if len(values) < committee.quorum:
            self.fail(f"{_named(lane)} is decided by {len(values)} oracles")
        verdict, root, count = _rule(values, committee.faulty_max)
        if (outcome.verdict, outcome.root, outcome.count) != (verdict, root, count):
            self.fail(f"{_named(lane)} is {outcome.verdict.name}, what is in the cut comes to {verdict.name}")

    def ended(self) -> None:
        """All that was ever signed is known."""
        for lane, (outcome, _) in self._ledger.outcomes.items():
            said = self._seen.values[lane]
            committee = self._reading.committees[outcome.home_epoch]
            votes = Counter(value for member in committee.members for value in said.get(member, ()))
            agreed = [value for value, count in votes.items() if count >= committee.quorum]
            self.certified += bool(agreed)
            honest = all(len(said.get(member, ())) <= 1 for member in committee.members)
            if not agreed or not honest or _is_that(outcome, agreed[0]):
                continue
            slot = self._ledger.decided_in[lane]
            if outcome.verdict is Verdict.UNDECIDED and slot[0] > outcome.home_epoch + 2:
                self.expired += 1
            else:
                self.fail(f"{_named(lane)} is {outcome.verdict.name}, 2f+1 oracles signed {agreed[0].verdict.name}")


def _rule(values: Mapping[NodeId, Observation], f: int) -> tuple[Verdict, bytes, int]:
    """OK of f+1, the most votes first, then the smallest root; else another verdict of f+1; else undecided."""
    results = Counter((value.root, value.count) for value in values.values() if value.verdict is Verdict.OK)
    agreed = sorted((-votes, *result) for result, votes in results.items() if votes >= f + 1)
    if agreed:
        return Verdict.OK, agreed[0][1], agreed[0][2]
    verdicts = Counter(value.verdict for value in values.values() if value.verdict is not Verdict.OK)
    failed = sorted((-votes, verdict) for verdict, votes in verdicts.items() if votes >= f + 1)
    return (failed[0][1] if failed else Verdict.UNDECIDED), bytes(32), 0


def _is_sound(value: Observation, lanes_max: int) -> bool:
    """Whether the ledger takes it for one: a failure has no tokens, and names a miner, or nobody."""
    if value.lane >= lanes_max or value.verdict is Verdict.UNDECIDED:
        return False
    return value.verdict is Verdict.OK or (not value.count and not any(value.root[:12]))


def _is_that(outcome: Outcome, value: Observation) -> bool:
    # Where it is not ok an oracle names the miner in the place of a root.
    root = value.root if value.verdict is Verdict.OK else bytes(32)
    return (outcome.verdict, outcome.root) == (value.verdict, root)


def _named(lane: Lane) -> str:
    return f"lane {lane[2]} of task {lane[1]} of session {lane[0].hex()[:8]}"
