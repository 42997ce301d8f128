"""The figures of one process in Prometheus' text format: what its spans amount to, what was counted, and how its parts
are at the moment of the scrape."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pnode.telemetry import names
from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.span import Span

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each of ours, that no dashboard reads

LABELS_MAX = 64
"""Values of one label; the rest are ``other``: models and codes are named by strangers."""

_WORK = {"order": "client", "relay": "router", "task": "miner"}
"""Spans that are a whole request, and whose."""

Sample = Callable[[], Iterable[Metric]]
"""Figures as of now, without waiting for anything."""


class Known:
    """The values that a label has had, so far as there is room."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: object) -> str:
        """The value, or ``other``."""
        text = str(value)[:80]
        if text not in self._seen:
            if len(self._seen) >= LABELS_MAX or not text.isprintable():
                return "other"
            self._seen.add(text)
        return text


class Metrics:
    """See the module. Takes the spans of ``instruments``. ``models``: digests in hexadecimal digits to names."""

    def __init__(
        self,
        instruments: Instruments,
        *,
        models: Callable[[], Mapping[str, str]] = dict,
        vllm_names: bool = False,
    ) -> None:
        self.registry = CollectorRegistry()
        self.samples: list[Sample] = []
        self.refreshed: list[Callable[[], Awaitable[None]]] = []
        """What has to be asked before it can be sampled, such as an engine in a process of its own."""
        self.vllm_names = vllm_names
        self.serves_http = False
        """Whether requests come over HTTP: then those are the ones that vLLM's names speak of."""
        self._instruments = instruments
        self._models = models
        self._code, self.model = Known(), Known()
        self._make()
        self._takes: Mapping[str, Callable[[Span], None]] = {
            "queue": self._queued,
            "session": self._session,
            "level": self._level,
            "observation": self._observed,
            "finalization": self._finalized,
            "prefill": self._part,
            "generation": self._part,
            "commit": self._part,
        }
        ProcessCollector(registry=self.registry)
        self.registry.register(_Sampled(self._sampled))
        if vllm_names:
            self.registry.register(_Sampled(self._as_vllm))
        instruments.sinks.append(self.take)

    def _make(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=tuple(buckets))

        of = ("p2pnode_role", "gen_ai_request_model")
        failed = (*of, "error_type")
        self._duration = histogram(
            names.REQUEST_DURATION, "A request, from its arrival to its end.", names.DURATION_S, *failed
        )
        self._first = histogram(names.FIRST_TOKEN, "From a request to its first token.", names.FIRST_TOKEN_S, *of)
        self._per_token = histogram(names.PER_TOKEN, "Between tokens after the first.", names.PER_TOKEN_S, *of)
        self._usage = histogram(names.TOKEN_USAGE, "Tokens of a request.", names.TOKENS, *of, "gen_ai_token_type")
        self._requests = counter(
            "p2pnode_requests", "Requests that are over, by how: stop, length, cancelled, or a code.", *of, "end"
        )
        self._tokens = counter("p2pnode_tokens", "Tokens: prompt, completion, cached, resumed.", *of, "kind")
        self._failovers = counter("p2pnode_failovers", "Times that another miner went on with an order.", *of)
        self._sessions = counter(
            "p2pnode_sessions", "Sessions that found miners, or did not, by code.", "p2pnode_role", "end"
        )
        self._opening = histogram(
            "p2pnode_session_open_seconds", "From a session's opening to its miners.", names.DURATION_S, "p2pnode_role"
        )
        self._queue = histogram(
            "p2pnode_queue_seconds", "An order waits before work on it begins.", names.FIRST_TOKEN_S, "p2pnode_role"
        )
        self._parts = histogram(
            "p2pnode_miner_part_seconds", "Prefill, generation, and commit of an order.", names.DURATION_S, "part"
        )
        self._overhead = histogram(
            "p2pnode_http_overhead_seconds", "What the HTTP surface adds before the first token.", names.OVERHEAD_S
        )
        self._levels = histogram(
            "p2pnode_level_seconds", "From an answer's signed end to a level.", names.LEVEL_S, "level"
        )
        self._observing = histogram(
            "p2pnode_observation_seconds", "From a commit to this oracle's signed value.", names.LEVEL_S, "verdict"
        )
        self._finalizing = histogram(
            "p2pnode_finalization_seconds", "From this oracle's value to the final block.", names.LEVEL_S
        )

    def take(self, span: Span) -> None:
        """Count a span that is over."""
        if span.name in _WORK:
            self._worked(span)
        elif span.name in self._takes:
            self._takes[span.name](span)

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """All of it, and its content type."""
        for refresh in self.refreshed:
            await refresh()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    # What spans amount to

    def _model_of(self, span: Span) -> str:
        digest = str(span.attributes.get("model", ""))
        # One that nobody offers is named by whoever asked for it: it gets no label of its own.
        return self.model(self._models().get(digest, "other"))

    def _worked(self, span: Span) -> None:
        of = (_WORK[span.name], self._model_of(span))
        self.finished(of, span.seconds, span.code, span.attributes)

    def finished(self, of: tuple[str, str], took_s: float, code: str, attributes: Mapping[str, Any]) -> None:
        """A whole request is over, of a role and a model."""
        code = self._code(code) if code else ""
        self._duration.labels(*of, code).observe(took_s)
        self._requests.labels(*of, code or self._code(attributes.get("finish", "stop"))).inc()
        first_us, made = attributes.get("first_token_us"), int(attributes.get("completion_tokens", 0))
        if first_us is not None:
            self._first.labels(*of).observe(int(first_us) / 1e6)
            if made > 1:
                self._per_token.labels(*of).observe(max(0.0, took_s - int(first_us) / 1e6) / (made - 1))
        for kind, usage in (("prompt", "input"), ("completion", "output"), ("cached", ""), ("resumed", "")):
            tokens = int(attributes.get(f"{kind}_tokens", 0))
            if usage and not code:
                self._usage.labels(*of, usage).observe(tokens)
            if tokens:
                self._tokens.labels(*of, kind).inc(tokens)
        self._failovers.labels(*of).inc(max(0, int(attributes.get("attempts", 1)) - 1))

    def _session(self, span: Span) -> None:
        self._sessions.labels(span.role, self._code(span.code or "ready")).inc()
        self._opening.labels(span.role).observe(span.seconds)

    def _queued(self, span: Span) -> None:
        self._queue.labels(span.role.partition("/")[0].partition(".")[0]).observe(span.seconds)

    def _part(self, span: Span) -> None:
        self._parts.labels(span.name).observe(span.seconds)

    def _level(self, span: Span) -> None:
        self._levels.labels(str(span.attributes["level"])).observe(span.seconds)

    def _observed(self, span: Span) -> None:
        self._observing.labels(str(span.attributes["verdict"])).observe(span.seconds)

    def _finalized(self, span: Span) -> None:
        self._finalizing.observe(span.seconds)

    def overhead(self, seconds: float) -> None:
        """What HTTP added to one request."""
        self._overhead.observe(seconds)

    # What was counted, and how things are

    def _sampled(self) -> Iterator[Metric]:
        counts, drivers = self._instruments.counts, self._instruments.drivers
        messages = CounterMetricFamily(
            "p2pnode_messages", "Messages by way and kind.", labels=("p2pnode_role", "way", "kind")
        )
        for labels, value in sorted(counts.messages.items()):
            messages.add_metric(labels, value)
        streams = CounterMetricFamily(
            "p2pnode_streams_opened", "Streams by who opened them.", labels=("p2pnode_role", "way", "protocol")
        )
        for labels, value in sorted(counts.streams.items()):
            streams.add_metric(labels, value)
        notes = CounterMetricFamily("p2pnode_notes", "What its log tells of, by name.", labels=("what",))
        for name, value in sorted(counts.notes.items()):
            notes.add_metric((name,), value)
        open_ = GaugeMetricFamily("p2pnode_streams", "Streams that are open.", labels=("p2pnode_role",))
        dropped = CounterMetricFamily(
            "p2pnode_drops",
            "Streams whose peer read too slowly, and messages that found no turn on gossip.",
            labels=("p2pnode_role",),
        )
        for role, driver in sorted(drivers.items()):
            open_.add_metric((role,), driver.streams)
            dropped.add_metric((role,), driver.dropped)
        bids = CounterMetricFamily("p2pnode_bids", "Bids: a miner's own, and those a router got.", labels=("way",))
        bids.add_metric(("sent",), counts.streams["miner", "opened", "bid"])
        bids.add_metric(("received",), counts.messages["router", "received", "Envelope"])
        yield from (messages, streams, notes, open_, dropped, bids)
        for sample in self.samples:
            yield from sample()

    def _as_vllm(self) -> Iterator[Metric]:
        """The same under the names that vLLM gives: of one role, as its dashboards know no roles."""
        found = {metric.name: metric for metric in self._own()}
        for ours, theirs in names.VLLM_HISTOGRAMS.items():
            yield _renamed(found[ours], theirs, _outermost(found[ours]), HistogramMetricFamily)
        role = _outermost(found["p2pnode_tokens"])
        for kind, theirs in (("prompt", "vllm:prompt_tokens"), ("completion", "vllm:generation_tokens")):
            yield _renamed(found["p2pnode_tokens"], theirs, role, CounterMetricFamily, kind)

    def _own(self) -> Iterator[Metric]:
        for metric in (self._duration, self._first, self._per_token, self._queue, self._tokens):
            yield from metric.collect()


class _Sampled(Collector):
    """Asked at each scrape."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterable[Metric]:
        return self._sample()

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: its names do not clash with others'."""
        return ()


def _outermost(metric: Metric) -> str:
    """The role of this process that is nearest to who asks."""
    roles = {sample.labels.get("p2pnode_role") for sample in metric.samples}
    return next((role for role in names.VLLM_OF if role in roles), names.VLLM_OF[0])


def _renamed(ours: Metric, theirs: str, role: str, kind: Callable[[str, str], Metric], of: str = "") -> Metric:
    """Of one role; what differs in a label that theirs does not have is added up."""
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in ours.samples:
        if sample.labels.get("p2pnode_role") != role or (of and sample.labels.get("kind") != of):
            continue
        suffix = sample.name.removeprefix(ours.name)
        labels = {
            name: sample.labels[label]
            for label, name in (("gen_ai_request_model", "model_name"), ("le", "le"))
            if label in sample.labels
        }
        name = (suffix, tuple(labels.items()))
        sums[name] = sums.get(name, 0.0) + sample.value
    renamed = kind(theirs, ours.documentation)
    for (suffix, given), value in sums.items():
        renamed.add_sample(f"{theirs}{suffix}", dict(given), value)
    return renamed
