"""Before the first signature: is the signer log whole? The others are asked what they have of this key."""

from protocol.committee.certificates import statement_signer, verify_batch
from protocol.committee.effects import COMMITTEE
from protocol.committee.members import Committee
from protocol.committee.repeats import statements_by
from protocol.committee.signer import Signer
from protocol.committee.simplex import Simplex
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Note, Persist
from protocol.core.signing import Domain
from protocol.messages.committee import (
    RECALLED_BATCHES_MAX,
    STATEMENTS_MAX,
    Certified,
    Recalled,
)

SILENT_EPOCHS = 2
"""A lost key signs nothing in the epoch that 2f others are in, nor in the next. It may have been the only one to hear
that the epoch was closed, and have signed in the next one already; had it come further than that, 2f+1 members would
have finalized the next one's end, and of the 2f who answer at least one would be in it."""


class Starting:
    """Waits for the answers of 2f other members; answering needs no log, so all can start at once.

    An answer from a later epoch does not count: there is something to catch up on first. A log that another shows to
    lack a valid signature of its key is lost, one that is merely behind is whole. Spec: [SIGNER-START.1]
    """

    def __init__(self, domain: Domain, signer: Signer, lost: str | None) -> None:
        self._domain = domain
        self._signer = signer
        self._answered: dict[NodeId, None] = {}
        self.lost = lost
        """Why the log is lost; None while it may be whole."""
        self.done = False

    @property
    def answers(self) -> int:
        """How many members have answered."""
        return len(self._answered)

    def answer(self, peer: NodeId, recalled: Recalled, committee: Committee) -> bool:
        """Take an answer; whether enough have come now."""
        self.examine(recalled)
        if recalled.epoch <= committee.epoch and peer in committee.places:
            self._answered[peer] = None
        if self.done or len(self._answered) < 2 * committee.faulty_max:
            return False
        self.done = True
        return True

    def examine(self, recalled: Recalled) -> None:
        """Look for valid signatures of this key that the log lacks."""
        for statement in recalled.statements:
            try:
                mine = statement_signer(self._domain, statement) == self._signer.me
            except RemoteProtocolError:
                continue
            if mine and self._signer.lacks(statement):
                self.lost = f"{statement.kind.name.lower()} of {statement.epoch}/{statement.height} is missing in it"
        for signed in recalled.batches:
            if signed.batch.oracle == self._signer.me and self._signer.lacks_batch(signed.batch):
                try:
                    verify_batch(self._domain, signed)
                except RemoteProtocolError:
                    continue
                self.lost = f"batch {signed.batch.number} of epoch {signed.batch.home_epoch} is missing in it"

    def again(self) -> None:
        """Another epoch has begun before enough had answered: its committee is asked."""
        self._answered.clear()


def recall(simplex: Simplex, final: Certified | None, asker: NodeId) -> Recalled:
    """What this node knows that a member has signed, and its latest finalization. Answering needs no log."""
    place = simplex.committee.places.get(asker)
    statements = [] if place is None else list(statements_by(simplex, place))[:STATEMENTS_MAX]
    batches = [signed for signed in simplex.waiting.all() if signed.batch.oracle == asker]
    return Recalled(
        simplex.committee.epoch, simplex.height, final, tuple(statements), tuple(batches[:RECALLED_BATCHES_MAX])
    )


def silence(signer: Signer, epoch: int, reason: str) -> list[object]:
    """The log is lost: nothing is signed in this epoch, nor in the next. Spec: [SIGNER-LOST.1]"""
    records = signer.silence(epoch + SILENT_EPOCHS)
    if not records:
        return []
    told = (("why", reason), ("silent_before", signer.silent_before_epoch))
    return [Persist(COMMITTEE, records, vital=False), Note("oracle.log-lost", told)]
