"""Whether a router takes a session at all, before it waits in the queue, and whether it takes an order."""

from protocol.core.ids import NodeId, SessionId
from protocol.core.params import Params
from protocol.messages.sessions import OpenSession, SessionOpen, SignedTerm
from protocol.messages.tasks import SubmitTask
from protocol.roles.router.state import Session
from protocol.session.prompts import find_prompt_fault
from protocol.session.transcript import fits

Refusal = tuple[str, str, int]
"""(terminal code, detail, retry_after_ms)."""

RETRY_AFTER_MS = 1_000
TOO_LONG = "the answer is too long to be taken over"


def find_refusal(
    params: Params,
    router: NodeId,
    session: SessionId,
    peer: NodeId,
    message: OpenSession,
    held: SignedTerm | None,
    now_ms: int,
    *,
    known: bool,
) -> Refusal | None:
    """Why a session is not taken, whatever there is room for, or None. Spec: [ROUTER-TERM.1]

    Args:
        peer: Who brings it.
        held: The term under which the router holds the session, if it came with one.
        known: Whether the router holds the session already.
    """
    if peer != message.opening.client:
        # Others have seen its signatures: miners, and the session's other routers.
        return ("bad_request", "a session is opened by its own client", 0)
    term = message.term.term if message.term is not None else None
    if term is not None and (term.router, term.session) != (router, session):
        return ("bad_request", "the term is another router's or another session's", 0)
    if known and (term.after if term is not None else 0) <= (held.term.after if held is not None else 0):
        return ("bad_request", "the session is open already", 0)
    return find_fault(params, router, message.opening, now_ms)


def find_fault(params: Params, router: NodeId, opening: SessionOpen, now_ms: int) -> Refusal | None:
    """What is wrong with a SessionOpen itself; asking again will not help."""
    if router not in opening.routers:
        return ("bad_request", "the session does not name this router", 0)
    if not now_ms - params.clock_skew_ms_max < opening.expires_ms <= now_ms + params.session_lifetime_ms_max:
        return ("bad_request", "expires_ms is past or too far ahead", 0)
    if opening.lanes > params.lanes_max:
        return ("bad_request", f"a session has at most {params.lanes_max} lanes", 0)
    if not 0 < opening.tasks_max <= params.tasks_per_session_max:
        return ("bad_request", f"tasks_max must be from 1 to {params.tasks_per_session_max}", 0)
    return None


def find_shortage(params: Params, opening: SessionOpen, of_client: int, of_router: int, pool: int) -> Refusal | None:
    """What the router lacks for it now.

    Args:
        of_client: Sessions of the client's that the router holds.
        of_router: Sessions that the router holds.
        pool: Miners of the model that the router knows.
    """
    if of_client >= params.sessions_per_client_max:
        return ("rate_limited", "this client has too many sessions open", RETRY_AFTER_MS)
    if of_router >= params.sessions_per_router_max:
        return ("queue_full", "the router holds as many sessions as it may", RETRY_AFTER_MS)
    if not pool:
        return ("model_not_found", f"no known miner serves model {opening.model.hex()[:16]}", 0)
    if pool < opening.lanes:
        return ("no_capacity", f"{opening.lanes} lanes need as many miners, and {pool} are known", RETRY_AFTER_MS)
    return None


def find_order_fault(params: Params, session: Session, message: SubmitTask) -> Refusal | None:
    """Why an order that the client signed is not run, or None."""
    order, prompt = message.order, message.prompt
    if order.prompt != prompt.commitment() or order.sampling != prompt.sampling.digest():
        return ("bad_request", "the order commits to another prompt or sampling", 0)
    if not 0 < order.max_tokens <= params.tokens_per_task_max:
        return ("bad_request", f"max_tokens must be from 1 to {params.tokens_per_task_max}", 0)
    fault = find_prompt_fault(params, prompt)
    if fault is not None:
        return ("bad_request", fault, 0)
    if message.resume is not None and not fits(params, message.resume):
        return ("miner_lost", TOO_LONG, 0)
    if sum(not task.settled for task in session.tasks.values()) >= params.tasks_pending_per_session_max:
        return ("queue_full", "too many orders of this session wait", 1_000)
    return None
