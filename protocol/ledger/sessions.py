"""Reservations: what a client has set aside for a session, from its balance, until nothing of it can be spent."""

from typing import Annotated

from msgspec import Meta

from protocol.core.signing import U8, U32, U64, Bytes20, Bytes32
from protocol.ledger.records import Record


class Session(Record, frozen=True):
    """A session whose cap is reserved."""

    client: Bytes20
    routers: Annotated[tuple[Bytes20, ...], Meta(max_length=4)]
    model: Bytes32
    lanes: U8
    tasks_max: U32
    price_cap_wei: U64
    cap_wei: U64
    audits: bool
    nonce: Bytes32
    first_epoch: U64
    last_epoch: U64
    """It holds for orders whose home epoch is from the first to the last."""
    closed: bool = False
    spent_wei: U64 = 0

    def holds(self, home_epoch: int) -> bool:
        """Whether it holds for orders of a home epoch."""
        return self.first_epoch <= home_epoch <= self.last_epoch
