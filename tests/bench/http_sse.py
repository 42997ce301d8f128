"""Just enough HTTP/1.1 to ask for a streamed chat completion: the request's bytes, and the answer read from bytes.

No input or output happens here: the client that measures feeds this from a selector, the chaos bench from trio.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL = "fake"
HEAD_END = b"\r\n\r\n"
DONE = b"[DONE]"


class MalformedAnswer(Exception):
    """What came is no HTTP answer, or none with events."""


def chat_request(text: str, max_tokens: int, model: str = MODEL) -> bytes:
    """A whole request, keep-alive."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    return post_request("/v1/chat/completions", body)


def post_request(path: str, body: Mapping[str, Any], *, close: bool = False) -> bytes:
    """A POST of JSON; ``close``: the connection serves no other."""
    content = json.dumps(body).encode()
    connection = "close" if close else "keep-alive"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer none\r\nConnection: {connection}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class AnswerReader:
    """One answer, fed piece by piece."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        """The message has ended as HTTP says it must; not: the connection broke."""
        self.keep_alive = True
        self.frames = 0
        """HTTP chunks with content; reads where the body is not chunked."""
        self._raw = b""
        self._events = b""
        self._chunked = False
        self._left: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The events' data that came to their end with this piece. Raises MalformedAnswer."""
        self._raw += data
        if self.status == 0:
            head, mark, rest = self._raw.partition(HEAD_END)
            if not mark:
                return []
            self._read_head(head)
            self._raw = rest
        try:
            body = self._read_chunks() if self._chunked else self._read_plain()
        except ValueError as error:
            raise MalformedAnswer(f"no chunk: {self._raw[:80]!r}") from error
        return self._read_events(body) if body else []

    def ended(self) -> None:
        """The connection was closed: that ends a body without a length."""
        self.keep_alive = False
        if self.status and not self._chunked and self._left is None:
            self.complete = True

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        try:
            self.status = int(first.split(b" ", 2)[1])
        except (IndexError, ValueError) as error:
            raise MalformedAnswer(f"no status line: {first[:80]!r}") from error
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip().lower()
            if name == b"transfer-encoding":
                self._chunked = value.endswith(b"chunked")
            elif name == b"content-length":
                self._left = int(value)
            elif name == b"connection":
                self.keep_alive = value != b"close"

    def _read_chunks(self) -> bytes:
        raw, at, pieces = self._raw, 0, []
        while not self.complete:
            line_end = raw.find(b"\r\n", at)
            if line_end < 0:
                break
            size = int(raw[at:line_end].partition(b";")[0], 16)
            after = line_end + 2 + size + 2
            if len(raw) < after:
                break
            if size:
                pieces.append(raw[line_end + 2 : after - 2])
            else:
                self.complete = True
            at = after
        self.frames += len(pieces)
        self._raw = raw[at:]
        return b"".join(pieces)

    def _read_plain(self) -> bytes:
        body, self._raw = self._raw, b""
        if self._left is not None:
            self._left -= len(body)
            self.complete = self._left <= 0
        self.frames += bool(body)
        return body

    def _read_events(self, body: bytes) -> list[bytes]:
        *whole, self._events = (self._events + body).replace(b"\r\n", b"\n").split(b"\n\n")
        return [line[5:].strip() for event in whole for line in event.split(b"\n") if line.startswith(b"data:")]


@dataclass
class Said:
    """What an answer has said so far."""

    words: list[str]
    """Of the fake engine: one word is one token."""
    finish: str = ""
    done: bool = False
    server: str = ""
    error: str = ""

    def note(self, event: bytes) -> int:
        """Take an event in; returns how many tokens it brought."""
        if event == DONE:
            self.done = True
            return 0
        message = json.loads(event)
        if "error" in message:
            self.error = str(message["error"])
        self.server = message.get("system_fingerprint") or self.server
        if not message.get("choices"):
            return 0
        choice = message["choices"][0]
        self.finish = choice.get("finish_reason") or self.finish
        words = ((choice.get("delta") or {}).get("content") or "").split()
        self.words += words
        return len(words)
