"""Requests that no client should send: by a seed, from a wrong type in a body down to bytes that are no HTTP."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

CHAT = "/v1/chat/completions"
PATHS = (
    CHAT,
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/%00",
    "/v1/receipts/x",
    "/v1/receipts/" + "0" * 64 + "-0/levels",
    "/api/v1/sessions/" + "f" * 64,
    "/api/v1/tasks/" + "0" * 64 + "/99999999999",
    "/api/v1/completions",
    "/v1/ws",
    "/../../etc/passwd",
    "/%2e%2e/%ff",
    "/metrics",
    "*",
)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW")
ODD = (None, True, -1, 1e308, 10**30, "", "x", [], {}, [[]], {"a": {}}, "\ud800", "\x00", ["x"] * 50)


@dataclass(frozen=True, slots=True)
class Malformed:
    """What is sent, and whether the connection is cut right after."""

    data: bytes
    cut: bool = False


def malformed(random_: random.Random) -> Malformed:
    """The next one."""
    kinds: tuple[Callable[[random.Random], Malformed], ...] = (
        _odd_field,
        _odd_field,
        _odd_field,
        _no_json,
        _nested,
        _odd_request,
        _odd_header,
        _cut_short,
        _noise,
    )
    return random_.choice(kinds)(random_)


def _post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    told = [f"content-length: {len(body) if length is None else length}", "host: 127.0.0.1", "connection: close"]
    if not any(header.startswith("content-type") for header in headers):
        told.append("content-type: application/json")
    head = "\r\n".join([f"POST {path} HTTP/1.1", *told, *headers, "", ""])
    return head.encode("latin-1") + body


def _odd_field(random_: random.Random) -> Malformed:
    fields = ("model", "messages", "prompt", "stream", "n", "stop", "seed", "max_tokens", "logprobs", "tools", "input")
    fields += ("response_format", "temperature", "logit_bias", "stream_options", "tool_choice", "top_logprobs")
    body: dict[str, object] = {"model": "nobody-has-it", "messages": [{"role": "user", "content": "x"}]}
    for _ in range(random_.randint(1, 4)):
        body[random_.choice(fields)] = random_.choice(ODD)
    return Malformed(_post(random_.choice(PATHS[:3]), json.dumps(body).encode()))


def _no_json(random_: random.Random) -> Malformed:
    body = random_.choice((b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{'a': 1}", b'{"a": NaN}', b"1" * 5_000))
    kind = random_.choice(("application/json", "text/plain", "multipart/form-data; boundary=x", "\x7f"))
    return Malformed(_post(CHAT, body, f"content-type: {kind}"))


def _nested(random_: random.Random) -> Malformed:
    depth = random_.choice((100, 10_000, 100_000))
    opening, closing = random_.choice((("[", "]"), ('{"a":', "}")))
    inner = opening * depth + "1" + closing * depth
    body = random_.choice(('{"model": "x", "messages": %s}', "%s", '{"model": "x", "tools": %s}')) % inner
    return Malformed(_post(CHAT, body.encode()))


def _odd_request(random_: random.Random) -> Malformed:
    line = f"{random_.choice(METHODS)} {random_.choice(PATHS)} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    return Malformed(line.encode())


def _odd_header(random_: random.Random) -> Malformed:
    odd = (
        "x-request-id: " + "a" * 5_000,
        "x-session-id: \xff\xfe",
        "traceparent: 00-" + "z" * 32 + "-0-0",
        "authorization: Bearer " + "k" * 5_000,
        "authorization: Basic eA==",
        "origin: null",
        "accept: " + "a/b;q=9," * 500,
        "content-type: application/json; charset=utf-7",
        "transfer-encoding: gzip, chunked",
        "expect: 100-continue",
        "upgrade: websocket",
        "cookie: " + "a=b;" * 2_000,
    )
    return Malformed(_post(CHAT, b'{"model": "x"}', *random_.sample(odd, random_.randint(1, 3))))


def _cut_short(random_: random.Random) -> Malformed:
    whole = _post(CHAT, b'{"model": "x", "messages": []}', length=random_.choice((100, 10**6, 10**12)))
    return Malformed(whole[: random_.randint(1, len(whole))], cut=True)


def _noise(random_: random.Random) -> Malformed:
    return Malformed(random_.randbytes(random_.choice((1, 100, 70_000))), cut=random_.random() < 0.5)
