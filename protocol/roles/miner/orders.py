"""What a miner takes as an order: what the client signed and the router assigned, for this lease, in its turn."""

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.tasks import Continuation, StartTask
from protocol.roles.miner.leases import Lease
from protocol.session.transcript import replay


def check_order(domain: Domain, params: Params, miner: NodeId, lease: Lease, start: StartTask, now_ms: int) -> None:
    """Refuse whatever the client did not sign or the router did not assign. Raises RemoteProtocolError.

    Spec: [MINER-ORDER.1]
    """
    order, assignment, prompt = start.order, start.assignment, start.prompt
    verify(typed_digest(domain, order), start.signature, lease.opening.client, "the order")
    verify(typed_digest(domain, assignment), start.assignment_signature, lease.router, "the assignment")
    if order.session != lease.session or assignment.session != lease.session:
        raise RemoteProtocolError("order and assignment are for another session")
    if assignment.router != lease.router or assignment.number < lease.assignment_number:
        raise RemoteProtocolError("the assignment is not the router's latest")
    lanes = list(zip(assignment.miners, assignment.generations, strict=False))
    if len(assignment.miners) != len(assignment.generations) or start.lane >= len(lanes):
        raise RemoteProtocolError("the assignment has no such lane")
    if lanes[start.lane] != (miner, lease.generation):
        raise RemoteProtocolError("the assignment does not name this miner's lease")
    if not lease.last_task < order.task <= lease.opening.tasks_max:
        raise RemoteProtocolError("order numbers rise, up to the session's tasks_max")
    if now_ms > lease.opening.expires_ms + params.clock_skew_ms_max:
        raise RemoteProtocolError("the session has expired")
    if order.prompt != prompt.commitment() or order.sampling != prompt.sampling.digest():
        raise RemoteProtocolError("the order commits to another prompt or sampling")
    if not 0 < order.max_tokens <= params.tokens_per_task_max:
        raise RemoteProtocolError("the order's max_tokens is out of bounds")


def check_continuation(domain: Domain, start: StartTask) -> Digest:
    """The chain value a lane goes on from. Raises RemoteProtocolError unless it follows from what earlier miners bound
    to this very order. Spec: [CHAIN-TAKEOVER.1]
    """
    resume = start.resume
    if resume is None:
        return ZERO_DIGEST
    _check_heads(typed_digest(domain, start.order), start, resume)
    if len(resume.ids) > start.order.max_tokens:
        raise RemoteProtocolError("the lane holds more tokens than the order allows")
    return replay(domain, resume)


def _check_heads(order: Digest, start: StartTask, resume: Continuation) -> None:
    for head in resume.heads:
        if (head.order, head.lane, head.session) != (order, start.lane, start.order.session):
            raise RemoteProtocolError("an earlier segment belongs to another order or lane")
