"""A block's proposal: how a leader makes it, and what a member finds against it."""

from dataclasses import dataclass

from protocol.committee.payload import InvalidBody, make_header
from protocol.committee.tree import Tree
from protocol.committee.waiting import Waiting
from protocol.core.params import Params
from protocol.core.signing import keccak
from protocol.messages.committee import NULLIFICATIONS_MAX, Certificate, Header, Propose, Statement


@dataclass(frozen=True, slots=True)
class Draft:
    """A block that a leader may sign, and the certificates that go with it."""

    header: Header
    body: bytes
    parent: Certificate | None
    nullifications: tuple[Certificate, ...]


def draft(tree: Tree, waiting: Waiting, height: int) -> Draft | None:
    """The block that a leader proposes; None while it has no parent for it."""
    digest = tree.parent_for(height)
    if digest is None:
        return None
    state = tree.state_after(digest)
    body = b"" if height > tree.closing_above else tree.payload.propose(state, list(waiting.offered(state)))
    after = tree.execute(height, state, body)
    header = make_header(tree.base.header.epoch, height, digest, after.roots, keccak(body))
    return Draft(header, body, *_certificates(tree, header))


def proposal_again(tree: Tree, statement: Statement) -> Propose:
    """A proposal that was signed before a restart, with the certificates that are here now."""
    header, body = tree.headers[statement.header], tree.bodies[statement.header]
    return Propose(statement, header, body, *_certificates(tree, header))


def _certificates(tree: Tree, header: Header) -> tuple[Certificate | None, tuple[Certificate, ...]]:
    """Those that a block's proposal carries: of its parent, and of the heights between."""
    parent = tree.headers.get(header.parent)
    if parent is None:
        return None, ()
    between = [tree.nullifications.get(at) for at in range(parent.height + 1, header.height)]
    held = [certificate for certificate in between if certificate is not None]
    return tree.certified(header.parent, parent.height), tuple(held[:NULLIFICATIONS_MAX])


def not_nullified(tree: Tree, parent: Header, header: Header) -> int | None:
    """The lowest height between a block and its parent of which no nullification is here; None if all are."""
    between = range(parent.height + 1, header.height)
    return next((height for height in between if height not in tree.nullifications), None)


def objection(tree: Tree, waiting: Waiting, params: Params, proposed: Propose, entered_ms: int) -> str | None:
    """Why a member does not vote for a block, or does not yet; None if it may. Spec: [SIMPLEX-VOTE.1] [CUT-FAIR.1]

    ``entered_ms`` is when the member entered the block's height.
    """
    header = proposed.header
    parent = tree.headers.get(header.parent)
    if parent is None:
        return "its parent is not here"
    if parent.height >= header.height:
        return "its parent is not below it"
    if header.parent != tree.base.digest and tree.certified(header.parent, parent.height) is None:
        return "its parent is not notarized"
    height = not_nullified(tree, parent, header)
    if height is not None:
        return f"height {height} between its parent and it is not nullified"
    if len(proposed.body) > params.block_bytes_max:
        return "its body is too large"
    try:
        before = tree.state_after(header.parent)
        if before is None:
            return "a block before it is not here"
        after = tree.state_after(proposed.statement.header)
        if after is None:
            return "its body is not here"
        if header.height > tree.closing_above:
            return None
        owed = waiting.owed(before, entered_ms - 2 * params.delta_ms)
        omitted = tree.payload.omits(before, after, proposed.body, list(owed))
    except InvalidBody as error:
        return str(error)
    return None if omitted is None else f"it leaves out batch {omitted.batch.number} of {omitted.batch.oracle.hex()}"
