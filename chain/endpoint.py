"""One JSON-RPC endpoint over HTTP: bounded in time and size, with typed answers and typed errors.

It is remote, so it may be slow, endless, or of another mind: every call has a deadline for all of it, an answer has a
largest size, and what it says is decoded into what was asked for, or refused. Its path and user may be secrets (keys
of providers stand there), so an endpoint is named by its host alone.

Spec: [CHAIN-ENDPOINT.1]
"""

import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from chain.errors import ChainError, ChainUnreachable, RpcNonsense, RpcRefused
from chain.replies import Failure, Reply, decode, octets
from protocol.core.errors import ParameterError

RESPONSE_BYTES_MAX = 16 << 20
CALL_TIMEOUT_S = 10.0
BATCH_MAX = 64
IDLE_MAX = 4
_READ_BYTES = 1 << 16

Post = Callable[[bytes, float], bytes]
"""Sends a request's body and returns the answer's, within so many seconds. Raises ChainUnreachable, RpcNonsense."""

Call = tuple[str, Sequence[Any]]
"""A method and its parameters."""


class Refused(RpcRefused):
    """An endpoint's JSON-RPC error with what it carries."""

    def __init__(self, name: str, method: str, failure: Failure) -> None:
        message = failure.message[:300]
        super().__init__(f"{name} refuses {method}: {message or failure.code}", failure.code)
        self.said = message
        self.data = _revert_data(failure.data)

    @property
    def reverts(self) -> bool:
        """Whether it is a contract that refuses, not the endpoint."""
        return self.number == 3 or bool(self.data) or "revert" in self.said.lower()


class Endpoint:
    """See the module. Used from any thread."""

    def __init__(self, name: str, post: Post, close: Callable[[], None] | None = None) -> None:
        self.name = name
        self._post = post
        self._close = close
        self._batches = True

    def close(self) -> None:
        """Keep no connection open; the next call makes one."""
        if self._close is not None:
            self._close()

    def call(self, method: str, params: Sequence[Any], kind: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """One call's result as ``kind``. Raises ChainUnreachable, RpcNonsense, Refused."""
        body = _encoded({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        reply = self._read(self._post(body, timeout_s), Reply)
        return self._result(method, reply, kind)

    def batch(self, calls: Sequence[Call], kind: Any, timeout_s: float = CALL_TIMEOUT_S) -> list[Any]:
        """The results of several calls of one kind, asked for at once where the endpoint takes that."""
        results: list[Any] = []
        for start in range(0, len(calls), BATCH_MAX):
            results += self._some(calls[start : start + BATCH_MAX], kind, timeout_s)
        return results

    def _some(self, calls: Sequence[Call], kind: Any, timeout_s: float) -> list[Any]:
        if self._batches and len(calls) > 1:
            bodies = [
                {"jsonrpc": "2.0", "id": at, "method": method, "params": list(params)}
                for at, (method, params) in enumerate(calls)
            ]
            answer = self._post(_encoded(bodies), timeout_s)
            if answer.lstrip()[:1] == b"[":
                return self._sorted(calls, self._read(answer, list[Reply]), kind)
            self._batches = False  # it takes one call at a time
        return [self.call(method, params, kind, timeout_s) for method, params in calls]

    def _sorted(self, calls: Sequence[Call], replies: list[Reply], kind: Any) -> list[Any]:
        by_id = {reply.id: reply for reply in replies}
        if len(replies) != len(calls) or set(by_id) != set(range(len(calls))):
            raise RpcNonsense(f"{self.name} answered {len(replies)} of {len(calls)} calls")
        return [self._result(method, by_id[at], kind) for at, (method, _) in enumerate(calls)]

    def _result(self, method: str, reply: Reply, kind: Any) -> Any:
        if reply.error is not None:
            raise Refused(self.name, method, reply.error)
        return self._read(reply.result, kind)

    def _read(self, data: bytes | msgspec.Raw, kind: Any) -> Any:
        try:
            return decode(data, kind)
        except RpcNonsense as error:
            raise RpcNonsense(f"{self.name} {error}") from error


def _encoded(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _revert_data(data: msgspec.Raw) -> bytes:
    """What a revert carries. Most say it as text, some inside an object."""
    try:
        said = msgspec.json.decode(data, type=str | dict[str, Any] | None)
        text = said.get("data") if isinstance(said, dict) else said
        return octets(text[: 1 << 16]) if isinstance(text, str) else b""
    except (msgspec.DecodeError, RecursionError, ChainError):
        return b""


def open_endpoint(url: str) -> Endpoint:
    """The endpoint at an http(s) URL. Raises ParameterError if it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ParameterError(f"a chain's URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ParameterError("a chain's URL is http://HOST:PORT or https://HOST/PATH", hint="WebSockets are not used")
    name = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
    post = _HttpPost(name, parts)
    return Endpoint(name, post, post.close)


class _HttpPost:
    """POST over connections that are kept open."""

    def __init__(self, name: str, parts: SplitResult) -> None:
        self._name = name
        self._parts = parts
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "p2pnode"}
        if parts.username is not None:
            self._headers["Authorization"] = _basic(parts.username, parts.password or "")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __call__(self, body: bytes, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._exchange(kept, body, deadline)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                pass  # it was closed while it was idle; every call is safe to repeat
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
        try:
            return self._exchange(self._connect(timeout_s), body, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        host = self._parts.hostname
        assert host is not None
        if self._tls is not None:
            return http.client.HTTPSConnection(host, self._parts.port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, self._parts.port, timeout=timeout_s)

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes, deadline: float) -> bytes:
        connection.response_class = lambda sock, method=None: _response(sock, method, deadline)  # type: ignore[assignment]
        try:
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            content = self._content(response)
            response.close()  # read1 does not notice the end of an answer of known length
            # Some nodes answer a JSON-RPC error under an error's status.
            if response.status != 200 and content.lstrip()[:1] not in (b"{", b"["):
                raise ChainUnreachable(f"{self._name} answers with HTTP status {response.status}")
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if response.will_close or len(self._idle) >= IDLE_MAX:
                connection.close()
            else:
                self._idle.append(connection)
        return content

    def _content(self, response: http.client.HTTPResponse) -> bytes:
        content = bytearray()
        while piece := response.read1(_READ_BYTES):
            content += piece
            if len(content) > RESPONSE_BYTES_MAX:
                raise RpcNonsense(f"{self._name} answers with more than {RESPONSE_BYTES_MAX} bytes")
        return bytes(content)

    def _unreachable(self, error: Exception) -> ChainUnreachable:
        return ChainUnreachable(f"{self._name}: {getattr(error, 'strerror', None) or error or type(error).__name__}")


class _Timed(io.RawIOBase):
    """What a socket receives until the whole call's deadline: a socket's own timeout starts anew with each byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Socket:
    """As much of a socket as a response reads from."""

    def __init__(self, file: _Timed) -> None:
        self._file = file

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(self._file)


def _response(sock: socket.socket, method: str | None, deadline: float) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(_Socket(_Timed(sock, deadline)), method=method)  # type: ignore[arg-type]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _basic(user: str, password: str) -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
