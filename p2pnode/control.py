"""How `p2pnode status` asks the node that runs in a folder: a unix socket, one line of JSON each way.

    {"ask": "status"}  →  {"answer": {...}}  or  {"error": {"code", "message", "hint"}}

The socket lies in the node's folder, mode 0600; whoever can open it may ask. Its path may be too long for the kernel
(some 100 bytes); then it lies in a private folder of its own and a pointer file beside its place says where.
"""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from protocol.core.errors import P2PNodeError

SOCKET = "control.sock"
"""The socket's name in a node's folder."""

QUESTION_BYTES_MAX = 1 << 17
"""Evidence in hexadecimal digits is the longest that is asked."""
ANSWER_BYTES_MAX = 4 << 20
CALLERS_MAX = 16
TIMEOUT_S = 5.0
"""For one question and its answer, on either side."""

_PATH_BYTES_MAX = 100  # 108 on Linux, 104 on macOS, with the zero at the end

Answer = Callable[[str], Mapping[str, Any]]
"""Answers a question by its name with what JSON can carry; raises P2PNodeError for one it does not know."""


class ControlError(P2PNodeError):
    """The running node could not be asked, or did not answer."""

    code = "control/failed"


class NoNodeRunning(ControlError):
    """No node runs in this folder."""

    code = "control/no-node"


async def serve_control(path: Path, answer: Answer, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Answer questions until cancelled; started as soon as it can be asked. The socket is gone afterwards.

    The caller holds the folder's lock, so a socket that is already there is a dead one. Raises ControlError if the
    socket cannot be made.
    """
    gate = trio.CapacityLimiter(CALLERS_MAX)

    async def serve(stream: trio.SocketStream) -> None:
        # A caller that goes away or dawdles is its own problem.
        async with stream:
            with suppress(trio.BrokenResourceError), trio.move_on_after(TIMEOUT_S):
                async with gate:
                    await stream.send_all(_reply(await _line(stream), answer))

    try:
        try:
            _remove(path)
            listener = _listen(_place(path))
        except OSError as error:
            raise ControlError(
                f"cannot make the control socket {path}: {error}", hint="check the folder's permissions"
            ) from error
        task_status.started()
        await trio.serve_listeners(serve, [listener])
    finally:
        with suppress(OSError):
            _remove(path)


def ask_control(path: Path, what: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Ask the node whose socket this is. Raises NoNodeRunning, ControlError, or what the node answered as an error."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(timeout_s)
        try:
            place = _followed(path)
            if len(os.fsencode(place)) > _PATH_BYTES_MAX:
                raise FileNotFoundError(place)
            connection.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise NoNodeRunning(
                f"no node is running in {path.parent}",
                hint="start one with `p2pnode run`, or name its folder: --state-dir FOLDER",
            ) from error
        except OSError as error:
            raise ControlError(
                f"cannot reach the node at {path}: {error}", hint="ask as the user who runs the node"
            ) from error
        try:
            connection.sendall(json.dumps({"ask": what}).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n") and len(data) <= ANSWER_BYTES_MAX and (chunk := connection.recv(65_536)):
                data += chunk
            reply = json.loads(data)
        except (OSError, ValueError) as error:
            raise ControlError(
                f"the node at {path} did not answer: {error}", hint="it may be starting or stopping; try again"
            ) from error
    if "error" in reply:
        raise ControlError(reply["error"]["message"], code=reply["error"]["code"], hint=reply["error"]["hint"])
    return dict(reply["answer"])


async def _line(stream: trio.SocketStream) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) <= QUESTION_BYTES_MAX:
        chunk = await stream.receive_some(QUESTION_BYTES_MAX)
        if not chunk:
            break
        data += bytes(chunk)
    return data


def _reply(line: bytes, answer: Answer) -> bytes:
    try:
        question = json.loads(line)
        what = question["ask"]
        if not isinstance(what, str):
            raise TypeError("ask is no text")
    except (ValueError, TypeError, KeyError, RecursionError):
        return _refusal(ControlError('a question is {"ask": NAME}', code="control/malformed"))
    try:
        return json.dumps({"answer": dict(answer(what))}).encode() + b"\n"
    except P2PNodeError as error:
        return _refusal(error)


def _refusal(error: P2PNodeError) -> bytes:
    content = {"code": error.code, "message": str(error), "hint": error.hint}
    return json.dumps({"error": content}).encode() + b"\n"


def _pointer(path: Path) -> Path:
    return path.with_name(f"{path.name}.at")


def _place(path: Path) -> Path:
    """Where the socket can be: at its path, or elsewhere with a pointer to it."""
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        return path
    folder = tempfile.mkdtemp(prefix="p2pnode-", dir=os.environ.get("XDG_RUNTIME_DIR") or None)  # mode 0700
    place = Path(folder) / path.name
    _pointer(path).write_text(str(place), encoding="utf-8")
    return place


def _followed(path: Path) -> Path:
    try:
        return Path(_pointer(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return path


def _listen(place: Path) -> trio.SocketListener:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(place))
        place.chmod(0o600)  # before listening: nobody can connect earlier
        bound.listen(CALLERS_MAX)
    except BaseException:
        bound.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def _remove(path: Path) -> None:
    place = _followed(path)
    place.unlink(missing_ok=True)
    if place != path:
        with suppress(OSError):
            place.parent.rmdir()
        _pointer(path).unlink(missing_ok=True)
