"""S1 and S17: there is one chain of finalized blocks, and one state after each of them.

A finalization is looked at when a correct node first sends it, hears it or has it on disk: the block and all before it
are entered into the one chain that all nodes together have, or contradict it.
"""

from p2pnode.sim.checkers import Checker, Violation
from p2pnode.sim.committee_reading import Reading, certificates_in, news_in, stored_blocks, stored_state
from p2pnode.sim.counter import CounterLedger, CounterState
from p2pnode.sim.disk import Batch
from p2pnode.sim.host import Host
from protocol.committee import storage
from protocol.committee.certificates import verify_certificate
from protocol.committee.payload import claimed_roots, opening_header
from protocol.committee.tree import Base
from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.messages.committee import Block, Certificate, CertificateKind, Header, Propose, header_digest
from protocol.roles.oracle import OracleMachine

Slot = tuple[int, int]


class OneChain(Checker):
    """S1. ``final`` is the chain: the digest of the final block of each slot."""

    invariant = "S1"

    def __init__(self, reading: Reading) -> None:
        self.final: dict[Slot, bytes] = {}
        self.final_ms: dict[Slot, int] = {}
        """When a slot first became final anywhere."""
        self.tops: dict[int, int] = {}
        """The highest slot of each epoch that any finalization names."""
        self._reading = reading
        self._headers: dict[bytes, Header] = {}
        self._open: dict[bytes, Certificate] = {}
        """Finalizations whose blocks are not all known."""
        self._seen: set[tuple[int, int, bytes]] = set()
        self._last: Message | None = None

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A message leaves on a stream; one that goes to many is read once."""
        if message is not self._last:
            self._last = message
            self._read(sender, message)

    def published(self, host: Host, topic: str, message: Message) -> None:
        """A message leaves on gossip."""
        news = news_in(message)
        if news is not None:
            self._read(host, news)

    def durable(self, host: Host, records: Batch) -> None:
        """What a correct node holds for final."""
        if not host.correct:
            return
        for block in stored_blocks(dict(records)):
            self._learn(block.header)
            if block.certificate is not None and block.certificate.kind is CertificateKind.FINALIZATION:
                self._enter(host, block.certificate)
        for name, value in records:
            if value is not None and name.startswith(storage.OPEN_CERTIFICATE):
                certificate = storage.unpack_certificate(value)
                if certificate.kind is CertificateKind.FINALIZATION:
                    self._enter(host, certificate)

    def ended(self) -> None:
        """Every finalization found its place, but of an epoch that nobody has on its disk yet: it has just begun."""
        for certificate in self._open.values():
            if (certificate.epoch, 0) not in self.final and (certificate.epoch - 1, 0) in self.final:
                continue
            self.fail(f"nobody knows the blocks before the final one of {certificate.epoch}/{certificate.height}")

    def _read(self, host: Host, message: Message) -> None:
        if isinstance(message, Propose):
            self._learn(message.header)
        for certificate, header in certificates_in(message):
            if header is not None:
                self._learn(header)
            if certificate.kind is CertificateKind.FINALIZATION:
                self._enter(host, certificate)

    def _learn(self, header: Header) -> None:
        digest = header_digest(self._reading.domain, header)
        if digest not in self._headers:
            self._headers[digest] = header
            for certificate in list(self._open.values()):
                self._connect(certificate)

    def _enter(self, host: Host, certificate: Certificate) -> None:
        name = (certificate.epoch, certificate.height, certificate.header)
        committee = self._reading.committees.get(certificate.epoch)
        if name in self._seen or committee is None:
            return
        try:
            verify_certificate(self._reading.domain, committee, certificate)
        except RemoteProtocolError:
            if host.correct:
                self.fail(f"passes on a finalization of {name[0]}/{name[1]} that does not hold", host)
            return
        self._seen.add(name)
        self.tops[name[0]] = max(name[1], self.tops.get(name[0], 0))
        self._connect(certificate)

    def _connect(self, certificate: Certificate) -> None:
        """Follow the parents down to a block that is in the chain already."""
        path: list[tuple[int, bytes]] = []
        digest = certificate.header
        while not path or (certificate.epoch, path[-1][0]) not in self.final:
            header = self._headers.get(digest)
            if header is None:
                self._open[certificate.header] = certificate
                return
            path.append((header.height, digest))
            digest = header.parent
        self._open.pop(certificate.header, None)
        self._agree(certificate, path)

    def _agree(self, certificate: Certificate, path: list[tuple[int, bytes]]) -> None:
        epoch, lowest = certificate.epoch, path[-1][0]
        between = dict(path)
        for height in range(lowest, certificate.height + 1):
            known, named = self.final.get((epoch, height)), between.get(height)
            if known is not None and known != named:
                at = f"{epoch}/{certificate.height}"
                self.fail(f"final blocks {epoch}/{height} and {at} conflict: the one is not before the other")
            if named is not None and known is None:
                self._no_other_above(certificate, height)
                self.final[epoch, height] = named
                self.final_ms[epoch, height] = self.world.now_us // 1_000

    def _no_other_above(self, certificate: Certificate, height: int) -> None:
        """A new final block below one that was final before lies on that one's way, or conflicts with it."""
        epoch = certificate.epoch
        above = [at for e, at in self.final if e == epoch and at > height]
        if above and max(above) > certificate.height:
            self.fail(f"final block {epoch}/{height} is not before the final one of {epoch}/{max(above)}")

    def opened(self, epoch: int, digest: bytes, header: Header) -> None:
        """An epoch's first block follows this."""
        self._headers[digest] = header
        self.final[epoch, 0] = digest
        for certificate in list(self._open.values()):
            self._connect(certificate)


class SameState(Checker):
    """S17, and the hand-over of S1: all correct nodes come to one state after each slot, the one that executing its
    block leads to and whose roots its header names; it is in every snapshot, and what a node that restarts comes back
    to; an epoch begins where a valid finalization closed the one before; cuts only grow."""

    invariant = "S17"

    def __init__(self, reading: Reading, chain: OneChain, ledger: CounterLedger) -> None:
        self.at: dict[str, Slot] = {}
        """How far each correct node has durably come."""
        self.states: dict[Slot, CounterState] = {}
        self.best: Slot = (1, 0)
        """As far as any correct node has come."""
        self.reading = reading
        self._chain = chain
        self._ledger = ledger
        self._packed: dict[Slot, bytes] = {}
        first = ledger.genesis(reading.committees[1])
        opening = opening_header(1, first.roots)
        self._open_epoch(1, opening)
        self._keep((1, 0), first)

    def started(self, host: Host) -> None:
        """What survived a crash may be more than anybody was told."""
        if not host.correct:
            return
        self.at[host.name] = (1, 0)
        self._look(host, tuple(host.disk.records.items()))
        for drive in host.drives:
            if isinstance(drive.machine, OracleMachine):
                self._came_back(host, drive.machine.simplex.tree.base)

    def durable(self, host: Host, records: Batch) -> None:
        """A node executed blocks, or turned to the next epoch."""
        if host.correct:
            self._look(host, records)

    def _came_back(self, host: Host, base: Base) -> None:
        slot = (base.header.epoch, base.header.height)
        if slot != self.at[host.name]:
            self.fail(f"came back to {slot} from a disk that says {self.at[host.name]}", host)
        if self._packed[slot] != base.state.pack():
            self.fail(f"came back to another state after {slot}", host)

    def _look(self, host: Host, records: Batch) -> None:
        written = dict(records)
        found: list[Block | storage.StoredState] = list(stored_blocks(written))
        stored = stored_state(written)
        if stored is not None:
            found.append(stored)  # behind the block after which it was written
        for each in sorted(found, key=lambda each: (each.header.epoch, each.header.height)):
            if isinstance(each, Block):
                self._block(host, each)
            else:
                self._snapshot(host, each, storage.packed_state(each, written))

    def _reach(self, host: Host, slot: Slot, header: Header) -> bool:
        """A node has come to a slot; whether others had before."""
        before = self.at.get(host.name, (1, 0))
        if slot < before:
            self.fail(f"went back from {before} to {slot}", host)
        self.at[host.name] = slot
        digest = header_digest(self.reading.domain, header)
        if self._chain.final.get(slot) not in (None, digest):
            raise Violation("S1", f"another block is final at {slot} here", self.world.now_us // 1_000, host.name)
        return slot in self.states

    def _block(self, host: Host, block: Block) -> None:
        header = block.header
        slot = (header.epoch, header.height)
        if self._reach(host, slot, header):
            return
        before = self.states[max(at for at in self.states if at < slot)]
        closing = header.height > self.world.genesis.params.epoch_blocks
        state = before if closing else self._ledger.execute(before, block.body)
        if claimed_roots(header) != state.roots:
            self.fail(f"the state after {slot} is not the one that its header names", host)
        self._grown(host, slot, before, state)
        self._keep(slot, state)

    def _snapshot(self, host: Host, stored: storage.StoredState, packed: bytes) -> None:
        slot = (stored.epoch, stored.header.height)
        if not self._reach(host, slot, stored.header):
            self._check(host, slot, stored, packed)
        elif self._packed[slot] != packed:
            self.fail(f"another state after {slot} than other nodes", host)

    def _check(self, host: Host, slot: Slot, stored: storage.StoredState, packed: bytes) -> None:
        """The first node begins an epoch. (No snapshot in the midst of one is new: its block was before it.)"""
        state = self._ledger.restore(packed)
        epoch, header = stored.epoch, stored.header
        closed = max(at for at in self.states if at[0] == epoch - 1)
        if header != opening_header(epoch, self.states[closed].roots):
            self.fail(f"epoch {epoch} does not begin with the state that closed the one before, at {closed}", host)
        self._check_closing(host, stored)
        self.reading.learn_committee(epoch, tuple(map(NodeId, stored.members)))
        self._open_epoch(epoch, header)
        self._grown(host, slot, self.states[closed], state)
        self._keep(slot, state)

    def _grown(self, host: Host, slot: Slot, before: CounterState, state: CounterState) -> None:
        for home, (number, _) in before.cut.items():
            if home[0] in state.homes and state.included(*home)[0] < number:
                self.fail(f"the cut after {slot} has less of epoch {home[0]} than the one before it", host)

    def _check_closing(self, host: Host, stored: storage.StoredState) -> None:
        """The hand-over stands on a finalization of a block at the epoch's end or beyond."""
        closing, last = stored.closing, self.world.genesis.params.epoch_blocks
        what = None
        if closing is None or closing.certificate.kind is not CertificateKind.FINALIZATION:
            what = "no finalization"
        elif closing.certificate.epoch != stored.epoch - 1 or closing.certificate.height < last:
            what = f"one of {closing.certificate.epoch}/{closing.certificate.height}"
        else:
            try:
                verify_certificate(self.reading.domain, self.reading.committees[stored.epoch - 1], closing.certificate)
            except RemoteProtocolError as error:
                what = str(error)
        if what is not None:
            at_ms = self.world.now_us // 1_000
            raise Violation("S1", f"hands over to epoch {stored.epoch} on {what}", at_ms, host.name)

    def _open_epoch(self, epoch: int, header: Header) -> None:
        self._chain.opened(epoch, header_digest(self.reading.domain, header), header)

    def _keep(self, slot: Slot, state: CounterState) -> None:
        self._packed[slot] = state.pack()
        self.states[slot] = state
        self.best = max(self.best, slot)
