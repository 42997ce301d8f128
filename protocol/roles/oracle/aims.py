"""To whom an oracle keeps links, and who may open one to it."""

from protocol.committee.simplex import Simplex
from protocol.core.ids import NodeId
from protocol.messages.committee import Certified


def aims(
    simplex: Simplex, me: NodeId, closing: Certified | None, keeps_batches: bool
) -> tuple[tuple[NodeId, ...], frozenset[NodeId]]:
    """Whom to open links to, and who else may open one.

    Links go to the other members: from a member, from who has a batch that waits for their blocks, and from who hands
    over, to those of the epoch before as well. Whoever was a member of late, or is to be one, may open a link.

    Args:
        closing: What closed the epoch before.
        keeps_batches: Whether a batch of this node is not final, or still to be signed.
    """
    state, committee = simplex.tree.base.state, simplex.committee
    before = state.homes.get(committee.epoch - 1, ()) if hands_over(simplex, me, closing) else ()
    members = committee.members if simplex.me is not None or keeps_batches or before else ()
    guests = {node for known in (*state.homes.values(), state.next_members) for node in known}
    return tuple(peer for peer in dict.fromkeys((*members, *before)) if peer != me), frozenset(guests)


def hands_over(simplex: Simplex, me: NodeId, closing: Certified | None) -> bool:
    """Whether this node was a member when the last epoch closed, and nothing shows yet that the next one works: so long
    it may be the only one that knows. Spec: [EPOCH-HANDOVER.2]
    """
    before = simplex.tree.base.state.homes.get(simplex.committee.epoch - 1, ())
    return closing is not None and simplex.tree.final is None and me in before
