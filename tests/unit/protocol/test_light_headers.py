"""Whom a node that runs no consensus believes."""

from typing import Any

import msgspec
import pytest

from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.light.headers import CHECKED_MAX, HeaderTrust, place
from protocol.messages.committee import CertificateKind, Certified
from tests.unit.protocol.light_at_hand import certify, header_of, known_trust
from tests.unit.protocol.machines import GENESIS, MALLORY, ORACLES

pytestmark = pytest.mark.spec("LIGHT-HEADER.1")


def test_a_header_that_a_quorum_finalized_is_taken_in_any_epoch() -> None:
    trust = known_trust()
    for epoch, places in ((1, (0, 1, 2)), (7, (1, 2, 3)), (1, (0, 2, 3))):
        header = header_of(5, epoch)
        assert trust.check(certify(header, places)) == header
        assert trust.check(certify(header, (0, 1, 3))) == header, "whichever of the signatures come along"


@pytest.mark.parametrize(
    "changes",
    [
        {"places": (0, 1)},
        {"places": (0, 1, 2, 3)},
        {"places": (0, 1, 1)},
        {"places": (1, 0, 2)},
        {"places": (0, 1, 7), "signers": ORACLES[:3]},
        {"signers": (ORACLES[0], ORACLES[1], MALLORY)},
        {"signers": (ORACLES[0], ORACLES[0], ORACLES[0])},
        {"kind": CertificateKind.NOTARIZATION},
        {"shown": None},
        {"shown": header_of(6)},
    ],
)
def test_anything_less_is_not(changes: dict[str, Any]) -> None:
    certified = certify(header_of(5), **({"places": (0, 1, 2)} | changes))
    # msgspec checks bounds where it decodes only, so what no wire would carry comes through here as well.
    with pytest.raises(RemoteProtocolError):
        HeaderTrust(GENESIS).check(certified)


def test_the_epoch_is_signed_and_there_is_none_before_the_first() -> None:
    certified = certify(header_of(5, 2))
    moved = msgspec.structs.replace(certified.certificate, epoch=3)
    for bad in (Certified(moved, header_of(5, 3)), certify(header_of(5, 0))):
        with pytest.raises(RemoteProtocolError):
            known_trust().check(bad)


def test_a_network_without_a_committee_certifies_nothing() -> None:
    with pytest.raises(RemoteProtocolError, match="no committee"):
        HeaderTrust(Genesis("alone")).committee(1)


def test_what_is_remembered_is_bounded() -> None:
    trust = known_trust()
    for height in range(1, CHECKED_MAX + 5):
        trust.check(certify(header_of(height)))
    assert len(trust._checked) == CHECKED_MAX


def test_later_is_by_epoch_then_height() -> None:
    assert place(header_of(9, 1)) < place(header_of(1, 2)) < place(header_of(2, 2))
