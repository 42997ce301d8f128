"""Spans to an OpenTelemetry collector, over OTLP/HTTP. Needs the package's extra ``otel``.

The library draws ids at random; ours follow from the task. So spans are handed to its exporter whole, as it would have
made them itself.
"""

import logging
from threading import Thread
from typing import Any

from p2pnode.telemetry.span import Span
from protocol.core.errors import P2PNodeError

QUEUE_MAX = 4_096
"""Spans that wait to be sent; more are dropped."""
SEND_S = 5
FLUSH_S = 2.0
"""What the last of them may take when the process ends; a collector that is away keeps no node from ending."""


class OtlpError(P2PNodeError):
    """Spans cannot be exported."""

    code = "telemetry/otlp"


class OtlpSpans:
    """A sink that sends to a collector, from a thread of its own."""

    def __init__(self, endpoint: str, service: dict[str, str]) -> None:
        """``endpoint``: the collector's URL, such as ``http://127.0.0.1:4318``. Raises OtlpError."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise OtlpError("[telemetry] otlp needs OpenTelemetry", hint="pip install 'p2pnode[otel]'") from error
        url = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(endpoint=url if url.endswith("/v1/traces") else f"{url}/v1/traces", timeout=SEND_S)
        self._resource = Resource.create(dict(service))
        self._exporter: Any = exporter
        self._processor: Any = BatchSpanProcessor(exporter, QUEUE_MAX)
        # A collector that is away is no news each time.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)

    def take(self, span: Span) -> None:
        """Send a span that belongs to a trace, soon."""
        if span.session:
            self._processor.on_end(_as_theirs(span, self._resource))

    def close(self) -> None:
        """Send the rest, if that is quickly done."""
        # The library's own limits are not kept to where a collector hangs.
        last = Thread(target=self._processor.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_S)
        self._exporter.shutdown()


def _as_theirs(span: Span, resource: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    def context(trace: bytes, id_: bytes) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int.from_bytes(trace, "big"), int.from_bytes(id_, "big"), is_remote=False, trace_flags=flags)

    kinds = {"http": SpanKind.SERVER, "order": SpanKind.CLIENT, "relay": SpanKind.SERVER, "task": SpanKind.SERVER}
    return ReadableSpan(
        name=f"p2pnode {span.name}",
        context=context(span.trace_id, span.span_id),
        parent=context(span.trace_id, span.parent) if span.parent is not None else None,
        resource=resource,
        attributes={
            "p2pnode.role": span.role,
            "p2pnode.node": "0x" + span.node.hex(),
            "p2pnode.session": span.session.hex(),
            "p2pnode.task": span.task,
            **{f"p2pnode.{name}": value for name, value in span.attributes.items()},
            **({"error.type": span.code} if span.code else {}),
        },
        links=[Link(context(link.trace_id, link.span_id)) for link in span.links],
        kind=kinds.get(span.name, SpanKind.INTERNAL),
        status=Status(StatusCode.ERROR, span.code) if span.code else Status(StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("p2pnode"),
    )
