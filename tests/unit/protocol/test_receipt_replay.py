"""What was signed for one answer proves nothing of another: no part of a receipt counts in any other context."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import pytest

from protocol.light.levels import Level
from protocol.light.receipt import Invalid, Verified, verify_receipt
from protocol.messages.receipts import Receipt
from protocol.messages.sessions import SessionOpen
from tests.receipts_made import Maker


@dataclass(frozen=True)
class Again(Maker):
    """The same client asks the same in another session."""

    @cached_property
    def opening(self) -> SessionOpen:
        """Another nonce."""
        return msgspec.structs.replace(super().opening, nonce=b"\1" * 32)


WANTED: dict[str, Any] = {"tokens": 3, "home": 2, "final_epoch": 3, "shift": 1, "failover": True}
MINE = Maker(**WANTED)
OTHERS = {
    "network": Maker(**WANTED, founded_s=1),
    "chain": Maker(**WANTED, settling=True),
    "session": Again(**WANTED),
    "order": Maker(**WANTED, question="And a fox?"),
    "answer": Maker(**{**WANTED, "tokens": 4}),
    "epoch": Maker(**{**WANTED, "home": 3, "final_epoch": 4}),
}
OF_THE_NETWORK = ("hand_overs", "committees")
"""What is true of a network is true beside every answer that was given in it."""


def replays(mine: Any, other: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Mine with each part of another that is not the same, by where it stands; the largest parts first."""
    if mine == other:
        return
    if path and other not in ((), None):
        yield ".".join(map(str, path)), other
    if isinstance(mine, msgspec.Struct) and type(mine) is type(other):
        for name in mine.__struct_fields__:
            for at, part in replays(getattr(mine, name), getattr(other, name), (*path, name)):
                yield at, msgspec.structs.replace(mine, **{name: part})
    elif isinstance(mine, tuple) and isinstance(other, tuple) and path[-1] not in ("ids", "texts"):
        for number, (one, another) in enumerate(zip(mine, other, strict=False)):
            for at, part in replays(one, another, (*path, number)):
                yield at, (*mine[:number], part, *mine[number + 1 :])


@pytest.mark.spec("RECEIPT-LINKS.1", "SIGN-DOMAIN.1")
@pytest.mark.parametrize("context", OTHERS)
def test_no_part_of_another_receipt_counts_in_this_one(context: str) -> None:
    assert MINE.level is Level.FINALIZED
    mine, trust, other = MINE.receipt(), MINE.trust(3), OTHERS[context].receipt()
    assert isinstance(verify_receipt(mine, trust), Verified)
    assert isinstance(verify_receipt(other, OTHERS[context].trust(4)), Verified), "it proves what it is made of"
    same_network = OTHERS[context].genesis == MINE.genesis
    tried: list[str] = []
    for path, receipt in replays(mine, other):
        assert isinstance(receipt, Receipt)
        if same_network and path.startswith(OF_THE_NETWORK):
            continue
        assert isinstance(verify_receipt(receipt, trust), Invalid), path
        tried.append(path)
    assert {"segments", "final", "commit", "reveal", "batches"} <= {path.split(".")[0] for path in tried}
    assert len(tried) > 50
    foreign = verify_receipt(other, trust)
    assert isinstance(foreign, Verified) is same_network, "whole, it is another answer of the network, or of no network"
