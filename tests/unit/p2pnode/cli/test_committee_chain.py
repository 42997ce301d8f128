"""What `p2pnode committee` shows of the chain that the network settles on."""

from typing import Any

import pytest

from p2pnode.cli.committee import chain_lines

CHAIN: dict[str, Any] = {
    "finalized": 120,
    "anchor": 116,
    "lag_blocks": 4,
    "checkpoint": {"epoch": 2, "height": 64},
    "ahead": 7,
    "transactions": 1,
    "last": "checkpoint 2/64 in block 118",
    "trouble": "",
}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {},
            [
                "chain    final block 120, the ledger is anchored at 116, 4 behind",
                "settled  2/64, the committee is 7 heights ahead; 1 transactions under way",
                "         last: checkpoint 2/64 in block 118",
            ],
        ),
        (
            {"checkpoint": None, "ahead": None, "last": "", "trouble": "no endpoint answers"},
            [
                "chain    final block 120, the ledger is anchored at 116, 4 behind",
                "settled  none yet; 1 transactions under way",
                "         trouble: no endpoint answers",
            ],
        ),
    ],
)
def test_how_far_the_chain_is(changes: dict[str, Any], lines: list[str]) -> None:
    assert chain_lines({**CHAIN, **changes}) == lines


def test_an_oracle_that_looks_at_none_shows_nothing() -> None:
    assert chain_lines(None) == []
