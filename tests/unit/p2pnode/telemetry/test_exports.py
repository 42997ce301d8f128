"""Where spans go: a file that several processes share, and a collector."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from p2pnode.sections import TelemetrySection
from p2pnode.telemetry import otlp, span_file
from p2pnode.telemetry.instruments import open_instruments
from p2pnode.telemetry.otlp import OtlpError, OtlpSpans
from p2pnode.telemetry.span import Link, Span
from p2pnode.telemetry.span_file import SpanFile, SpanFileError
from protocol.core.ids import NodeId

ME = NodeId(bytes(range(20)))
SPAN = Span(
    name="relay",
    role="router",
    node=ME,
    session=bytes(range(32)),
    task=3,
    start_ns=1_800_000_000_000_000_000,
    end_ns=1_800_000_000_500_000_000,
    parent=b"\x01" * 8,
    code="miner_lost",
    attributes={"attempts": 2, "model": "ab"},
    links=(Link(b"\x02" * 16, b"\x03" * 8),),
)


def test_several_writers_share_a_file_and_lines_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    writers = [SpanFile(path), SpanFile(path)]
    for number in range(20):
        writers[number % 2].take(replace(SPAN, task=number))
    writers[0].take(replace(SPAN, session=b""))
    for writer in writers:
        writer.close()
        writer.take(SPAN)
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["task"] for line in told] == list(range(20))
    assert told[3]["trace_id"] == SPAN.trace_id.hex()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_has_grown_too_large_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(span_file, "BYTES_MAX", 1_500)
    path = tmp_path / "spans.jsonl"
    writer = SpanFile(path)
    for _ in range(10):
        writer.take(SPAN)
    writer.close()
    assert path.stat().st_size <= 1_500
    assert writer.written == len(path.read_text().splitlines()) > 0
    assert caplog.text.count("no more spans") == 1


def test_a_file_that_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpanFileError) as caught:
        SpanFile(tmp_path / "missing" / "spans.jsonl")
    assert caught.value.hint == "correct [telemetry] spans_file"


@contextmanager
def collector() -> Iterator[tuple[str, "Queue[tuple[str, bytes]]"]]:
    """A collector of traces that keeps what it is sent."""
    got: Queue[tuple[str, bytes]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.put((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_collector_is_sent_spans_under_our_own_ids() -> None:
    with collector() as (url, got):
        section = TelemetrySection(otlp=url)
        with open_instruments(section, "router", ("router",), ME) as instruments:
            instruments.take(SPAN)
            instruments.take(replace(SPAN, session=b""))
        path, body = got.get(timeout=10)
    assert path == "/v1/traces"
    request = ExportTraceServiceRequest.FromString(body)
    (resource,) = request.resource_spans
    told = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert told["service.name"] == "p2pnode"
    assert told["service.instance.id"] == "0x" + ME.hex()
    (span,) = resource.scope_spans[0].spans
    assert span.trace_id == SPAN.trace_id
    assert span.span_id == SPAN.span_id
    assert span.parent_span_id == SPAN.parent
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (SPAN.start_ns, SPAN.end_ns)
    assert span.name == "p2pnode relay"
    assert [(link.trace_id, link.span_id) for link in span.links] == [(b"\x02" * 16, b"\x03" * 8)]
    assert span.status.code == Status.STATUS_CODE_ERROR
    attributes = {pair.key: pair.value for pair in span.attributes}
    assert attributes["p2pnode.session"].string_value == SPAN.session.hex()
    assert attributes["p2pnode.attempts"].int_value == 2
    assert attributes["error.type"].string_value == "miner_lost"


def test_a_collector_that_never_answers_does_not_keep_a_process_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "FLUSH_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        spans = OtlpSpans(f"http://127.0.0.1:{silent.getsockname()[1]}", {})
        for _ in range(2_000):
            spans.take(SPAN)
        began = time.monotonic()
        spans.close()
        # Its four batches would take 5 s each.
        assert time.monotonic() - began < 10


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(OtlpError) as caught:
        OtlpSpans("http://127.0.0.1:4318", {})
    assert caught.value.hint == "pip install 'p2pnode[otel]'"
