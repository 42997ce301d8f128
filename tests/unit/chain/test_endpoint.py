"""One endpoint over HTTP: what it may do to us is bounded, and what it says is what was asked for or refused."""

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from chain.embedded_server import EmbeddedServer
from chain.endpoint import Endpoint, Refused, open_endpoint
from chain.errors import ChainUnreachable, RpcNonsense
from chain.replies import Reply, decode
from protocol.core.errors import ParameterError

GOOD = b'{"jsonrpc":"2.0","id":1,"result":"0x5"}'


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that hands each connection's requests to a function; its URL, and what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        try:
            while request := _request(connection):
                asked.append(request)
                answer(connection, request)
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()
        thread.join()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def says(*content: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda connection, _: connection.sendall(b"".join(content))


def ask(url: str, timeout_s: float = 5.0) -> str:
    return str(open_endpoint(url).call("eth_chainId", [], str, timeout_s))


def test_a_call_and_its_result() -> None:
    with serving(says(http(GOOD))) as (url, asked):
        assert ask(url) == "0x5"
    assert json.loads(asked[0].partition(b"\r\n\r\n")[2])["method"] == "eth_chainId"


def test_a_connection_is_kept_and_made_anew_when_it_was_closed() -> None:
    connections = set()

    def answer(connection: socket.socket, _: bytes) -> None:
        connections.add(connection)
        connection.sendall(http(GOOD))
        if len(connections) == 1 and len(asked) == 2:
            connection.close()

    with serving(answer) as (url, asked):
        endpoint = open_endpoint(url)
        for _ in range(4):
            assert endpoint.call("eth_chainId", [], str) == "0x5"
    assert len(connections) == 2


def test_user_and_path_are_sent_and_never_said() -> None:
    with serving(says(http(b"nothing", "503 Busy"))) as (url, asked):
        secret = url.replace("http://", "http://user:word@") + "/v1/key?x=y"
        with pytest.raises(ChainUnreachable) as caught:
            ask(secret)
    assert asked[0].startswith(b"POST /v1/key?x=y ")
    assert base64.b64encode(b"user:word") in asked[0]
    assert str(caught.value) == f"{url} answers with HTTP status 503"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"id":1,"result":5}',
        b'{"id":1,"result":{"a":1}}',
        b'{"id":1,"result":"\xff"}',
        b"[" * 100_000,
        b'{"id":1,"result":' + b"[" * 100_000,
    ],
    ids=lambda answer: repr(answer[:24]),
)
def test_nonsense(answer: bytes) -> None:
    with serving(says(http(answer))) as (url, _), pytest.raises(RpcNonsense, match=url):
        ask(url)


@pytest.mark.spec("CHAIN-ENDPOINT.1")
@pytest.mark.parametrize("start", [b"", b'{"id":1,"result":', b'{"x":', b'{"id":1,"error":{"data":'])
@pytest.mark.parametrize("bracket", [b"[", b'{"":', b'["]]",'])
def test_deep_nesting_is_refused_whatever_the_recursion_limit(start: bytes, bracket: bytes) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)  # as libraries do
    try:
        for body in (start + bracket * 200_000, start + bracket * 50 + b"0"):
            with pytest.raises(RpcNonsense):
                decode(body, Reply)
    finally:
        sys.setrecursionlimit(limit)


def test_strings_may_hold_brackets() -> None:
    said = '[{[\\"{' * 50
    assert decode(json.dumps({"id": 1, "error": {"message": said}}).encode(), Reply).error.message == said


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"])
def test_no_http(answer: bytes) -> None:
    def say(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer)
        connection.close()

    with serving(say) as (url, _), pytest.raises((ChainUnreachable, RpcNonsense)):
        ask(url)


@pytest.mark.spec("CHAIN-ENDPOINT.1")
def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.endpoint.RESPONSE_BYTES_MAX", 1 << 20)

    def flood(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65_536)

    with serving(flood) as (url, _), pytest.raises(RpcNonsense, match="more than 1048576 bytes"):
        ask(url)


@pytest.mark.spec("CHAIN-ENDPOINT.1")
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"])
def test_an_answer_that_drips_ends_at_the_deadline(start: bytes) -> None:
    stop = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        while start and not stop.wait(0.02):
            connection.sendall(b"a")

    with serving(drip) as (url, _):
        with pytest.raises(ChainUnreachable, match="timed out"):
            ask(url, timeout_s=0.2)
        stop.set()


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChainUnreachable, match="refused"):
        ask(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["ws://host", "host:1", "http://", "http://host:99999", "http://[::1", "file:///x"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ParameterError):
        open_endpoint(url)


# JSON-RPC


@pytest.mark.parametrize(
    ("error", "reverts", "data"),
    [
        ({"code": 3, "message": "execution reverted", "data": "0x08c379a0"}, True, b"\x08\xc3\x79\xa0"),
        ({"code": -32000, "message": "execution reverted: old"}, True, b""),
        ({"code": -32015, "message": "VM error", "data": {"data": "0x01"}}, True, b"\x01"),
        ({"code": -32000, "message": "header not found"}, False, b""),
        ({"code": -32005, "message": "limit", "data": [1, {"x": 2}]}, False, b""),
    ],
)
def test_an_error_and_what_it_carries(error: dict[str, object], reverts: bool, data: bytes) -> None:
    endpoint = Endpoint("http://x", lambda *_: json.dumps({"id": 1, "error": error}).encode())
    with pytest.raises(Refused) as caught:
        endpoint.call("eth_call", [], str)
    assert (caught.value.reverts, caught.value.data) == (reverts, data)
    assert (caught.value.number, caught.value.said) == (error["code"], error["message"])


def test_answers_of_a_batch_may_come_in_any_order() -> None:
    def post(body: bytes, _: float) -> bytes:
        calls = json.loads(body)
        return json.dumps([{"id": call["id"], "result": call["method"]} for call in reversed(calls)]).encode()

    calls = [(str(number), []) for number in range(100)]
    assert Endpoint("http://x", post).batch(calls, str) == [str(number) for number in range(100)]


@pytest.mark.parametrize("ids", [[0], [0, 0], [0, 1, 2], [0, "1"], [None, 1], [5, 6]], ids=str)
def test_a_batch_is_answered_whole_or_not_at_all(ids: list[object]) -> None:
    answer = json.dumps([{"id": one, "result": "x"} for one in ids]).encode()
    with pytest.raises(RpcNonsense, match=r"of 2 calls"):
        Endpoint("http://x", lambda *_: answer).batch([("a", []), ("b", [])], str)


def test_an_endpoint_that_takes_no_batches_is_asked_one_by_one() -> None:
    bodies: list[object] = []

    def post(body: bytes, _: float) -> bytes:
        bodies.append(json.loads(body))
        return GOOD if isinstance(bodies[-1], dict) else b'{"error":{"code":-32600,"message":"no batches"}}'

    endpoint = Endpoint("http://x", post)
    assert endpoint.batch([("a", []), ("b", [])], str) == ["0x5", "0x5"]
    assert endpoint.batch([("a", []), ("b", [])], str) == ["0x5", "0x5"]
    assert [isinstance(body, list) for body in bodies] == [True, False, False, False, False]


def test_the_local_server_speaks_it() -> None:
    class Echo:
        def answer(self, body: bytes) -> bytes:
            return json.dumps({"id": 1, "result": json.loads(body)["method"]}).encode()

    server = EmbeddedServer(Echo())  # type: ignore[arg-type]
    try:
        endpoint = open_endpoint(server.url)
        assert [endpoint.call("eth_chainId", [], str) for _ in range(3)] == ["eth_chainId"] * 3
    finally:
        server.close()
