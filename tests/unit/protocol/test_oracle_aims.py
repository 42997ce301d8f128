"""To whom an oracle keeps links while one committee hands over to another."""

import pytest

from p2pnode.sim.counter import CounterLedger
from protocol.committee.effects import Closed
from protocol.committee.epochs import Epochs
from protocol.committee.payload import make_header
from protocol.committee.signer import Signer
from protocol.committee.simplex import Rules, Simplex
from protocol.committee.waiting import Waiting
from protocol.core.ids import NodeId
from protocol.messages.committee import EMPTY_BODY, Certified, header_digest
from protocol.roles.oracle.aims import aims, hands_over
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    FINALIZATION,
    KEYS,
    ME,
    PARAMS,
    START_MS,
    certify,
    keyed,  # noqa: F401
    members_of,
)

HEIRS = tuple(KEYS[place].node_id for place in range(10, 14))


def handed_over(place: int) -> tuple[Simplex, Certified, NodeId]:
    """An oracle that has just seen the first epoch close; none of its members is in the second committee."""
    key = KEYS[place]
    ledger = CounterLedger(DOMAIN, PARAMS, lambda committee: HEIRS if committee.epoch == 1 else committee.members)
    signer = Signer(DOMAIN, key.node_id, key.sign)
    epochs = Epochs(Rules(DOMAIN, PARAMS), ledger, signer, Waiting(DOMAIN, PARAMS), members_of())
    first = epochs.genesis(START_MS)
    base = first.tree.base
    header = make_header(1, PARAMS.epoch_blocks, base.digest, base.state.roots, EMPTY_BODY)
    certificate = certify(FINALIZATION, header.height, header_digest(DOMAIN, header))
    assert Closed() in first.on_certified(Certified(certificate, header), START_MS)
    second, closing, _ = epochs.next(first, START_MS)
    return second, closing, key.node_id


@pytest.mark.spec("EPOCH-HANDOVER.2")
def test_who_saw_an_epoch_close_links_to_both_committees_until_the_next_one_works() -> None:
    simplex, closing, me = handed_over(ME)
    peers, guests = aims(simplex, me, closing, keeps_batches=False)
    assert set(peers) == {*HEIRS, *members_of()} - {me}
    assert {*HEIRS, *members_of()} <= guests
    header = simplex.tree.base.header
    simplex.tree.final = certify(FINALIZATION, 1, header_digest(DOMAIN, header), epoch=2)
    assert aims(simplex, me, closing, keeps_batches=False)[0] == ()
    assert not hands_over(simplex, me, closing)


@pytest.mark.spec("EPOCH-HANDOVER.2")
def test_who_was_no_member_has_nothing_to_hand_over() -> None:
    simplex, closing, me = handed_over(20)
    assert aims(simplex, me, closing, keeps_batches=False)[0] == ()


def test_who_still_has_a_batch_to_bring_in_links_to_those_who_may_include_it() -> None:
    simplex, _, me = handed_over(ME)
    assert aims(simplex, me, None, keeps_batches=True)[0] == HEIRS
