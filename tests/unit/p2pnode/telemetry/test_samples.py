"""How a node is, as figures: what there is none of is left out, and what does not answer is not waited for."""

from types import SimpleNamespace
from typing import Any

import trio
from prometheus_client.metrics_core import Metric

from p2pnode.engine.api import EngineStats, EngineUnavailable
from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.metrics import Metrics
from p2pnode.telemetry.samples import Engines, client_samples, oracle_samples

CHAIN = {"finalized": 44, "lag_blocks": 2, "ahead": 5, "trouble": ""}
MEMBERS = [
    {"node": "0xaa", "lag": 0, "link": "this node"},
    {"node": "0xbb", "lag": 3, "link": "up"},
    {"node": "0xcc", "lag": None, "link": "down"},
]


def figures(metrics: Any) -> dict[str, dict[str, float]]:
    """By name and the value of the one label."""
    found: dict[str, dict[str, float]] = {}
    metric: Metric
    for metric in metrics:
        for sample in metric.samples:
            found.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    return found


def oracle(chain: dict[str, Any] | None, age_ms: int | None = 1_500) -> Any:
    """As ``p2pnode.oracle`` tells of itself."""
    final = {"epoch": 1, "height": 7, "outcomes": 9, "age_ms": age_ms}
    told = {"epoch": 1, "height": 8, "final": final, "signing": "yes", "members": MEMBERS, "evidence": 0}
    return SimpleNamespace(
        committee=lambda: {**told, **({} if chain is None else {"chain": chain})},
        status=lambda: {"results": {"lanes_open": 4}},
    )


def test_an_oracle_shows_how_far_members_and_chain_are() -> None:
    found = figures(oracle_samples(oracle(CHAIN)))
    assert found["p2pnode_committee_lag_blocks"] == {"0xaa": 0, "0xbb": 3}
    assert found["p2pnode_committee_link_up"] == {"0xaa": 1, "0xbb": 1, "0xcc": 0}
    assert found["p2pnode_committee_final_age_seconds"] == {"": 1.5}
    assert found["p2pnode_oracle_lanes_open"] == {"": 4}
    assert found["p2pnode_chain_lag_blocks"] == {"": 2}
    assert found["p2pnode_checkpoint_ahead_blocks"] == {"": 5}
    assert found["p2pnode_chain_trouble"] == {"": 0}


def test_what_an_oracle_does_not_know_it_does_not_show() -> None:
    found = figures(oracle_samples(oracle({**CHAIN, "ahead": None, "trouble": "no answer"}, age_ms=None)))
    assert "p2pnode_checkpoint_ahead_blocks" not in found
    assert "p2pnode_committee_final_age_seconds" not in found
    assert found["p2pnode_chain_trouble"] == {"": 1}
    assert not [name for name in figures(oracle_samples(oracle(None))) if "chain" in name]


def test_a_client_shows_how_it_finds_its_routers() -> None:
    routers = [
        SimpleNamespace(node=b"\x01" * 20, state="alive", answer_ms=4),
        SimpleNamespace(node=b"\x02" * 20, state="silent", answer_ms=None),
        SimpleNamespace(node=b"\x03" * 20, state="alive", answer_ms=6),
    ]
    client: Any = SimpleNamespace(routers=routers, rising={1: None})
    found = figures(client_samples(client))
    assert found["p2pnode_client_routers"] == {"alive": 2, "silent": 1}
    assert set(found["p2pnode_client_router_answer_seconds"].values()) == {0.004, 0.006}


class Slow:
    """An engine that answers once, and then no more, or with a failure."""

    def __init__(self, after: Exception | None) -> None:
        self._after = after
        self._asked = 0

    async def stats(self) -> EngineStats:
        self._asked += 1
        if self._asked > 1:
            if self._after is not None:
                raise self._after
            await trio.sleep_forever()
        return EngineStats(4, 1, 0, 100, 50, 30, 60, 12.5, 8, 16, 0, 1 << 20)


async def test_an_engine_that_does_not_answer_is_shown_as_it_was(autojump_clock: trio.abc.Clock) -> None:
    for after in (None, EngineUnavailable("gone")):
        node: Any = SimpleNamespace(engines={bytes(32): Slow(after)})
        engines = Engines(node, lambda: {bytes(32).hex(): "tiny"}, Metrics(Instruments()))
        assert figures(engines.sample()) == {}
        await engines.refresh()
        began = trio.current_time()
        await engines.refresh()
        assert trio.current_time() - began < 5
        found = figures(engines.sample())
        assert found["p2pnode_engine_slots_busy"] == {"tiny": 1}
        assert found["p2pnode_engine_prefix_hit_tokens_total"] == {"tiny": 30}
