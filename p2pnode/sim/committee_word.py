"""S2 and S3: what correct keys sign. And S12: whom evidence convicts.

Every signature is looked at when it first appears, on a stream or gossip, by itself or inside a certificate, a page or
evidence, whoever sends it. By then it has to be durable in its signer's log, and it must not contradict anything that
this key ever signed, in whatever life. A log that is lost later was a log: what was durable once counts.
"""

from p2pnode.sim.checkers import Checker, Violation
from p2pnode.sim.committee_reading import Reading, Said, news_in, said_in, stored_end
from p2pnode.sim.disk import Batch
from p2pnode.sim.host import Host
from protocol.committee import storage
from protocol.committee.certificates import batch_digest
from protocol.committee.signer import BATCH, STATEMENT, batch_key, statement_key
from protocol.core.codec import Message
from protocol.core.errors import EvidenceError
from protocol.core.ids import NodeId
from protocol.messages import committee as words
from protocol.messages.committee import SignedBatch, State, Statement, StatementKind
from protocol.messages.evidence import ConflictingStatements
from protocol.results.evidence import Evidence, convict

Slot = tuple[NodeId, int, int]


class KeepsItsWord(Checker):
    """S2 and S3."""

    invariant = "S3"

    def __init__(self, reading: Reading) -> None:
        self.signatures = 0
        """Of correct keys, that were seen."""
        self._reading = reading
        self._logs: dict[str, dict[bytes, bytes]] = {}
        self._seen: set[bytes] = set()
        self._slots: dict[Slot, list[Statement]] = {}
        self._batches: dict[Slot, words.Batch] = {}
        self._last: Message | None = None

    def started(self, host: Host) -> None:
        """Of what was being written at a crash some may be durable after all."""
        if host.correct:
            self._note(host, tuple(host.disk.records.items()))

    def durable(self, host: Host, records: Batch) -> None:
        """Something may be signed and sent from now on."""
        if host.correct:
            self._note(host, records)

    def _note(self, host: Host, records: Batch) -> None:
        log = self._logs.setdefault(host.name, {})
        for name, value in records:
            if value is None or not name.startswith((STATEMENT, BATCH)):
                continue
            if log.setdefault(name, value) != value:
                self._broken("S2", f"the signer log says two things of {name.hex()}", host)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A message leaves on a stream; one that goes to many is read once."""
        if message is not self._last:
            self._last = message
            self._read(message)

    def published(self, host: Host, topic: str, message: Message) -> None:
        """A message leaves on gossip."""
        news = news_in(message)
        if news is not None:
            self._read(news)

    def _read(self, message: Message) -> None:
        for said in said_in(message):
            # A signature is of one digest: whatever else stands beside it is not signed.
            if said.signature not in self._seen:
                signer = self._reading.signer(said)
                self._seen.add(said.signature)
                host = None if signer is None else self.world.by_id.get(signer)
                if host is not None and host.correct:
                    self.signatures += 1
                    self._check(host, said)

    def _check(self, host: Host, said: Said) -> None:
        log = self._logs.get(host.name, {})
        if isinstance(said, SignedBatch):
            batch = said.batch
            name = batch_key(batch.home_epoch, batch.number)
            value = batch_digest(self._reading.domain, batch) + said.signature
            earlier = self._batches.setdefault((host.node, batch.home_epoch, batch.number), batch)
            if earlier != batch:
                self._broken("S2", f"two batches {batch.number} of home epoch {batch.home_epoch}", host)
            what = f"batch {batch.home_epoch}/{batch.number}"
        else:
            name = statement_key(said.kind, said.epoch, said.height)
            value = bytes(said.header) + said.signature
            self._check_slot(host, said)
            what = f"{said.kind.name.lower()} of {said.epoch}/{said.height}"
        if log.get(name) != value:
            found = "not in" if name not in log else "another than that of"
            self._broken("S3", f"its {what} is on the wire and {found} its durable log", host)

    def _check_slot(self, host: Host, said: Statement) -> None:
        others = self._slots.setdefault((host.node, said.epoch, said.height), [])
        for other in others:
            try:
                convict(self._reading.domain, ConflictingStatements(other, said))
            except EvidenceError:
                continue
            kinds = f"{other.kind.name.lower()} and {said.kind.name.lower()}"
            self._broken("S2", f"{kinds} of {said.epoch}/{said.height} contradict each other", host)
        others.append(said)

    def _broken(self, invariant: str, what: str, host: Host) -> None:
        raise Violation(invariant, what, self.world.now_us // 1_000, host.name)


class HoldsWhatItVotesFor(Checker):
    """S3, of blocks: before a vote leaves, the block is durable, with its body; so is the certificate of its parent."""

    invariant = "S3"

    def __init__(self) -> None:
        self._last: Message | None = None

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A vote leaves on a stream."""
        if message is self._last or not sender.correct or not isinstance(message, State):
            return
        self._last = message
        said = message.statement
        if said.kind is not StatementKind.VOTE:
            return
        records = sender.disk.records
        block = storage.open_block_key(said.epoch, said.height, said.header)
        # What is final since lies in the chain, or was passed by it.
        if block not in records and stored_end(records) < (said.epoch, said.height):
            self.fail(f"votes for a block of {said.epoch}/{said.height} that it does not have on disk", sender)


class OnlyTheGuilty(Checker):
    """S12: evidence convicts only who really signed both, so never a correct key; and S15, as far as it is the
    machines' own: nobody closes a correct member's stream for breaking a rule."""

    invariant = "S12"

    def __init__(self, reading: Reading) -> None:
        self.convicted: dict[str, int] = {}
        """How many pieces of evidence went round against whom."""
        self._reading = reading

    def published(self, host: Host, topic: str, message: Message) -> None:
        """Evidence is told."""
        news = news_in(message)
        if news is None:
            return
        told: tuple[Evidence, ...] = (
            *news.conflicting_statements,
            *news.conflicting_batches,
            *news.conflicting_frames,
            *news.conflicting_commits,
            *news.false_reveals,
            *news.conflicting_values,
        )
        for conflict in told:
            try:
                node = convict(self._reading.domain, conflict)
            except EvidenceError:
                if host.correct:
                    self.fail("tells evidence that convicts nobody", host)
                continue
            convicted = self.world.by_id.get(node)
            if convicted is None or convicted.correct:
                self.fail(f"evidence against {convicted.name if convicted else node.hex()}", host)
            else:
                self.convicted[convicted.name] = self.convicted.get(convicted.name, 0) + 1
