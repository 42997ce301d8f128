"""What a router keeps of the answers that it relayed: their receipts, for whoever asks later.

A lane has one if all of it passed here: not where the client took frames from the miner itself to the end, nor where
another router began it.
"""

from dataclasses import dataclass

from protocol.light.lane_papers import Lent, Ordered, lent
from protocol.light.shelf import ReceiptShelf
from protocol.messages.receipts import Tokens
from protocol.messages.results import SignedSession
from protocol.messages.sessions import SessionReady
from protocol.messages.tasks import AckMessage, FrameMessage
from protocol.roles.router.state import Assigned, Lease, Session, Task


@dataclass(frozen=True, slots=True)
class Receipts:
    """See the module. ``shelf`` is the node's; None: nothing is kept. Spec: [RECEIPT-KEPT.1]"""

    shelf: ReceiptShelf | None
    genesis: str

    def begun(self, task: Task, lease: Lease) -> None:
        """A miner was handed an order."""
        if self.shelf is not None and lease.first is not None:
            task.papers.begin(lease.generation, _lent(lease.first))

    def took(self, session: Session, task: Task, message: FrameMessage, now_ms: int) -> None:
        """A frame that the task's verifier has just taken; with the last one the receipt is complete."""
        verifier = task.verifier
        if self.shelf is None or verifier is None or verifier.head is None:
            return
        task.papers.took(verifier.head.generation, message, verifier.index, verifier.chain)
        if message.end is None or len(task.ids) != verifier.index:
            return
        submit, heads = task.submit, {head.start_index: head for head in task.heads}
        opened = SignedSession(session.opening, session.signature)
        ordered = Ordered(opened, submit.order, submit.signature, submit.prompt)
        tokens = Tokens(tuple(task.ids), tuple(task.texts))
        in_order = [heads[start] for start in sorted(heads)]
        receipt = task.papers.receipt(self.genesis, ordered, in_order, tokens, verifier.chain, message.end)
        self.shelf.keep(receipt, now_ms)

    def acked(self, task: Task | None, message: AckMessage) -> None:
        """An ack that its client signed."""
        if self.shelf is None:
            return
        if task is None:
            self.shelf.acked(message)
        elif message.ack.lane == 0:
            task.papers.acked(message)

    def explained(self, session: Session, lease: Lease) -> SessionReady | None:
        """What the miner of a lease is shown, once: it keeps receipts too, and an assignment rests on its bid set."""
        if self.shelf is None or lease.first is None or lease.explained:
            return None
        lease.explained, first = True, lease.first
        return SessionReady(session.id, first.assignment, first.signature, first.bid_set)


def _lent(first: Assigned) -> Lent:
    return lent(first.assignment, first.signature, first.bid_set)
