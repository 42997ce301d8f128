"""Whose lane it is: what client and router signed, and whether a commit is the one that they named."""

from protocol.core.ids import NOBODY, NodeId, SessionId
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.results import Commit, Papers, SignedCommit, SignedSession
from protocol.messages.sessions import Assignment, session_id
from protocol.results.commitment import ResultError, check_commit

Task = tuple[bytes, int]
"""Session and number of an order."""

Lane = tuple[bytes, int, int]
"""Session, number of the order, and lane."""


def check_session(domain: Domain, signed: SignedSession) -> SessionId:
    """The session that its client signed. Raises SignatureError."""
    session = session_id(domain, signed.opening)
    verify(session, signed.signature, signed.opening.client, "the session")
    return session


def check_papers(domain: Domain, papers: Papers, known: Papers | None = None) -> Task:
    """What the papers are about. Raises ResultError, SignatureError for papers that do not hold.

    The client signed session and order, and the assignment is of one of the session's routers. ``known`` are papers of
    the task that held: what is the same in both is not looked at twice. Spec: [COMMIT-VALID.1]
    """
    opening, order, assignment = papers.session.opening, papers.order, papers.assignment
    session = session_id(domain, opening)
    if order.session != session or assignment.session != session:
        raise ResultError("papers", "session, order and assignment are not of one session")
    if order.task > opening.tasks_max:
        raise ResultError("papers", f"order {order.task} of a session of {opening.tasks_max}")
    if assignment.router not in opening.routers:
        raise ResultError("papers", "the assignment is of no router of the session")
    if not len(assignment.miners) == len(assignment.generations) == opening.lanes:
        raise ResultError("papers", "the assignment has not as many lanes as the session")
    if known is None or known.session != papers.session:
        check_session(domain, papers.session)
    if known is None or (known.order, known.order_signature) != (order, papers.order_signature):
        verify(typed_digest(domain, order), papers.order_signature, opening.client, "the order")
    if known is None or (known.assignment, known.assignment_signature) != (assignment, papers.assignment_signature):
        verify(typed_digest(domain, assignment), papers.assignment_signature, assignment.router, "the assignment")
    return session, order.task


def check_claim(domain: Domain, papers: Papers, signed: SignedCommit) -> Lane:
    """The lane that a commit is for. Raises ResultError, SignatureError unless the papers, which hold, name its miner
    and generation there, and the miner signed it. Spec: [COMMIT-VALID.1]
    """
    commit = signed.commit
    if (commit.session, commit.task) != (papers.order.session, papers.order.task):
        raise ResultError("commit", "it is of another task than its papers")
    if not names(papers.assignment, commit):
        raise ResultError("commit", "the assignment names another miner or generation for the lane")
    check_commit(domain, signed)
    return commit.session, commit.task, commit.lane


def names(assignment: Assignment, commit: Commit) -> bool:
    """Whether an assignment gives a commit's lane to its miner, under its generation."""
    lane = commit.lane
    return (
        commit.miner != NOBODY
        and lane < len(assignment.miners)
        and (assignment.miners[lane], assignment.generations[lane]) == (commit.miner, commit.generation)
    )


def assigned(assignment: Assignment) -> dict[int, NodeId]:
    """The lanes that have a miner, and whom."""
    return {lane: NodeId(miner) for lane, miner in enumerate(assignment.miners) if miner != NOBODY}
