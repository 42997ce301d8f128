"""What an answer's receipt is made of, collected while it streams and while it rises."""

from protocol.light.lane_papers import Ordered, lent
from protocol.light.proofs import with_committees
from protocol.messages.receipts import Receipt, Tokens
from protocol.messages.results import SignedSession
from protocol.messages.sessions import SessionReady
from protocol.messages.tasks import AckMessage, FrameMessage, SegmentHead
from protocol.roles.client.events import Deliver, TaskReceipt
from protocol.roles.client.state import Held, Session, Settling, Task

ASSIGNMENTS_KEPT = 64
"""Of a session: those of its latest leases of lane 0."""
RAISED_TOKENS_MAX = 262_144
"""Of a session's answers whose receipts are still raised; of more, the oldest receipt stays as it is."""


def assigned(session: Session, ready: SessionReady) -> None:
    """An assignment that holds: the first one that names a lease for lane 0 is the one that explains it."""
    generation = ready.assignment.generations[0]
    session.lent.setdefault(generation, lent(ready.assignment, ready.signature, ready.bid_set))
    if len(session.lent) > ASSIGNMENTS_KEPT:
        session.lent.popitem(last=False)


def begun(task: Task, head: SegmentHead) -> None:
    """A segment begins."""
    task.papers.begin(head.generation, task.session.lent.get(head.generation))


def took(task: Task, message: FrameMessage) -> None:
    """A frame that the task's verifier has just taken."""
    head = task.verifier.head
    assert head is not None, "no frame holds before its head"
    task.papers.took(head.generation, message, task.verifier.index, task.verifier.chain)


def acked(task: Task, message: AckMessage) -> AckMessage:
    """The client acknowledges what it has verified."""
    task.papers.acked(message)
    return message


def receipt(held: Held, task: Task) -> Receipt | None:
    """The receipt of an answer whose signed end is here; None if something of it never was, or there is no end."""
    session, end = task.session, task.verifier.end
    if end is None:
        return None
    opened = SignedSession(session.opening, held.sign(session.id))
    ordered = Ordered(opened, task.order, task.signature, task.prompt)
    tokens = Tokens(tuple(task.ids), tuple(task.texts))
    genesis = session.router.known.to_json()
    return task.papers.receipt(genesis, ordered, task.segments(), tokens, task.verifier.chain, end)


def ended(task: Task) -> list[object]:
    """The receipt on its first level, for the program."""
    return [] if task.receipt is None else [Deliver(task.handle, TaskReceipt(task.receipt))]


def settles(session: Session, settling: Settling, task: Task) -> None:
    """An answer that ended may rise, and its receipt with it."""
    settling.receipt = task.receipt
    kept = sum(_tokens(each) for each in session.settling.values())
    for each in session.settling.values():
        if kept <= RAISED_TOKENS_MAX or each is settling:
            break
        kept -= _tokens(each)
        each.receipt = None


def _tokens(settling: Settling) -> int:
    return settling.receipt.end.completion_tokens if settling.receipt is not None else 0


def rises(session: Session, settling: Settling) -> list[object]:
    """The receipt with all that is proved by now."""
    if settling.receipt is None:
        return []
    raised = with_committees(session.domain, settling.lane.raised(settling.receipt), session.router.followed.book)
    return [Deliver(settling.handle, TaskReceipt(raised))]
