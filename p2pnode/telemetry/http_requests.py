"""HTTP requests as figures and spans: one span for each answer that a request asked for, above the order it became."""

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.span import HTTP, Attribute, Link, Span

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from p2pnode.http.service import Request, Service
    from p2pnode.telemetry.metrics import Metrics

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
TRACEPARENT_CHARACTERS_MAX = 128


class HttpRequests:
    """A watcher of the service's requests."""

    def __init__(self, instruments: Instruments, metrics: "Metrics | None" = None) -> None:
        self._instruments = instruments
        self._metrics = metrics
        self.running = 0
        """Those with a token."""
        self.waiting = 0
        """Those without one so far."""
        if metrics is not None:
            metrics.serves_http = True
            metrics.samples.append(self._sample)

    def began(self, request: "Request") -> None:
        """It will be tried."""
        self.waiting += 1

    def first(self, request: "Request") -> None:
        """Its first token is here."""
        self.waiting -= 1
        self.running += 1

    def ended(self, request: "Request") -> None:
        """It is over."""
        if request.first_ns:
            self.running -= 1
        else:
            self.waiting -= 1
        now_ns, mono_ns = self._instruments.now_ns(), time.monotonic_ns()
        ended_ns = now_ns - (mono_ns - request.ended_ns if request.ended_ns else 0)
        start_ns = ended_ns - ((request.ended_ns or mono_ns) - request.began_ns)
        attributes = _attributes(request)
        if self._metrics is not None:
            of = (HTTP, self._metrics.model(request.model))
            self._metrics.finished(of, (ended_ns - start_ns) / 1e9, request.code, {**attributes, "attempts": 1})
            if request.first_ns:
                self._metrics.overhead(request.overhead_ms / 1_000)
        for session, task, miner in request.tasks or [(b"", 0, b"")]:
            by: dict[str, Attribute] = {"miner": "0x" + miner.hex()} if miner else {}
            self._instruments.take(
                Span(
                    name="http",
                    role=HTTP,
                    node=self._instruments.node,
                    session=session,
                    task=task,
                    start_ns=start_ns,
                    end_ns=ended_ns,
                    code=request.code,
                    attributes={**attributes, **by},
                    links=link_of(request.traceparent),
                )
            )

    def _sample(self) -> Iterator["Metric"]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        requests = GaugeMetricFamily(
            "p2pnode_http_requests", "Requests by whether they have a token.", labels=("state",)
        )
        requests.add_metric(("running",), self.running)
        requests.add_metric(("waiting",), self.waiting)
        yield requests
        if self._metrics is not None and self._metrics.vllm_names:
            yield GaugeMetricFamily("vllm:num_requests_running", "Requests that have a token.", self.running)
            yield GaugeMetricFamily("vllm:num_requests_waiting", "Requests without one.", self.waiting)


def watch_service(service: "Service", instruments: Instruments, metrics: "Metrics") -> None:
    """Count and trace the requests of a service, and show how its sessions are."""
    from p2pnode.telemetry.samples import by_label

    def sample() -> Iterator["Metric"]:
        pool = service.pool
        busy = sum(held.busy for held in pool.open)
        yield by_label(
            "p2pnode_http_pool",
            "Sessions kept open, answers on them, requests that wait for one.",
            "what",
            {"sessions": len(pool.open), "answers": busy, "waiting": pool.waiting},
        )

    service.watchers.append(HttpRequests(instruments, metrics))
    service.metrics = metrics
    metrics.samples.append(sample)


def _attributes(request: "Request") -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {
        "kind": request.kind,
        "model_name": request.model,
        "request_id": request.id,
        "streamed": request.streamed,
        "attempts": request.attempts,
        "overhead_us": int(request.overhead_ms * 1_000),
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": request.completion_tokens,
        "cached_tokens": request.cached_tokens,
    }
    if request.first_ns:
        attributes["first_token_us"] = (request.first_ns - request.began_ns) // 1_000
    return attributes


def link_of(traceparent: str) -> tuple[Link, ...]:
    """What a W3C ``traceparent`` names; nothing where it names none (untrusted)."""
    found = _TRACEPARENT.fullmatch(traceparent.strip()) if len(traceparent) <= TRACEPARENT_CHARACTERS_MAX else None
    if found is None:
        return ()
    trace, span = bytes.fromhex(found[1]), bytes.fromhex(found[2])
    return (Link(trace, span),) if any(trace) and any(span) else ()
