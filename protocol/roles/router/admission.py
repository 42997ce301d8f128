"""Whether a router takes a session at all, before it waits in the queue."""

from protocol.core.ids import NodeId, SessionId
from protocol.core.params import Params
from protocol.messages.sessions import RouterTerm, SessionOpen

Refusal = tuple[str, str, int]
"""(terminal code, detail, retry_after_ms)."""

RETRY_AFTER_MS = 1_000


def find_refusal(
    params: Params,
    router: NodeId,
    session: SessionId,
    opening: SessionOpen,
    term: RouterTerm | None,
    now_ms: int,
    *,
    known: bool,
    of_client: int,
    of_router: int,
    pool: int,
) -> Refusal | None:
    """Why a session is not taken, or None.

    Args:
        term: Signed by the session's client, if it came with one.
        known: Whether the router holds the session already.
        of_client: Sessions that the client's connection holds.
        of_router: Sessions that the router holds.
        pool: Miners of the model that the router knows.
    """
    if known:
        return ("bad_request", "the session is open already", 0)
    if term is not None and (term.router, term.session) != (router, session):
        return ("bad_request", "the term is another router's or another session's", 0)
    fault = find_fault(params, router, opening, now_ms)
    return fault or find_shortage(params, opening, of_client, of_router, pool)


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
        of_client: Sessions that the client's connection holds.
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
