"""Parameters: every bound and relation is checked, at both ends."""

from dataclasses import fields, replace

import pytest

from protocol.core.errors import ParameterError
from protocol.core.params import COMMITTEE_SIZES, Params


def test_the_defaults_are_valid() -> None:
    assert Params().validate() == Params()


@pytest.mark.parametrize("item", fields(Params), ids=lambda item: item.name)
def test_a_value_outside_its_bounds_is_named(item: object) -> None:
    name, low, high = item.name, item.metadata["low"], item.metadata["high"]  # type: ignore[attr-defined]
    assert low <= getattr(Params(), name) <= high
    for wrong in (low - 1, high + 1, float(low), True, str(low), None):
        with pytest.raises(ParameterError, match=name):
            replace(Params(), **{name: wrong}).validate()


@pytest.mark.parametrize("item", fields(Params), ids=lambda item: item.name)
def test_every_parameter_says_what_it_is_for(item: object) -> None:
    assert item.metadata["doc"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("relation", "values"),
    [
        ("ack_every_tokens < unacked_tokens_max", {"ack_every_tokens": 128}),
        ("frame_tokens_max <= unacked_tokens_max", {"frame_tokens_max": 129}),
        ("bids_good <= bids_max", {"bids_good": 33}),
        ("bid_window_ms < announcement_lifetime_ms", {"bid_window_ms": 5_000}),
        ("advert_interval_ms < advert_lifetime_ms", {"advert_interval_ms": 450_000}),
        ("delta_ms <= resend_interval_ms", {"delta_ms": 2_001}),
        ("at most 100/s", {"gossip_nodes_per_second": 21}),
    ],
)
def test_a_broken_relation_is_named(relation: str, values: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match=relation):
        replace(Params(), **values).validate()


def test_the_gossip_budget_names_every_topic() -> None:
    assert Params().gossip_budget() == {"nodes": 20, "sessions": 50, "results": 15, "committee": 10, "demand": 5}


def test_committees_are_of_three_f_and_one() -> None:
    assert [3 * faulty + 1 for faulty in range(1, 11)] == list(COMMITTEE_SIZES)
