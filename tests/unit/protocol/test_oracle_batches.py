"""When an oracle looks for something to put into a batch."""

from typing import ClassVar, cast

import pytest

from protocol.committee.payload import LedgerState
from protocol.committee.signer import Signer
from protocol.committee.waiting import Waiting
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.roles.oracle.batches import Batches
from protocol.roles.oracle.kept import KeptBatches
from protocol.roles.oracle.ledger_view import LedgerView
from protocol.roles.oracle.outbox import Draft, Outbox

PARAMS = Params()


class BusyOutbox:
    """Something is always due, and may never be signed."""

    def __init__(self) -> None:
        self.drafts = 0

    def next_deadline(self) -> int:
        return 0

    def draft(self, *_: object) -> Draft | None:
        self.drafts += 1
        return None


class Key:
    """Of a signer."""

    me = NodeId(bytes(20))


class Final:
    """Where the ledger stands."""

    homes: ClassVar[dict[int, tuple[NodeId, ...]]] = {}


@pytest.mark.spec("BATCH-CONTENT.1")
def test_an_oracle_that_may_sign_nothing_looks_no_oftener_than_it_would_sign() -> None:
    """Looking costs more the more waits: at each event it is what keeps an oracle behind that is behind."""
    outbox = BusyOutbox()
    parts = (cast(Signer, Key()), cast(Waiting, None), cast(KeptBatches, None), cast(Outbox, outbox))
    batches, final = Batches(PARAMS, *parts), cast(LedgerState, Final())
    for event in range(1_000):
        assert batches.next(cast(LedgerView, None), 1, final, 10_000 + event) is None
    assert outbox.drafts == 1_000 // PARAMS.batch_interval_ms
