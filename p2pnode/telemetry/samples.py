"""How a node is at the moment, as figures: read from its parts when they are asked for, and counted nowhere twice."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from p2pnode.engine.api import EngineError, EngineStats
from p2pnode.telemetry import names
from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from p2pnode.client import LightClient
    from p2pnode.oracle import Oracle
    from p2pnode.running_node import Node

ENGINE_S = 2.0
"""How long an engine may take to say how it is; one that is slower is shown as it was."""


def metrics_of(node: "Node") -> Metrics:
    """All that a node has to show."""

    def models() -> Mapping[str, str]:
        return {offer.manifest.digest().hex(): offer.manifest.name for offer in node.book.models()}

    metrics = Metrics(node.instruments, models=models, vllm_names=node.config.telemetry.vllm_names)
    engines = Engines(node, models, metrics)
    metrics.refreshed.append(engines.refresh)
    metrics.samples += [lambda: node_samples(node), engines.sample]
    return metrics


def metrics_of_client(client: "LightClient", instruments: Instruments, *, vllm_names: bool = False) -> Metrics:
    """All that a light client has to show, and the process around it."""

    def models() -> Mapping[str, str]:
        return {offer.manifest.digest().hex(): offer.manifest.name for offer in client.models}

    metrics = Metrics(instruments, models=models, vllm_names=vllm_names)
    metrics.samples.append(lambda: client_samples(client))
    return metrics


def gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    """One figure, if there is one."""
    if value is not None:
        yield GaugeMetricFamily(name, text, value)


def by_label(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Figures that differ in one label."""
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, figure in values.items():
        family.add_metric((value,), figure)
    return family


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    """The same of figures that only rise."""
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, figure in values.items():
        family.add_metric((value,), figure)
    return family


def node_samples(node: "Node") -> Iterator[Metric]:
    """Network, roles, and what the node is."""
    told = {
        "node": "0x" + node.transport.me.hex(),
        "name": node.config.node.name,
        "network": node.genesis.name,
        "network_id": node.genesis.network_id().hex(),
        "roles": ",".join(node.config.node.roles),
    }
    yield InfoMetricFamily("p2pnode_node", "Who this is.", told)
    yield from gauge("p2pnode_uptime_seconds", "Since it started.", (node.clock() - node.started_ms) / 1_000)
    yield from gauge("p2pnode_peers", "Peers that are connected.", len(node.transport.peers()))
    yield from gauge("p2pnode_adverts", "Nodes that it knows adverts of.", len(node.book))
    yield from _traffic(node)
    if node.router is not None:
        load = node.router.load()
        for key, text in names.ROUTER.items():
            yield from gauge(f"p2pnode_router_{key}", text, load.get(key))
    if node.miner is not None:
        free, total = node.miner.slots()
        yield by_label("p2pnode_miner_slots", "Slots of its engine.", "state", {"free": free, "busy": total - free})
        yield from gauge("p2pnode_miner_results", "Results whose outcome is not final.", node.miner.results)
    if node.oracle is not None:
        yield from oracle_samples(node.oracle)


def _traffic(node: "Node") -> Iterator[Metric]:
    traffic = node.transport.traffic()
    yield from gauge("p2pnode_connections", "Connections to peers.", traffic.connections)
    yield from gauge("p2pnode_inbound_streams", "Streams that peers have open.", traffic.streams)
    yield from gauge("p2pnode_held_bytes", "Held of frames that have not arrived whole.", traffic.held_bytes)
    refused = {
        "connection-refused": traffic.connections_refused,
        "stream-refused": traffic.streams_refused,
        "stream-dropped": traffic.streams_dropped,
        "gossip-unsent": traffic.gossip_unsent,
    }
    yield counters("p2pnode_network_drops", "What its network turned away or dropped, by what.", "what", refused)
    gossip = CounterMetricFamily(
        "p2pnode_gossip_messages", "Gossip messages by topic and what came of them.", labels=("topic", "outcome")
    )
    for topic, outcomes in sorted(traffic.gossip.items()):
        # The rest of the topic's name is the network's: it is the same of all.
        short = topic.split("/")[-2] if topic.count("/") >= 2 else topic
        for outcome, value in outcomes.items():
            gossip.add_metric((short, outcome), value)
    yield gossip


def oracle_samples(oracle: "Oracle") -> Iterator[Metric]:
    """How far the committee is, as this oracle sees it, and the chain, where it looks at one."""
    committee, load = oracle.committee(), oracle.status()["results"]
    final = committee["final"]
    yield from gauge("p2pnode_committee_epoch", "The present epoch.", committee["epoch"])
    yield from gauge("p2pnode_committee_height", "The height that is voted on.", committee["height"])
    yield from gauge("p2pnode_committee_final_height", "The last final block.", final["height"])
    age_ms = final["age_ms"]
    yield from gauge(
        "p2pnode_committee_final_age_seconds", "Since the last final block.", None if age_ms is None else age_ms / 1_000
    )
    yield from gauge("p2pnode_committee_signing", "Whether it signs.", int(committee["signing"] == "yes"))
    yield from gauge("p2pnode_committee_outcomes", "Outcomes since genesis.", final["outcomes"])
    yield from gauge("p2pnode_committee_evidence", "Nodes that evidence convicts.", committee["evidence"])
    lags = {row["node"]: row["lag"] for row in committee["members"] if row["lag"] is not None}
    yield by_label("p2pnode_committee_lag_blocks", "Heights that a member is behind, as heard here.", "member", lags)
    up = {row["node"]: int(row["link"] != "down") for row in committee["members"]}
    yield by_label("p2pnode_committee_link_up", "Whether there is a stream to a member.", "member", up)
    for key, text in names.ORACLE.items():
        yield from gauge(f"p2pnode_oracle_{key}", text, load.get(key))
    chain = committee.get("chain")
    if chain is not None:
        yield from gauge("p2pnode_chain_lag_blocks", "Final blocks of the chain not taken in.", chain["lag_blocks"])
        yield from gauge("p2pnode_chain_finalized_block", "The chain's last final block.", chain["finalized"])
        yield from gauge("p2pnode_checkpoint_ahead_blocks", "Final here, and unknown to the contract.", chain["ahead"])
        yield from gauge("p2pnode_chain_trouble", "Whether the chain cannot be asked.", int(bool(chain["trouble"])))


class Engines:
    """The engines of a miner; each is a process of its own and has to be asked."""

    def __init__(self, node: "Node", names: Callable[[], Mapping[str, str]], metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics
        self._names = names
        self._stats: dict[str, EngineStats] = {}

    async def refresh(self) -> None:
        """Ask them."""
        for digest, engine in self._node.engines.items():
            with trio.move_on_after(ENGINE_S), suppress(EngineError):
                self._stats[self._names().get(digest.hex(), digest.hex()[:12])] = await engine.stats()

    def sample(self) -> Iterator[Metric]:
        """What they said last."""
        if not self._stats:
            return
        gauges: Sequence[tuple[str, str, str]] = (
            ("slots", "slots_total", "Slots."),
            ("slots_busy", "slots_busy", "Slots at work."),
            ("queued", "queued", "Requests that wait for a slot."),
            ("tokens_per_second", "tokens_per_second", "Of generation, over the last seconds."),
            ("kv_cells", "kv_cells_total", "Cells of the cache of keys and values."),
            ("kv_cells_used", "kv_cells_used", "Those in use."),
            ("memory_bytes", "memory_bytes", "Of the worker's process."),
        )
        rising: Sequence[tuple[str, str, str]] = (
            ("prompt_tokens", "prompt_tokens_total", "Tokens of prompts that were computed."),
            ("prefix_hit_tokens", "cached_tokens_total", "Tokens of prompts that were found in the cache instead."),
            ("generated_tokens", "generated_tokens_total", "Tokens generated, for tests of it too."),
            ("decode_calls", "decode_calls_total", "Steps of the model."),
            ("restarts", "worker_restarts", "Times that the worker's process was started again."),
        )
        for name, field, text in gauges:
            yield by_label(f"p2pnode_engine_{name}", text, "model", self._of(field))
        for name, field, text in rising:
            yield counters(f"p2pnode_engine_{name}", text, "model", self._of(field))
        if self._metrics.vllm_names:
            yield from self._as_vllm()

    def _of(self, field: str) -> dict[str, float]:
        return {model: getattr(stats, field) for model, stats in self._stats.items()}

    def _as_vllm(self) -> Iterator[Metric]:
        used = {
            model: stats.kv_cells_used / stats.kv_cells_total if stats.kv_cells_total else 0.0
            for model, stats in self._stats.items()
        }
        if not self._metrics.serves_http:
            yield by_label("vllm:num_requests_running", "Slots at work.", "model_name", self._of("slots_busy"))
            yield by_label("vllm:num_requests_waiting", "Requests that wait.", "model_name", self._of("queued"))
        yield by_label("vllm:kv_cache_usage_perc", "Share of the cache in use, from 0 to 1.", "model_name", used)
        hits = self._of("cached_tokens_total")
        queries = {model: computed + hits[model] for model, computed in self._of("prompt_tokens_total").items()}
        yield counters("vllm:prefix_cache_queries", "Tokens looked for in the cache.", "model_name", queries)
        yield counters("vllm:prefix_cache_hits", "Tokens found there.", "model_name", hits)


def client_samples(client: "LightClient") -> Iterator[Metric]:
    """A light client's routers."""
    states: dict[str, float] = {}
    for status in client.routers:
        states[status.state] = states.get(status.state, 0) + 1
    yield by_label("p2pnode_client_routers", "Routers by how this client finds them.", "state", states)
    answers = {"0x" + each.node.hex(): each.answer_ms / 1_000 for each in client.routers if each.answer_ms}
    yield by_label("p2pnode_client_router_answer_seconds", "How long a router's last answer took.", "router", answers)
    yield from gauge("p2pnode_client_rising", "Answers whose levels are heard of.", len(client.rising))
