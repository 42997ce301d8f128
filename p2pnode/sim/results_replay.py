"""S17: one ledger. An auditor of its own executes every final block, from the bodies on correct nodes' disks, and every
correct oracle has to come to the same state by its own way, through crashes and snapshots; cuts only grow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from p2pnode.sim.checkers import Checker, Violation
from p2pnode.sim.committee_chain import OneChain, Slot
from p2pnode.sim.committee_reading import Reading, stored_blocks
from p2pnode.sim.disk import Batch
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from protocol.committee.payload import Payload, claimed_roots, opening_header
from protocol.core.errors import RemoteProtocolError
from protocol.core.machine import Received
from protocol.ledger import Ledger, LedgerState
from protocol.messages.committee import Block, Header, header_digest
from protocol.messages.results import Outcome
from protocol.roles.oracle import OracleMachine

LOOK_EVERY = 16
"""A node's own state is compared after so many of its events."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A final block and the state after it."""

    header: Header
    state: LedgerState
    before: LedgerState


class OneLedger(Checker):
    """S17. ``states`` are the auditor's, by slot; height 0 is where an epoch begins."""

    invariant = "S17"

    def __init__(self, reading: Reading, chain: OneChain, ledger: Ledger) -> None:
        self.reading = reading
        self.states: dict[Slot, LedgerState] = {}
        self.headers: dict[Slot, Header] = {}
        self.at: dict[str, Slot] = {}
        """How far each correct node has come."""
        self.best: Slot = (1, 0)
        """As far as any correct node has come."""
        self.outcomes: dict[tuple[bytes, int, int], tuple[Outcome, int]] = {}
        """Each lane's outcome and its place in the results tree."""
        self.decided_in: dict[tuple[bytes, int, int], Slot] = {}
        """The block in which it came."""
        self._chain = chain
        self._ledger: Payload = ledger
        self._blocks: dict[bytes, Block] = {}
        """Final blocks whose parent is not executed yet, by digest."""
        self._slots: dict[bytes, Slot] = {}
        """Of what is executed, by digest."""
        first = ledger.genesis(reading.committees[1])
        opening = opening_header(1, first.roots)
        self._keep((1, 0), opening, first)
        chain.opened(1, header_digest(reading.domain, opening), opening)

    # What is final

    def durable(self, host: Host, records: Batch) -> None:
        """A correct node holds blocks for final: ``OneChain`` has looked at them before."""
        if host.correct:
            self._look(host, dict(records))

    def started(self, host: Host) -> None:
        """What survived a crash may be more than anybody was told."""
        if host.correct:
            self._look(host, host.disk.records)

    def _look(self, host: Host, records: Mapping[bytes, bytes | None]) -> None:
        for block in stored_blocks(records):
            header = block.header
            slot, digest = (header.epoch, header.height), header_digest(self.reading.domain, header)
            final = self._chain.final.get(slot)
            if final not in (None, digest):
                raise Violation("S1", f"another block is final at {slot} here", self.world.now_us // 1_000, host.name)
            if digest not in self._slots and digest not in self._blocks:
                self._blocks[digest] = block
        while self._execute():
            pass

    def _execute(self) -> bool:
        """Enter one block whose parent is in."""
        for digest, block in self._blocks.items():
            if block.header.parent not in self._slots:
                self._turn(block.header)
            if block.header.parent in self._slots:
                del self._blocks[digest]
                self._enter(digest, block)
                return True
        return False

    def _turn(self, header: Header) -> None:
        """A block of the next epoch: does it follow the state that closed the last one?"""
        epoch = header.epoch
        if (epoch, 0) in self.states or self.best[0] != epoch - 1:
            return
        closed = self.states[self.best]
        opening = opening_header(epoch, closed.roots)
        if header_digest(self.reading.domain, opening) != header.parent:
            return
        if self.best[1] < self.world.genesis.params.epoch_blocks:
            self.fail(f"epoch {epoch} follows {self.best}, before the epoch's end")
        turned = self._ledger.turn(closed, self.reading.committees[epoch])
        self._keep((epoch, 0), opening, turned)
        self._chain.opened(epoch, header.parent, opening)
        self._tell((epoch, 0), closed)

    def _enter(self, digest: bytes, block: Block) -> None:
        header = block.header
        slot, before = (header.epoch, header.height), self.states[self._slots[header.parent]]
        if self._chain.final.get(slot) != digest:
            at_ms = self.world.now_us // 1_000
            raise Violation("S1", f"a block of {slot} is taken for final that no finalization covers", at_ms)
        try:
            state = self._ledger.execute(before, block.body)
        except RemoteProtocolError as error:
            self.fail(f"the final block {slot} does not hold: {error}")
        if claimed_roots(header) != state.roots:
            self.fail(f"the state after {slot} is not the one that its header names")
        for home, number in _cut(before):
            if home[0] in state.homes and state.included(*home)[0] < number:
                self.fail(f"the cut after {slot} has less of epoch {home[0]} than the one before it")
        first = state.mountain.count - len(state.decided)
        for place, outcome in enumerate(state.decided):
            self._decided(outcome, first + place, slot)
        self._keep(slot, header, state)
        self._tell(slot, before)

    def _decided(self, outcome: Outcome, index: int, slot: Slot) -> None:
        lane = (outcome.session, outcome.task, outcome.lane)
        if lane in self.outcomes:
            at_ms = self.world.now_us // 1_000
            raise Violation("S6", f"lane {lane[2]} of task {lane[1]} has a second outcome", at_ms)
        self.outcomes[lane], self.decided_in[lane] = (outcome, index), slot

    def _keep(self, slot: Slot, header: Header, state: LedgerState) -> None:
        self.states[slot], self.headers[slot] = state, header
        self._slots[header_digest(self.reading.domain, header)] = slot
        self.best = max(self.best, slot)
        if slot[1] == 0:
            # Fixed for the whole of the epoch: so what is said in the next one can be read at once.
            self.reading.learn_committee(slot[0] + 1, state.next_members)

    def _tell(self, slot: Slot, before: LedgerState) -> None:
        entered = Entered(self.headers[slot], self.states[slot], before)
        for hook in [checker.entered for checker in self.world.watch.checkers if isinstance(checker, Follower)]:
            hook(entered)

    # What each node makes of it

    def handled(self, drive: Drive, event: object, effects: list[object]) -> None:
        """Now and then a node's own state is held against the auditor's."""
        if drive.handled % LOOK_EVERY == 0 and isinstance(event, Received):
            self._compare(drive)

    def crashed(self, host: Host) -> None:
        """What it last came to counts too."""
        for drive in host.drives:
            self._compare(drive)

    def ended(self) -> None:
        """All correct nodes agree in the end, and nothing that is final is missing here."""
        for host in self.world.hosts.values():
            for drive in host.drives:
                self._compare(drive)
        for block in self._blocks.values():
            self.fail(f"nobody knows what comes before the final block {block.header.epoch}/{block.header.height}")

    def _compare(self, drive: Drive) -> None:
        host, machine = drive.host, drive.machine
        if not host.correct or not isinstance(machine, OracleMachine):
            return
        base = machine.simplex.tree.base
        slot = (base.header.epoch, base.header.height)
        if slot == self.at.get(host.name):
            return
        known = self.states.get(slot)
        if known is None:
            return  # not durable anywhere yet
        self.at[host.name] = slot
        if known.roots != base.state.roots:
            self.fail(f"came to another state after {slot} than other nodes", host)


class Follower(Checker):
    """A checker that is told of every final block, in order, and of every turn of an epoch."""

    def entered(self, entered: Entered) -> None:
        """A block is final and executed; or an epoch begins, where the header's height is 0."""


def _cut(state: LedgerState) -> Iterator[tuple[tuple[int, bytes], int]]:
    for epoch, members in state.homes.items():
        for member in members:
            yield (epoch, member), state.included(epoch, member)[0]
