"""What a member says again, and what it has to ask for: whatever was lost comes in the end.

Nothing here changes the state of consensus.
"""

from collections.abc import Iterator

from protocol.committee.certificates import statements_of
from protocol.committee.effects import ToMembers
from protocol.committee.simplex import Simplex
from protocol.messages.committee import Certified, Offer, State, Statement, StatementKind

RESENT_MAX = 256
"""Of certificates the lowest, of statements the highest, that are sent again at a time."""


def resend(simplex: Simplex) -> list[ToMembers]:
    """All that may have been lost: the latest finalization, every certificate above it, what this member signed, and
    the batches that are not final. Spec: [SIMPLEX-RESEND.1]
    """
    tree, epoch, final = simplex.tree, simplex.committee.epoch, simplex.tree.final_height
    certificates = ([] if tree.final is None else [tree.final]) + list(tree.certificates(above=final))
    messages = [ToMembers(simplex.certified(certificate)) for certificate in certificates[:RESENT_MAX]]
    own = [said for said in simplex.signer.statements(epoch, above=final) if said.kind is not StatementKind.PROPOSAL]
    messages += [ToMembers(State(statement)) for statement in own[-RESENT_MAX:]]
    tally = simplex.tallies.get(simplex.height)
    if tally is not None and tally.proposal is not None and simplex.leads():
        messages.append(ToMembers(tally.proposal))
    return messages + [ToMembers(Offer(signed)) for signed in simplex.waiting.all()]


def own_word(simplex: Simplex) -> tuple[tuple[Certified, ...], tuple[Statement, ...]]:
    """What a member tells everybody round a broken link: its latest certificate, and what it signed since the latest
    finalization."""
    final = simplex.tree.final_height
    latest = list(simplex.tree.certificates(above=final))[-1:]
    statements = simplex.signer.statements(simplex.committee.epoch, above=final)
    return tuple(simplex.certified(certificate) for certificate in latest), tuple(statements)


def statements_by(simplex: Simplex, place: int) -> Iterator[Statement]:
    """What a member is known to have said, from the latest finalization on."""
    for height in sorted(simplex.tallies):
        yield from simplex.tallies[height].about(place)
    tree = simplex.tree
    final = [] if tree.final is None else [tree.final]
    for certificate in [*final, *tree.certificates(above=tree.final_height)]:
        yield from (said for at, said in statements_of(certificate) if at == place)


def wanted(simplex: Simplex) -> tuple[int, int] | None:
    """The heights, first and last, whose blocks or nullifications are missing here; None if nothing is."""
    tree, height = simplex.tree, simplex.height
    base, final = tree.base.header.height, tree.final_height
    if final > base:
        return base + 1, final
    lowest = tree.incomplete(below=height)
    tally = simplex.tallies.get(height)
    proposed = None if tally is None else tally.proposal
    if proposed is None and simplex.proposed(height) is not None:
        return lowest or height, height
    if proposed is not None and tree.headers.get(proposed.header.parent) is None:
        return base + 1, height - 1
    return None if lowest is None else (lowest, height - 1)
