"""What the contracts' work costs is written down, and within what was promised."""

import json
from typing import Any

import pytest

from tests.bench.gas import GAS, measured, table

HINT = "if the change is meant: python -m tests.bench gas --write"


@pytest.fixture(scope="module")
def gas() -> dict[str, Any]:
    """What it costs now."""
    return measured()


def test_golden_numbers_hold(gas: dict[str, Any]) -> None:
    assert json.loads(GAS.read_text()) == gas, HINT


def test_costs_are_what_was_promised(gas: dict[str, Any]) -> None:
    checkpoint = gas["checkpoint"]["3"]
    assert checkpoint <= 90_000
    assert checkpoint / 1_000 <= 100
    assert gas["draw"]["31 of 128"] < 3_000_000
    assert "| 1,000 | 84 |" in table(gas)
