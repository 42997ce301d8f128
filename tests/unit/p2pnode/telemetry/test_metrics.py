"""The figures, as Prometheus' own parser reads them."""

import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from p2pnode.http.service import Request
from p2pnode.telemetry import names
from p2pnode.telemetry.http_requests import HttpRequests, link_of
from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.metrics import LABELS_MAX, Known, Metrics
from p2pnode.telemetry.span import Span
from protocol.core.ids import NodeId
from tests.scenarios.rig import MODEL
from tests.unit.p2pnode.telemetry.heard_world import HeardScript

START = ("connect c1", "run 20", "open c1 session", "run 50")
ME = NodeId(bytes(range(20)))
MODELS = {MODEL.hex(): "tiny"}

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def figures(metrics: Metrics) -> Figures:
    body, content_type = await metrics.text()
    assert content_type.startswith("text/plain")
    found: Figures = {}
    for family in prometheus(body.decode()):
        for sample in family.samples:
            place = sample.name, frozenset(sample.labels.items())
            assert place not in found, f"{place} is told twice"
            found[place] = sample.value
    return found


def of(found: Figures, name: str, **labels: str) -> float:
    """The sum over all series of a name that have these labels."""
    wanted = set(labels.items())
    matching = [value for (given, has), value in found.items() if given == name and wanted <= has]
    assert matching, f"no {name} with {labels}"
    return sum(matching)


async def played(*commands: str, role: str = "r1", vllm_names: bool = False) -> Figures:
    """The figures of one node after a scenario."""
    script = HeardScript()
    script.play(commands[0])
    metrics = Metrics(script.instruments[role], models=lambda: MODELS, vllm_names=vllm_names)
    script.play(*commands[1:])
    return await figures(metrics)


async def test_a_router_counts_what_its_clients_asked() -> None:
    asks = ("ask c1 a1 session", "run 500", "ask c1 a2 session", "run 500")
    found = await played("world miners=2 tokens=6", *START, *asks)
    router = {"p2pnode_role": "router", "gen_ai_request_model": "tiny"}
    assert of(found, "p2pnode_requests_total", **router, end="length") == 2
    assert of(found, "p2pnode_tokens_total", **router, kind="prompt") == 6
    assert of(found, "p2pnode_tokens_total", **router, kind="completion") == 12
    assert of(found, f"{names.REQUEST_DURATION}_count", **router, error_type="") == 2
    assert of(found, f"{names.FIRST_TOKEN}_count", **router) == 2
    assert of(found, f"{names.TOKEN_USAGE}_sum", **router, gen_ai_token_type="output") == 12
    assert of(found, "p2pnode_sessions_total", p2pnode_role="router", end="ready") == 1
    assert of(found, "p2pnode_queue_seconds_count", p2pnode_role="router") == 2
    assert of(found, "p2pnode_bids_total", way="received") == 2
    assert of(found, "p2pnode_failovers_total", **router) == 0
    assert of(found, "p2pnode_messages_total", p2pnode_role="router", way="sent", kind="StartTask") == 2


async def test_time_per_token_is_that_after_the_first() -> None:
    found = await played("world miners=1 tokens=6 token=10", *START, "ask c1 a1 session", "run 500", role="m1")
    miner = {"p2pnode_role": "miner", "gen_ai_request_model": "tiny"}
    assert of(found, f"{names.PER_TOKEN}_count", **miner) == 1
    assert of(found, f"{names.PER_TOKEN}_sum", **miner) == pytest.approx(0.01, abs=0.005)
    assert of(found, f"{names.PER_TOKEN}_bucket", **miner, le="0.025") == 1
    assert of(found, "p2pnode_miner_part_seconds_sum", part="generation") == pytest.approx(0.05, abs=0.02)


async def test_a_takeover_is_a_failover_with_resumed_tokens() -> None:
    dies = ("ask c1 answer session tokens=9", "run 60", "kill leased", "run 20000")
    found = await played("world miners=2 tokens=9", *START, *dies)
    assert of(found, "p2pnode_failovers_total", p2pnode_role="router") == 1
    assert 0 < of(found, "p2pnode_tokens_total", p2pnode_role="router", kind="resumed") < 9
    assert of(found, "p2pnode_notes_total", what="router.fail-over") >= 1


async def test_a_failure_is_counted_by_its_code() -> None:
    dies = ("ask c1 answer session timeout=3000", "run 60", "kill leased", "run 20000")
    found = await played("world miners=1 tokens=9", *START, *dies)
    codes = {dict(has)["end"] for (name, has) in found if name == "p2pnode_requests_total"}
    assert len(codes) == 1
    (code,) = codes
    assert code not in ("stop", "length", "other")
    assert of(found, f"{names.REQUEST_DURATION}_count", error_type=code) == 1


async def test_vllms_names_stand_for_one_role_with_its_labels() -> None:
    asks = ("ask c1 a1 session", "run 500")
    plain = await played("world miners=1 tokens=6", *START, *asks)
    assert not any(name.startswith("vllm:") for name, _ in plain)
    found = await played("world miners=1 tokens=6", *START, *asks, vllm_names=True)
    assert of(found, "vllm:e2e_request_latency_seconds_count", model_name="tiny") == 1
    assert of(found, "vllm:time_to_first_token_seconds_bucket", model_name="tiny", le="+Inf") == 1
    assert of(found, "vllm:generation_tokens_total", model_name="tiny") == 6
    ours = of(found, f"{names.REQUEST_DURATION}_sum", p2pnode_role="router")
    assert of(found, "vllm:e2e_request_latency_seconds_sum") == pytest.approx(ours)
    assert of(found, "vllm:request_queue_time_seconds_count") == 1


async def test_what_strangers_name_is_no_label() -> None:
    instruments = Instruments(ME)
    metrics = Metrics(instruments, models=lambda: MODELS)
    for number in range(3):
        model = {"model": number.to_bytes(32, "big").hex()}
        instruments.take(Span("relay", "router", ME, bytes(32), 1, 0, 10, attributes=model))
    found = await figures(metrics)
    assert of(found, "p2pnode_requests_total", gen_ai_request_model="other") == 3
    known = Known()
    assert [known(f"code_{number}") for number in range(LABELS_MAX + 2)][-2:] == ["other", "other"]
    assert known("code_0") == "code_0"
    assert Known()("\x1b[2J") == "other"


async def test_open_metrics_are_given_to_who_asks_for_them() -> None:
    script = HeardScript()
    script.play("world miners=1")
    metrics = Metrics(script.instruments["r1"], models=lambda: MODELS, vllm_names=True)
    HttpRequests(script.instruments["r1"], metrics)
    script.play(*START, "ask c1 a1 session", "run 500")
    body, content_type = await metrics.text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    found = {family.name: family for family in open_metrics(body.decode())}
    assert found["p2pnode_messages"].samples
    assert found[names.REQUEST_DURATION].samples
    assert "vllm:num_requests_running" in found


async def test_http_requests_are_counted_once_and_traced_once_for_each_answer() -> None:
    spans: list[Span] = []
    instruments = Instruments(ME)
    instruments.sinks.append(spans.append)
    metrics = Metrics(instruments)
    watcher = HttpRequests(instruments, metrics)
    request = Request("chat", "tiny", id="req_1", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    watcher.began(request)
    assert of(await figures(metrics), "p2pnode_http_requests", state="waiting") == 1
    request.first_ns = request.ordered_ns = time.monotonic_ns()
    watcher.first(request)
    assert of(await figures(metrics), "p2pnode_http_requests", state="running") == 1
    request.completion_tokens, request.prompt_tokens, request.attempts = 8, 3, 2
    request.tasks = [(bytes(32), 1, bytes(20)), (bytes(32), 2, bytes(20))]
    request.ended_ns = time.monotonic_ns()
    watcher.ended(request)
    found = await figures(metrics)
    assert of(found, "p2pnode_http_requests") == 0
    assert of(found, "p2pnode_requests_total", p2pnode_role="http", gen_ai_request_model="tiny") == 1
    assert of(found, "p2pnode_tokens_total", p2pnode_role="http", kind="completion") == 8
    assert of(found, "p2pnode_http_overhead_seconds_count") == 1
    assert [(span.name, span.role, span.task) for span in spans] == [("http", "http", 1), ("http", "http", 2)]
    assert {(link.trace_id, link.span_id) for span in spans for link in span.links} == {(b"\xab" * 16, b"\xcd" * 8)}
    assert all(span.end_ns - span.start_ns == request.ended_ns - request.began_ns for span in spans)


async def test_an_http_request_that_came_to_no_order_is_counted_and_of_no_trace() -> None:
    spans: list[Span] = []
    instruments = Instruments(ME)
    instruments.sinks.append(spans.append)
    metrics = Metrics(instruments)
    watcher = HttpRequests(instruments, metrics)
    request = Request("chat", "tiny", code="no_capacity")
    watcher.began(request)
    watcher.ended(request)
    found = await figures(metrics)
    assert of(found, "p2pnode_requests_total", p2pnode_role="http", end="no_capacity") == 1
    assert of(found, "p2pnode_http_requests") == 0
    assert [span.session for span in spans] == [b""]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{'ab' * 16}-{'cd' * 8}-01",
        f"00-{'00' * 16}-{'cd' * 8}-01",
        f"00-{'ab' * 16}-{'00' * 8}-01",
        f"00-{'AB' * 16}-{'cd' * 8}-01",
        f"00-{'ab' * 16}-{'cd' * 8}-01" + "-x" * 100,
        "é" * 55,
    ],
)
def test_a_traceparent_that_is_none_links_to_nothing(text: str) -> None:
    assert link_of(text) == ()
