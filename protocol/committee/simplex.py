"""Simplex consensus of one epoch, without I/O. Source: Chan & Pass, TCC 2023 (eprint 2023/463); DESIGN §7.

At every height one leader proposes a block. A member votes for it, or gives up when its timer fires and *nullifies*
the height; 2f+1 votes are a notarization, 2f+1 nullifies a nullification, and either lets everybody leave the height.
Who leaves with a notarization and never nullified signs *finalize*; 2f+1 of these make the block and all before it
final. Safety, in three lines: a member votes once a height, so two notarized blocks of one height do not exist; it
never signs both nullify and finalize of a height, so a finalized height was not nullified; and a block is voted for
only with nullifications of every height between it and its parent, so each later block has the finalized one below it.

Everything that comes in goes through ``on_…``, which takes it or raises CommitteeError or SignatureError; then
``_pump`` does whatever has become possible, until nothing is.
"""

from dataclasses import dataclass

from protocol.committee import storage
from protocol.committee.certificates import (
    CommitteeError,
    assemble,
    check_certified,
    check_header,
    statement_signer,
    statements_of,
    verify_batch,
    verify_certificate,
)
from protocol.committee.effects import COMMITTEE, Closed, Convicted, Executed, Held, LogLost, Settled, ToMembers
from protocol.committee.members import Committee
from protocol.committee.proposals import draft, objection, proposal_again
from protocol.committee.signer import Signer
from protocol.committee.tally import Tally
from protocol.committee.timing import timeout_ms, wants_block
from protocol.committee.tree import Tree
from protocol.committee.waiting import Waiting
from protocol.core.codec import pack
from protocol.core.machine import Persist
from protocol.core.params import Params
from protocol.core.signing import Domain, keccak
from protocol.messages.committee import (
    NO_HEADER,
    Block,
    Certificate,
    CertificateKind,
    Certified,
    Header,
    Offer,
    Propose,
    SignedBatch,
    State,
    Statement,
    StatementKind,
    header_digest,
)

BODIES_AHEAD_MAX = 4
"""Proposals for heights this far ahead are kept; later ones come again by re-sending."""
BODIES_KEPT = 8
"""Blocks without a certificate are forgotten this many heights after their own was left."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all epochs."""

    domain: Domain
    params: Params


class Simplex:
    """One epoch at one node: a member if the signer's key is in the committee, else a follower."""

    def __init__(
        self, rules: Rules, committee: Committee, tree: Tree, waiting: Waiting, signer: Signer, now_ms: int
    ) -> None:
        self.committee = committee
        self.tree = tree
        self.waiting = waiting
        self.signer = signer
        self.me = committee.places.get(signer.me)
        self.closed = False
        self.height = 0
        self.entered_ms = now_ms
        self.timer_ms: int | None = None
        self.settled: Certificate | None = None
        """Of the block that is the tree's base; None where that is the epoch's opening."""
        self.snapshot_height = tree.base.header.height
        """Of the last block after which the whole state was written down."""
        self._rules = rules
        self.tallies: dict[int, Tally] = {}
        """Of the heights above the latest finalization, a bounded way back and ahead."""
        self._notarized_ms = now_ms
        self._looked_ms = now_ms
        self._counted: dict[tuple[CertificateKind, int, bytes], None] = {}
        self._enter(tree.base.header.height + 1, now_ms)

    def resume(self, blocks: list[Block], certificates: list[Certificate], now_ms: int) -> None:
        """Take up what this member had on disk: blocks and certificates that are not final, and its own word."""
        epoch = self.committee.epoch
        for certificate in certificates:
            self.tree.add_certificate(certificate)
        for block in blocks:
            self.tree.add_block(header_digest(self._rules.domain, block.header), block.header, block.body)
        certified = [certificate.height for certificate in certificates]
        self._enter(1 + max([self.tree.final_height, *certified]), now_ms)
        if self.me is not None:
            for statement in self.signer.statements(epoch, above=self._lowest_of_interest()):
                self._add(statement, self.me)
        proposed = self.signer.signed(StatementKind.PROPOSAL, epoch, self.height)
        if proposed is not None and proposed.header in self.tree.bodies:
            self._tally(self.height).proposal = proposal_again(self.tree, proposed)

    # What comes in

    def on_propose(self, message: Propose, now_ms: int) -> list[object]:
        """The leader's block. Spec: [SIMPLEX-LEADER.1]"""
        statement, header = message.statement, message.header
        if statement.kind is not StatementKind.PROPOSAL or len(message.body) > self._params.block_bytes_max:
            raise CommitteeError("a proposal carries the statement of a proposal, and a body within the bound")
        if statement.epoch != self.committee.epoch or not self._in_reach(header.height, BODIES_AHEAD_MAX):
            return []
        check_header(self._rules.domain, header, statement.epoch, statement.height, statement.header)
        if keccak(message.body) != header.body:
            raise CommitteeError("the body is not the one that the header names")
        place = self._place_of(statement)
        if place != self.committee.leader(statement.height):
            raise CommitteeError(f"member {place} does not lead height {statement.height}")
        carried = [*message.nullifications, *([message.parent] if message.parent else [])]
        for certificate in carried:
            # All of them before any is taken: what a good one led to would be lost with the refusal of a bad one.
            self._check(certificate)
        effects = self._add(statement, place)
        tally = self._tally(statement.height)
        if self.proposed(statement.height) == statement.header:
            self.tree.add_block(statement.header, header, message.body)
            if tally.proposal is None and statement.height >= self.height:
                tally.proposal = message
        for certificate in sorted(carried, key=lambda certificate: certificate.height):
            effects += self._take(certificate, None, now_ms)
        return effects + self._pump(now_ms)

    def on_statement(self, statement: Statement, now_ms: int) -> list[object]:
        """A member's vote, nullify, finalize, or the statement of a proposal without its block."""
        if statement.epoch != self.committee.epoch or not self._in_reach(
            statement.height, self._params.heights_ahead_max
        ):
            return []
        if statement.height in self.tallies and self.tallies[statement.height].knows(statement):
            return []
        return self._add(statement, self._place_of(statement)) + self._pump(now_ms)

    def on_certified(self, message: Certified, now_ms: int) -> list[object]:
        """A certificate, of any height. Spec: [SIMPLEX-JUMP.1]"""
        if message.certificate.epoch != self.committee.epoch:
            return []
        check_certified(self._rules.domain, message)
        self._check(message.certificate)
        return self._take(message.certificate, message.header, now_ms) + self._pump(now_ms)

    def on_offer(self, signed: SignedBatch, now_ms: int) -> list[object]:
        """A batch; forwarded to all members when it is new. Spec: [BATCH-FORWARD.1]"""
        if not self.waiting.wants(signed, self.tree.base.state):
            return []
        verify_batch(self._rules.domain, signed)
        conflict = self.waiting.add(signed, now_ms)
        if conflict is not None:
            self.waiting.convicted.add(signed.batch.oracle)
            return [Convicted(conflict)]
        return [Held(signed), ToMembers(Offer(signed)), *self._pump(now_ms)]

    def on_block(self, block: Block, now_ms: int) -> list[object]:
        """A block that came by sync: with a valid certificate, or named by one that is held.

        Spec: [SYNC-CHECK.1]
        """
        header, digest = block.header, header_digest(self._rules.domain, block.header)
        if header.epoch != self.committee.epoch or header.height <= self.tree.base.header.height:
            return []
        if keccak(block.body) != header.body or len(block.body) > self._params.block_bytes_max:
            raise CommitteeError("a block's body is the one that its header names, and within the bound")
        effects: list[object] = []
        if block.certificate is not None:
            check_certified(self._rules.domain, Certified(block.certificate, header))
            self._check(block.certificate)
            effects += self._take(block.certificate, header, now_ms)
        if self.tree.names(digest, header.height) or self.proposed(header.height) == digest:
            self.tree.add_block(digest, header, block.body)
            effects.append(self._persist(storage.block_record(self.tree, digest)))
        tally = self._tally(header.height) if header.height == self.height else None
        if tally is not None and tally.proposal is None and self.proposed(header.height) == digest:
            said = tally.said(StatementKind.PROPOSAL, self.committee.leader(header.height))
            assert said is not None
            tally.proposal = Propose(said, header, block.body, None, ())
        return effects + self._pump(now_ms)

    def on_time(self, now_ms: int) -> list[object]:
        """Whatever the time alone makes possible."""
        effects: list[object] = []
        if self.timer_ms is not None and self.timer_ms <= now_ms:
            self.timer_ms = None
            effects += self._say(StatementKind.NULLIFY, NO_HEADER, self.height)
        return effects + self._pump(now_ms)

    def next_deadline(self) -> int | None:
        """When ``on_time`` can do something."""
        if self.closed or self.me is None:
            return None
        times = [self._notarized_ms + self._params.heartbeat_ms]
        if self.leads() and self.signer.signed(StatementKind.PROPOSAL, self.committee.epoch, self.height) is None:
            times.append(self.entered_ms + self._params.block_interval_ms_min)
        # What is past and could not be done waits for an event, or for the timer; that is never past unheard.
        ahead = [at for at in times if at > self._looked_ms]
        return min(ahead if self.timer_ms is None else [*ahead, self.timer_ms], default=None)

    # The rules

    def _pump(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        while not self.closed:
            self._looked_ms = now_ms
            new = self._certify(now_ms) or self._settle() or self._propose(now_ms) or self._vote(now_ms)
            if not new:
                break
            effects += new
        self._arm(now_ms)
        return effects

    def _certify(self, now_ms: int) -> list[object]:
        """Make a certificate of what has come in, where one has become possible."""
        while self._counted:
            kind, height, header = next(iter(self._counted))
            del self._counted[kind, height, header]
            tally = self.tallies.get(height)
            if tally is None or self.tree.knows(kind, height):
                continue
            signatures = tally.agreed(kind, header, self.committee.quorum)
            if signatures is not None:
                certificate = assemble(self.committee, kind, height, header, signatures)
                return self._hold(certificate, self.tree.headers.get(header), now_ms)
        return []

    def _hold(self, certificate: Certificate, header: Header | None, now_ms: int) -> list[object]:
        """A valid certificate that is new: durable before its height is left, and sent to all when it moves us on.

        Spec: [SIMPLEX-LEAVE.1]
        """
        if not self.tree.add_certificate(certificate):
            return []
        if header is not None:
            self.tree.add_header(certificate.header, header)
        effects: list[object] = [self._persist((storage.open_certificate_key(certificate), pack(certificate)))]
        if certificate.kind is CertificateKind.NOTARIZATION:
            self._notarized_ms = now_ms
        if certificate.height >= self.height:
            effects.append(ToMembers(self.certified(certificate)))
            if certificate.kind is CertificateKind.NOTARIZATION:
                effects += self._say(StatementKind.FINALIZE, certificate.header, certificate.height)
            self._enter(certificate.height + 1, now_ms)
        if certificate.kind is CertificateKind.FINALIZATION:
            self._drop_tallies(certificate.height)
        return effects

    def _vote(self, now_ms: int) -> list[object]:
        proposed = self.tallies[self.height].proposal if self.height in self.tallies else None
        if proposed is None or not self._may_say(StatementKind.VOTE):
            return []
        if objection(self.tree, self.waiting, self._params, proposed, self.entered_ms) is not None:
            return []
        digest = proposed.statement.header
        return self._say(StatementKind.VOTE, digest, self.height, storage.block_record(self.tree, digest))

    def _propose(self, now_ms: int) -> list[object]:
        if not self.leads() or not self._may_say(StatementKind.PROPOSAL) or not self._wants_block(now_ms):
            return []
        if now_ms < self.entered_ms + self._params.block_interval_ms_min:
            return []
        made = draft(self.tree, self.waiting, self.height)
        if made is None:
            return []
        digest = header_digest(self._rules.domain, made.header)
        signed = self.signer.sign(StatementKind.PROPOSAL, self.committee.epoch, self.height, digest)
        if signed is None:
            return []
        self.tree.add_block(digest, made.header, made.body)
        message = Propose(signed.statement, made.header, made.body, made.parent, made.nullifications)
        self._tally(self.height).proposal = message
        durable = self._persist(storage.block_record(self.tree, digest), *signed.records)
        return [durable, ToMembers(message), *self._add(signed.statement, self.committee.leader(self.height))]

    def _settle(self) -> list[object]:
        """Execute what is final, move it into the chain, and close the epoch with its last block.

        Spec: [EPOCH-CLOSE.1]
        """
        certificate = self.tree.settleable()
        if certificate is None:
            return []
        records = storage.settled_records(self.tree, certificate)
        headers, states = self.tree.settle(certificate)
        self.waiting.settle(states[-1])
        self._drop_tallies(certificate.height)
        self.settled = certificate
        if certificate.height >= self.snapshot_height + self._params.snapshot_blocks:
            self.snapshot_height = certificate.height
            records += storage.state_records(self.committee, self.tree.base, certificate, None)
        effects: list[object] = [Executed(states), self._persist(*records), Settled(headers, states, certificate)]
        if self._closes(certificate):
            self.closed = True
            effects.append(Closed())
        return effects

    def _closes(self, certificate: Certificate) -> bool:
        return certificate.height >= self.tree.closing_above

    # The timer

    def _arm(self, now_ms: int) -> None:
        if self.closed or self.me is None or not self._may_say(StatementKind.NULLIFY) or not self._wants_block(now_ms):
            self.timer_ms = None
        elif self.timer_ms is None:
            self.timer_ms = now_ms + self._timeout_ms()

    def _timeout_ms(self) -> int:
        return timeout_ms(self._params, self.committee.faulty_max, self.height, self.tree.final_height)

    def _wants_block(self, now_ms: int) -> bool:
        due = now_ms >= self._notarized_ms + self._params.heartbeat_ms
        return due or wants_block(self.tree, self.waiting, self.height)

    # What this member signs

    def _may_say(self, kind: StatementKind) -> bool:
        """Whether this member may still make a statement of its height. Spec: [EPOCH-CLOSE.2]"""
        return (
            self.me is not None
            and self.tree.final_height < self.tree.closing_above
            and self.signer.may_sign(self.committee.epoch)
            and self.signer.signed(kind, self.committee.epoch, self.height) is None
        )

    def _say(self, kind: StatementKind, header: bytes, height: int, *records: storage.Record) -> list[object]:
        """Sign, make durable, send, and count one's own word. Nothing if the signer log forbids it.

        Spec: [SIMPLEX-PERSIST.1]
        """
        if self.me is None:
            return []
        signed = self.signer.sign(kind, self.committee.epoch, height, header)
        if signed is None:
            return []
        effects: list[object] = [self._persist(*records, *signed.records)]
        return [*effects, ToMembers(State(signed.statement)), *self._add(signed.statement, self.me)]

    # Bookkeeping

    @property
    def _params(self) -> Params:
        return self._rules.params

    def _enter(self, height: int, now_ms: int) -> None:
        self.height = height
        self.entered_ms = now_ms
        self.timer_ms = None
        for at, tally in self.tallies.items():
            if at < height:
                tally.proposal = None
        self._drop_tallies(height - self._params.heights_ahead_max)
        self.tree.drop_unnotarized(below=height - BODIES_KEPT)

    def leads(self) -> bool:
        """Whether this member leads its height."""
        return self.me is not None and self.committee.leader(self.height) == self.me

    def _in_reach(self, height: int, ahead: int) -> bool:
        return self._lowest_of_interest() < height <= self.height + ahead

    def _lowest_of_interest(self) -> int:
        return max(self.tree.final_height, self.height - self._params.heights_ahead_max)

    def _tally(self, height: int) -> Tally:
        return self.tallies.setdefault(height, Tally())

    def _drop_tallies(self, height: int) -> None:
        self.tallies = {at: tally for at, tally in self.tallies.items() if at > height}

    def _place_of(self, statement: Statement) -> int:
        signer = statement_signer(self._rules.domain, statement)
        place = self.committee.places.get(signer)
        if place is None:
            raise CommitteeError(f"{signer.hex()} is no member of the committee of epoch {self.committee.epoch}")
        return place

    def _add(self, statement: Statement, place: int) -> list[object]:
        lost: list[object] = [LogLost(statement)] if place == self.me and self.signer.lacks(statement) else []
        conflict = self._tally(statement.height).add(statement, place)
        if statement.kind is not StatementKind.PROPOSAL:
            self._counted[CertificateKind(statement.kind), statement.height, statement.header] = None
        if conflict is None:
            return lost
        self.waiting.convicted.add(self.committee.members[place])
        return [*lost, Convicted(conflict)]

    def _check(self, certificate: Certificate) -> None:
        """Raises CommitteeError or SignatureError for a certificate that neither is known nor holds."""
        if certificate.epoch != self.committee.epoch:
            raise CommitteeError("a certificate of another epoch")
        if not self.tree.knows(certificate.kind, certificate.height):
            verify_certificate(self._rules.domain, self.committee, certificate)

    def _take(self, certificate: Certificate, header: Header | None, now_ms: int) -> list[object]:
        """A certificate that was checked."""
        if not self.tree.knows(certificate.kind, certificate.height):
            return [*self._contradictions(certificate), *self._hold(certificate, header, now_ms)]
        if header is not None and self.tree.names(certificate.header, certificate.height):
            self.tree.add_header(certificate.header, header)
        return []

    def _contradictions(self, certificate: Certificate) -> list[object]:
        tally = self.tallies.get(certificate.height)
        effects: list[object] = []
        for place, statement in statements_of(certificate):
            if place == self.me and self.signer.lacks(statement):
                effects.append(LogLost(statement))
            conflict = tally.contradicted(statement, place) if tally is not None else None
            if conflict is not None:
                self.waiting.convicted.add(self.committee.members[place])
                effects.append(Convicted(conflict))
        return effects

    def certified(self, certificate: Certificate) -> Certified:
        """A certificate with its header, if that is here."""
        named = certificate.kind is not CertificateKind.NULLIFICATION
        return Certified(certificate, self.tree.headers.get(certificate.header) if named else None)

    def proposed(self, height: int) -> bytes | None:
        """The digest that the leader of a height proposed first, if it is known."""
        tally = self.tallies.get(height)
        said = None if tally is None else tally.said(StatementKind.PROPOSAL, self.committee.leader(height))
        return None if said is None else said.header

    def _persist(self, *records: storage.Record) -> Persist:
        return Persist(COMMITTEE, records, vital=False)
