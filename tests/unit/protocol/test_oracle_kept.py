"""An oracle's own batches across a crash, and what it remembers of who spoke."""

import pytest

from protocol.committee import storage
from protocol.committee.signer import Signer
from protocol.core.codec import pack
from protocol.core.ids import NodeId
from protocol.messages.committee import SignedBatch
from protocol.roles.oracle.history import Heard, Presence
from protocol.roles.oracle.kept import KeptBatches
from tests.unit.protocol.committee_at_hand import DOMAIN, KEYS, ME

KEY = KEYS[ME]


def signed_batch() -> tuple[SignedBatch, dict[bytes, bytes]]:
    signer = Signer(DOMAIN, KEY.node_id, KEY.sign)
    signer.ready = True
    made = signer.sign_batch(1, b"content")
    assert made is not None
    return made[0], dict(made[1])


@pytest.mark.spec("BATCH-KEPT.1")
def test_a_batch_whose_signature_the_log_lost_in_a_crash_is_not_sent_again() -> None:
    """It is in the store first: killed before the log had it, nobody has heard of it, and the next takes its number."""
    signed, log = signed_batch()
    disk = {storage.open_batch_key(signed): pack(signed)}

    def load(prefix: bytes) -> dict[bytes, bytes]:
        return {name: value for name, value in disk.items() if name.startswith(prefix)}

    assert list(KeptBatches(load, Signer(DOMAIN, KEY.node_id, KEY.sign, log))) == [signed]
    assert not KeptBatches(load, Signer(DOMAIN, KEY.node_id, KEY.sign))


def test_a_member_is_as_far_as_the_highest_it_spoke_of_in_its_epoch() -> None:
    presence, (one, other) = Presence(), (NodeId(bytes([number]) * 20) for number in (1, 2))
    presence.heard(one, 1, 7, 100)
    presence.heard(one, 1, 5, 200)
    assert presence.of(one) == Heard(1, 7, 200)
    presence.heard(one, 2, 1, 300)
    assert presence.of(one) == Heard(2, 1, 300)
    assert presence.of(other) is None
    presence.keep((other,))
    assert presence.of(one) is None
