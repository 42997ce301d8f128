"""Spans in a file, one JSON object a line. Several processes of one machine may write to the same one."""

import json
import logging
import os
from pathlib import Path

from p2pnode.telemetry.span import Span, in_json
from protocol.core.errors import P2PNodeError

log = logging.getLogger(__name__)

BYTES_MAX = 256 << 20
"""When the file has grown to so much, nothing is added any more: it is for looking at a network, not for keeping."""


class SpanFileError(P2PNodeError):
    """The file of spans cannot be written."""

    code = "telemetry/span-file"


class SpanFile:
    """A sink. Each span is one write to the end of the file, so those of other processes stay whole."""

    def __init__(self, path: Path) -> None:
        """Raises SpanFileError."""
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpanFileError(
                f"cannot write spans to {path}: {error.strerror}", hint="correct [telemetry] spans_file"
            ) from error
        self._full = False
        self.written = 0

    def take(self, span: Span) -> None:
        """Write a span that belongs to a trace."""
        if self._full or not span.session:
            return
        line = json.dumps(in_json(span)).encode() + b"\n"
        try:
            if os.fstat(self._descriptor).st_size + len(line) > BYTES_MAX:
                raise OSError(f"it has grown to {BYTES_MAX >> 20} MiB")
            os.write(self._descriptor, line)
            self.written += 1
        except OSError as error:
            self._full = True
            log.warning("no more spans are written: %s", error)

    def close(self) -> None:
        """Nothing is written after this."""
        self._full = True
        os.close(self._descriptor)
