"""What a miner keeps of the answers that it gave: their receipts, for whoever asks later.

A lane has one if this miner ran all of it, and its router has shown why it was picked.
"""

from dataclasses import dataclass

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest
from protocol.core.signing import Domain, typed_digest, verify
from protocol.light.lane_papers import LanePapers, LastFrame, Ordered, lent
from protocol.light.shelf import News, ReceiptShelf
from protocol.messages.envelope import envelope_digest
from protocol.messages.receipts import Tokens
from protocol.messages.results import SignedSession
from protocol.messages.sessions import BidSet, SessionReady
from protocol.messages.tasks import AckMessage, StartTask
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import Lease
from protocol.roles.miner.transcripts import Draft


@dataclass(frozen=True, slots=True)
class Receipts:
    """See the module. ``shelf`` is the node's; None: nothing is kept. Spec: [RECEIPT-KEPT.1]"""

    shelf: ReceiptShelf | None
    domain: Domain
    genesis: str

    def explained(self, lease: Lease, ready: SessionReady) -> list[object]:
        """The router of a lease shows why it was picked. Raises RemoteProtocolError."""
        assignment = ready.assignment
        if assignment.session != lease.session or lease.generation not in assignment.generations[:1]:
            raise RemoteProtocolError("an assignment that does not name this lease for lane 0")
        if assignment.bid_set != envelope_digest(self.domain, ready.bid_set, BidSet):
            raise RemoteProtocolError("an assignment that names another bid set")
        verify(typed_digest(self.domain, assignment), ready.signature, lease.router, "the assignment")
        lease.lent = lent(assignment, ready.signature, ready.bid_set)
        return []

    def drafts(self, start: StartTask) -> bool:
        """Whether an order's lane is to have a receipt, so that its tokens are needed."""
        return self.shelf is not None and start.lane == 0 and start.resume is None

    def ended(self, lease: Lease, lane: Lane, now_ms: int) -> None:
        """A lane's end is signed."""
        draft, writer, papers = lane.draft, lane.writer, lane.papers
        if self.shelf is None or lease.lent is None or draft is None or writer is None or papers is None:
            return
        if lane.generation[2] or lane.earlier:
            return
        ended, generation = lane.report(), lease.generation
        last = LastFrame(ended.end.completion_tokens, Digest(ended.chain), ended.signature)
        collected = LanePapers({generation: lease.lent}, {generation: last})
        opened = SignedSession(lease.opening, lease.signature)
        ordered = Ordered(opened, lane.order, papers.order_signature, draft.prompt)
        tokens = Tokens(*draft.first(last.index))
        receipt = collected.receipt(self.genesis, ordered, [writer.head], tokens, writer.chain, ended.end)
        self.shelf.keep(receipt, now_ms)

    def acked(self, message: AckMessage) -> None:
        """An ack that its client signed."""
        if self.shelf is not None:
            self.shelf.acked(message)

    def news(self, news: News) -> None:
        """What is said of a lane of this miner's."""
        if self.shelf is not None:
            self.shelf.news(news)


def draft_of(start: StartTask) -> Draft:
    """The tokens of a lane, while they come."""
    resume = start.resume
    return Draft(start.prompt) if resume is None else Draft(start.prompt, list(resume.ids), list(resume.texts))
