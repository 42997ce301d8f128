"""The control socket: questions and answers, errors that cross it, and callers that misbehave."""

import json
import os
import socket
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.control import QUESTION_BYTES_MAX, SOCKET, ControlError, NoNodeRunning, ask_control, serve_control
from protocol.core.errors import P2PNodeError


def answer(what: str) -> Mapping[str, Any]:
    if what != "status":
        raise P2PNodeError(f"cannot say {what}", code="node/unknown", hint="ask for status")
    return {"peers": 3, "name": "Ünïcode", "big": "x" * 300_000}


async def ask(path: Path, what: str) -> dict[str, Any]:
    return await trio.to_thread.run_sync(ask_control, path, what)


async def test_a_question_is_answered_and_the_socket_goes_with_the_node(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, answer)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(path, "status") == answer("status")
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == []


async def test_an_error_crosses_with_its_code_and_hint(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, answer)
        with pytest.raises(ControlError, match="cannot say wonders") as caught:
            await ask(path, "wonders")
        assert (caught.value.code, caught.value.hint) == ("node/unknown", "ask for status")
        nursery.cancel_scope.cancel()


async def test_a_path_too_long_for_a_socket_is_reached_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / SOCKET
    path.parent.mkdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, answer)
        place = Path(path.with_name(f"{SOCKET}.at").read_text())
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert (await ask(path, "status"))["peers"] == 3
        nursery.cancel_scope.cancel()
    assert os.listdir(path.parent) == []
    assert not place.parent.exists()


async def test_a_socket_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    for path in (tmp_path / SOCKET, tmp_path / ("long" * 30) / SOCKET):
        path.parent.mkdir(exist_ok=True)
        with pytest.raises(NoNodeRunning, match="no node is running in") as caught:
            await ask(path, "status")
        assert "p2pnode run" in str(caught.value.hint)
        if path.parent == tmp_path:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
        else:
            path.with_name(f"{SOCKET}.at").write_text(str(tmp_path / "gone" / SOCKET))
        with pytest.raises(NoNodeRunning):
            await ask(path, "status")
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, answer)
            assert (await ask(path, "status"))["peers"] == 3
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "line",
    [b"status\n", b"[]\n", b'{"ask": 1}\n', b"\n", b"", b'{"ask": "' + b"x" * QUESTION_BYTES_MAX, b"[" * 4000 + b"\n"],
)
async def test_what_is_no_question_is_refused_and_the_next_caller_is_served(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / SOCKET
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, answer)
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            await stream.send_all(line)
            await stream.send_eof()
            reply = b"".join([chunk async for chunk in stream])
        assert json.loads(reply)["error"]["code"] == "control/malformed"
        assert (await ask(path, "status"))["peers"] == 3
        nursery.cancel_scope.cancel()


async def test_a_caller_that_goes_away_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, answer)
        for _ in range(40):
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(b'{"ask": "status"}\n')
            await stream.aclose()
        assert (await ask(path, "status"))["peers"] == 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reply", [b"", b"nonsense\n", None])
def test_a_node_that_does_not_answer_is_named(tmp_path: Path, reply: bytes | None) -> None:
    path, done = tmp_path / SOCKET, threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def node() -> None:
            connection, _ = listener.accept()
            with connection:
                if reply is None:
                    done.wait(10)
                else:
                    connection.recv(4096)
                    connection.sendall(reply)

        thread = threading.Thread(target=node)
        thread.start()
        with pytest.raises(ControlError, match="did not answer") as caught:
            ask_control(path, "status", timeout_s=0.2 if reply is None else 10)
        done.set()
        thread.join()
    assert caught.value.hint


async def test_a_folder_that_takes_no_socket_is_named(tmp_path: Path) -> None:
    (tmp_path / SOCKET).mkdir()
    with pytest.raises(ControlError, match="cannot make the control socket"):
        await serve_control(tmp_path / SOCKET, answer)
