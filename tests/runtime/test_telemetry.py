"""One trace of one task across real processes, and the figures of each of them as Prometheus reads them."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from p2pnode.address import parse_router_address
from p2pnode.gateway import GatewayPlan, open_gateway
from p2pnode.sections import HttpSection, TelemetrySection
from p2pnode.testnet import Child, Testnet, TestnetPlan
from tests.runtime.cli import p2pnode
from tests.runtime.served import served

OUTSIDE = "0af7651916cd43dd8448eb211c80319c"
"""The trace of whoever calls the gateway."""
TRACEPARENT = f"00-{OUTSIDE}-b7ad6b7169203331-01"
ASKED = {"model": "tiny", "max_tokens": 12, "messages": [{"role": "user", "content": "Where does a bear live?"}]}
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def spans_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes write their spans."""
    return tmp_path_factory.mktemp("spans") / "spans.jsonl"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, spans_file: Path) -> Iterator[Testnet]:
    """A router that serves HTTP, a miner and four oracles, each a process that shows its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2PNODE_TELEMETRY_SPANS_FILE", str(spans_file))
        patch.setenv("P2PNODE_TELEMETRY_VLLM_NAMES", "true")
        patch.setenv("P2PNODE_HTTP_METRICS", "127.0.0.1:0")
        plan = TestnetPlan(tmp_path_factory.mktemp("net"), miners=1, oracles=4, http="127.0.0.1:0")
        with served(plan) as running:
            yield running.net


def spans_in(path: Path) -> list[dict[str, Any]]:
    """All that processes have written so far; the last line may be half there."""
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


async def trace_with(path: Path, finals: int, **of: Any) -> list[dict[str, Any]]:
    """The trace of the task that these fields name, once so many oracles have told that it is final."""
    with trio.fail_after(WITHIN_S):
        while True:
            found = spans_in(path)
            known = [span for span in found if all(span[name] == value for name, value in of.items())]
            if known:
                spans = [span for span in found if span["trace_id"] == known[0]["trace_id"]]
                if sum(span["name"] == "finalization" for span in spans) >= finals:
                    return spans
            await trio.sleep(0.05)


def one(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The only span of a name."""
    found = [span for span in spans if span["name"] == name]
    assert len(found) == 1, [(span["name"], span["role"]) for span in spans]
    return found[0]


def assert_one_tree(spans: list[dict[str, Any]], root: dict[str, Any]) -> None:
    """Every span hangs, over others, from the root."""
    by_id = {span["span_id"]: span for span in spans}
    assert len(by_id) == len(spans), "no id twice"
    assert [span for span in spans if span["parent_span_id"] is None] == [root]
    assert all(span["parent_span_id"] in by_id for span in spans if span is not root)


async def test_one_task_is_one_trace_across_client_router_miner_and_oracles(
    net: Testnet, spans_file: Path, tmp_path: Path
) -> None:
    plan = GatewayPlan(
        [parse_router_address(net.address)],
        HttpSection(listen=("127.0.0.1:0",), metrics=("127.0.0.1:0",)),
        tmp_path,
        telemetry=TelemetrySection(spans_file=spans_file),
    )
    async with open_gateway(plan) as gateway:
        base = gateway.server.urls[0]
        async with httpx.AsyncClient(base_url=base, timeout=WITHIN_S) as client:
            answer = await client.post("/v1/chat/completions", json=ASKED, headers={"traceparent": TRACEPARENT})
            assert answer.status_code == 200, answer.text
            session, _, task = answer.headers["x-receipt"].partition("-")
            spans = await trace_with(spans_file, 4, session=session, task=int(task), name="http")
        for url in (base, gateway.watched.urls[0]):
            async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as client:
                await _assert_figures_of_gateway(client)
    wanted = {"http", "order", "queue", "relay", "prefill", "generation", "task", "commit"}
    assert {span["name"] for span in spans} >= {*wanted, "level", "observation", "finalization"}
    root, order, relay, mined = (one(spans, name) for name in ("http", "order", "relay", "task"))
    assert_one_tree(spans, root)
    assert [link["trace_id"] for link in root["links"]] == [OUTSIDE]
    assert (order["parent_span_id"], relay["parent_span_id"]) == (root["span_id"], order["span_id"])
    assert mined["parent_span_id"] == relay["span_id"]
    nodes = {child.name: child.ready["node"] for child in net.children}
    assert relay["node"] == nodes["router"]
    assert mined["node"] == nodes["miner-1"]
    assert order["node"] == root["node"] not in nodes.values(), "the gateway has a key of its own"
    for name in ("observation", "finalization"):
        said = [span for span in spans if span["name"] == name]
        assert {span["node"] for span in said} == {nodes[f"oracle-{number}"] for number in range(1, 5)}
    assert {span["parent_span_id"] for span in spans if span["name"] == "observation"} == {mined["span_id"]}
    # One machine, one clock: what hangs under another began after it.
    starts = [span["start_unix_nano"] for span in (root, order, relay, mined)]
    assert starts == sorted(starts)
    assert mined["attributes"]["completion_tokens"] == order["attributes"]["completion_tokens"] > 0


async def test_a_chat_from_a_terminal_is_traced_alike(net: Testnet, spans_file: Path, tmp_path: Path) -> None:
    asked = ["--router", net.address, "--max-tokens", "7", "Where does a bear live?"]
    told = partial(p2pnode, tmp_path, "chat", *asked, P2PNODE_TELEMETRY_SPANS_FILE=str(spans_file))
    ended = await trio.to_thread.run_sync(told)
    assert ended.status == 0, ended.err
    spans = await trace_with(spans_file, 4, name="order", role="client", parent_span_id=None)
    assert_one_tree(spans, one(spans, "order"))
    assert len({span["node"] for span in spans}) == 7, "client, router, miner and four oracles, a process each"


async def _assert_figures_of_gateway(client: httpx.AsyncClient) -> None:
    figures = parsed((await client.get("/metrics")).text)
    assert figures["p2pnode_requests_total"]["http"] == 1
    assert figures["p2pnode_requests_total"]["client"] == 1
    assert figures["p2pnode_level_seconds_count"][""] >= 1


def parsed(text: str) -> dict[str, dict[str, float]]:
    """By name and role, summed over everything else."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            role = sample.labels.get("p2pnode_role", "")
            found.setdefault(sample.name, {}).setdefault(role, 0.0)
            found[sample.name][role] += sample.value
    return found


async def scraped(child: Child) -> dict[str, dict[str, float]]:
    """A node's figures, from its own listener."""
    async with httpx.AsyncClient(base_url=child.ready["http"]["metrics"][0], timeout=WITHIN_S) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert (await client.get("/v1/models")).status_code == 404, "the API is on another listener"
    return parsed(answer.text)


async def test_each_role_shows_its_figures_to_prometheus(net: Testnet, spans_file: Path) -> None:
    async with httpx.AsyncClient(base_url=net.http_urls[0], timeout=WITHIN_S) as client:
        answer = await client.post("/v1/chat/completions", json=ASKED)
        assert answer.status_code == 200, answer.text
        session, _, task = answer.headers["x-receipt"].partition("-")
        shown = parsed((await client.get("/metrics")).text)
    spans = await trace_with(spans_file, 4, session=session, task=int(task), name="http")
    assert one(spans, "http")["node"] == one(spans, "order")["node"] == net.router.ready["node"]
    router, miner, oracle = [await scraped(child) for child in (net.router, net.children[1], net.oracles[0])]
    assert router["p2pnode_requests_total"]["http"] == shown["p2pnode_requests_total"]["http"] >= 1
    assert router["p2pnode_http_overhead_seconds_count"][""] >= 1
    assert router["p2pnode_requests_total"]["router"] >= 1
    assert router["p2pnode_bids_total"][""] >= 1
    assert router["gen_ai_server_time_to_first_token_seconds_count"]["http"] >= 1
    assert router["p2pnode_router_clients"][""] >= 0
    assert miner["p2pnode_requests_total"]["miner"] >= 1
    assert miner["p2pnode_miner_slots"][""] == net.plan.slots
    assert miner["p2pnode_engine_generated_tokens_total"][""] >= 1
    assert miner["vllm:generation_tokens_total"][""] >= 1
    assert miner["vllm:prefix_cache_queries_total"][""] >= miner["p2pnode_engine_prefix_hit_tokens_total"][""]
    assert oracle["p2pnode_committee_final_height"][""] >= 1
    assert oracle["p2pnode_observation_seconds_count"][""] >= 1
    assert oracle["p2pnode_committee_link_up"][""] >= 3
    for figures in (router, miner, oracle):
        assert figures["p2pnode_gossip_messages_total"][""] >= 1
        assert figures["p2pnode_peers"][""] >= 1
        assert figures["process_resident_memory_bytes"][""] > 0
        assert figures["p2pnode_node_info"][""] == 1


def test_what_nodes_log_is_json_and_holds_no_prompt(net: Testnet) -> None:
    for child in net.children:
        told = [json.loads(line) for line in child.log.read_text().splitlines()]
        assert told, child.name
        assert all(line["name"] == child.name and line["time"] and line["level"] for line in told)
        assert "bear" not in child.log.read_text()
