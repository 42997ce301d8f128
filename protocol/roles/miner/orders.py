"""What a miner takes as an order: what the client signed and the router assigned, for this lease, in its turn."""

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ModelDigest, NodeId, SessionId
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.sessions import SessionOpen, SignedTerm
from protocol.messages.tasks import StartTask
from protocol.roles.miner.events import Generate, GenerationKey
from protocol.roles.miner.leases import Lease
from protocol.session.sampling import lane_seed


def check_order(domain: Domain, params: Params, miner: NodeId, lease: Lease, start: StartTask, now_ms: int) -> None:
    """Refuse whatever the client did not sign or the router did not assign. Raises RemoteProtocolError.

    Spec: [MINER-ORDER.1]
    """
    order, assignment, prompt = start.order, start.assignment, start.prompt
    verify(typed_digest(domain, order), start.signature, lease.opening.client, "the order")
    verify(typed_digest(domain, assignment), start.assignment_signature, lease.router, "the assignment")
    if order.session != lease.session or assignment.session != lease.session:
        raise RemoteProtocolError("order and assignment are for another session")
    if assignment.router != lease.router or assignment.number < max(lease.assignment_number, lease.after + 1):
        raise RemoteProtocolError("the assignment is not the router's latest")
    lanes = list(zip(assignment.miners, assignment.generations, strict=False))
    if len(assignment.miners) != len(assignment.generations) or start.lane >= len(lanes):
        raise RemoteProtocolError("the assignment has no such lane")
    if lanes[start.lane] != (miner, lease.generation):
        raise RemoteProtocolError("the assignment does not name this miner's lease")
    if order.task in lease.begun or not 0 < order.task <= lease.opening.tasks_max:
        raise RemoteProtocolError("an order runs once under a lease, and has a number up to the session's tasks_max")
    if now_ms > lease.opening.expires_ms + params.clock_skew_ms_max:
        raise RemoteProtocolError("the session has expired")
    if order.prompt != prompt.commitment() or order.sampling != prompt.sampling.digest():
        raise RemoteProtocolError("the order commits to another prompt or sampling")
    if not 0 < order.max_tokens <= params.tokens_per_task_max:
        raise RemoteProtocolError("the order's max_tokens is out of bounds")


def check_term(
    domain: Domain, opening: SessionOpen, session: SessionId, router: NodeId, signed: SignedTerm | None
) -> int:
    """After which number a router may assign the session: 0 for the first to serve it. Raises RemoteProtocolError.

    Spec: [ROUTER-TERM.1]
    """
    if signed is None:
        return 0
    term = signed.term
    verify(typed_digest(domain, term), signed.signature, opening.client, "the router's term")
    if term.session != session or term.router != router:
        raise RemoteProtocolError("the term is another session's or another router's")
    return term.after


def generation_of(
    start: StartTask, model: ModelDigest, generation: GenerationKey, emitted: tuple[tuple[int, bytes], ...]
) -> Generate:
    """What the engine is asked for."""
    prompt, order = start.prompt, start.order
    return Generate(
        generation=generation,
        model=model,
        messages=prompt.messages,
        sampling=prompt.sampling,
        lane_seed=lane_seed(order.seed, prompt.sampling.choice, start.lane),
        max_tokens=order.max_tokens,
        emitted=emitted,
        tools=prompt.tools,
        key=order.session,
    )
