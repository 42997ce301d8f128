"""Connections over real sockets: who dawdles is cut off, who is too many is told so, and the end is an orderly one."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from starlette.types import Receive, Scope, Send

from p2pnode.http import server as server_module
from p2pnode.http.server import HttpServer, ListenError, ServerLimits, open_server

ANY_PORT = ["127.0.0.1:0"]
PATIENCE_S = 30.0
"""Far more than any of it takes."""


class App:
    """Does what a request's path says."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.left = trio.Event()
        self.go_on = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered.set()
        try:
            await getattr(self, scope["path"].strip("/"))(receive, send)
        finally:
            self.left.set()

    async def hello(self, _: Receive, send: Send) -> None:
        await said(send, b"hello")

    async def wait(self, _: Receive, send: Send) -> None:
        await self.go_on.wait()
        await said(send, b"waited")

    async def hasty(self, receive: Receive, send: Send) -> None:
        """Ends itself as soon as it hears that the request is over."""
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            await self.go_on.wait()
            await said(send, b"hasty")
            nursery.cancel_scope.cancel()

    async def flood(self, _: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * (1 << 18), "more_body": True})

    async def gone(self, receive: Receive, _: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def deaf(self, _: Receive, __: Send) -> None:
        await trio.sleep_forever()

    async def bug(self, _: Receive, __: Send) -> None:
        raise ValueError("a bug")


async def said(send: Send, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def dial(server: HttpServer) -> trio.SocketStream:
    host, _, port = server.urls[0].removeprefix("http://").rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def ask(stream: trio.SocketStream, path: str) -> None:
    await stream.send_all(f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode())


async def heard(stream: trio.SocketStream, until: Callable[[bytes], bool]) -> bytes:
    data = b""
    with trio.fail_after(PATIENCE_S):
        while not until(data):
            chunk = await stream.receive_some()
            if not chunk:
                break
            data += bytes(chunk)
    return data


async def rest(stream: trio.SocketStream) -> bytes:
    """All that is said before the connection ends."""
    with trio.fail_after(PATIENCE_S):
        try:
            return await heard(stream, lambda _: False)
        except trio.BrokenResourceError:
            return b""


async def test_several_requests_on_one_connection() -> None:
    async with open_server(App(), ANY_PORT) as server, await dial(server) as stream:
        for _ in range(3):
            await ask(stream, "/hello")
            answered = await heard(stream, lambda data: data.endswith(b"hello"))
            assert answered.startswith(b"HTTP/1.1 200")
        assert server.connections == 1


async def test_who_is_too_many_is_told_so_and_the_others_go_on() -> None:
    app = App()
    async with open_server(app, ANY_PORT, ServerLimits(connections=1)) as server, await dial(server) as first:
        await ask(first, "/wait")
        await app.entered.wait()
        async with await dial(server) as second:
            told = await rest(second)
        assert told.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in told
        length = int(told.partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert len(told.partition(b"\r\n\r\n")[2]) == length
        app.go_on.set()
        assert (await heard(first, lambda data: data.endswith(b"waited"))).startswith(b"HTTP/1.1 200")


async def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LINGER_S", 0.05)
    app = App()
    async with open_server(app, ANY_PORT, ServerLimits(send_s=0.1)) as server, await dial(server) as stream:
        await ask(stream, "/flood")
        with trio.fail_after(PATIENCE_S):
            await app.left.wait()


async def test_headers_that_do_not_end_are_not_waited_for() -> None:
    async with open_server(App(), ANY_PORT, ServerLimits(idle_s=0.1)) as server, await dial(server) as stream:
        await stream.send_all(b"GET /hello HTTP/1.1\r\nhost: he")
        assert await rest(stream) == b""


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /hello HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /hello HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\n\r\n",
        b"\r\n" * 40_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    ],
    ids=["tls", "version", "two hosts", "length", "chunk", "long path", "blank lines", "http2"],
)
async def test_nonsense_ends_its_own_connection_only(nonsense: bytes) -> None:
    limits = ServerLimits(idle_s=0.5)
    async with open_server(App(), ANY_PORT, limits) as server, await dial(server) as good:
        await ask(good, "/hello")
        await heard(good, lambda data: data.endswith(b"hello"))
        async with await dial(server) as bad:
            with suppress(trio.BrokenResourceError):
                await bad.send_all(nonsense)
            await rest(bad)
        async with await dial(server) as good_again:
            await ask(good_again, "/hello")
            assert (await heard(good_again, lambda data: data.endswith(b"hello"))).startswith(b"HTTP/1.1 200")


async def test_a_client_that_would_like_http_2_is_answered_all_the_same() -> None:
    async with open_server(App(), ANY_PORT) as server, await dial(server) as stream:
        wish = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
        await stream.send_all(b"GET /hello HTTP/1.1\r\nhost: here\r\n" + wish + b"\r\n")
        answered = await heard(stream, lambda data: data.endswith(b"hello"))
        assert answered.startswith(b"HTTP/1.1 200")


async def test_a_bug_in_a_route_is_a_status_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with open_server(App(), ANY_PORT) as server, await dial(server) as stream:
        await ask(stream, "/bug")
        assert (await rest(stream)).startswith(b"HTTP/1.1 500")
    assert "a bug" in caplog.text


async def test_a_bug_in_the_server_ends_one_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: Any) -> None:
            raise ValueError("a bug")

    async with open_server(App(), ANY_PORT) as server:
        with monkeypatch.context() as patched:
            patched.setattr(server_module, "_Exchange", Broken)
            async with await dial(server) as stream:
                assert await rest(stream) == b""
        async with await dial(server) as stream:
            await ask(stream, "/hello")
            assert await heard(stream, lambda data: data.endswith(b"hello"))
    assert "a connection ended by a bug" in caplog.text


async def test_a_route_hears_that_its_client_has_gone() -> None:
    app = App()
    async with open_server(app, ANY_PORT) as server:
        async with await dial(server) as stream:
            await ask(stream, "/gone")
            await app.entered.wait()
        with trio.fail_after(PATIENCE_S):
            await app.left.wait()


async def test_a_route_that_does_not_listen_is_ended_after_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LINGER_S", 0.05)
    app = App()
    async with open_server(app, ANY_PORT) as server:
        async with await dial(server) as stream:
            await ask(stream, "/deaf")
            await app.entered.wait()
        with trio.fail_after(PATIENCE_S):
            await app.left.wait()


async def test_at_the_end_what_runs_is_finished_and_nothing_new_begun() -> None:
    app = App()
    async with open_server(app, ANY_PORT) as server, await dial(server) as stream, await dial(server) as idle:
        await ask(idle, "/hello")
        await heard(idle, lambda data: data.endswith(b"hello"))
        await ask(stream, "/wait")
        await app.entered.wait()
        async with trio.open_nursery() as nursery:
            ended: list[bool] = []

            async def drain() -> None:
                ended.append(await server.drain(PATIENCE_S))

            nursery.start_soon(drain)
            assert await rest(idle) == b"", "a connection without a request is closed"
            assert server.draining
            with pytest.raises(OSError, match="all attempts to connect"):
                await dial(server)
            app.go_on.set()
            assert (await rest(stream)).endswith(b"waited")
        assert ended == [True]


async def test_a_route_that_ends_itself_leaves_no_connection_behind() -> None:
    app = App()
    async with open_server(app, ANY_PORT) as server, await dial(server) as stream:
        await ask(stream, "/hasty")
        await app.entered.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain, PATIENCE_S)
            await trio.testing.wait_all_tasks_blocked()
            app.go_on.set()
            assert (await rest(stream)).endswith(b"hasty")
        assert server.connections == 0


async def test_a_connection_without_a_request_is_closed_after_a_while_also_if_it_had_one() -> None:
    app = App()
    app.go_on.set()
    async with open_server(app, ANY_PORT, ServerLimits(idle_s=0.1)) as server, await dial(server) as stream:
        await ask(stream, "/hasty")
        assert (await rest(stream)).endswith(b"hasty")


async def test_an_end_that_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_S", 0.05)
    app = App()
    with trio.fail_after(PATIENCE_S):
        async with open_server(app, ANY_PORT) as server:
            stream = await dial(server)
            await ask(stream, "/deaf")
            await app.entered.wait()
            assert not await server.drain(0.01)
    assert await rest(stream) == b""
    await stream.aclose()


async def test_an_address_that_is_taken_is_said() -> None:
    async with open_server(App(), ANY_PORT) as server:
        taken = server.urls[0].removeprefix("http://")
        with pytest.raises(ListenError, match=taken) as caught:
            async with open_server(App(), ["127.0.0.1:0", taken]):
                raise AssertionError("it was taken")
        assert caught.value.hint


async def test_no_address_is_no_listener() -> None:
    async with open_server(App(), []) as server:
        assert server.urls == ()
        assert await server.drain()
