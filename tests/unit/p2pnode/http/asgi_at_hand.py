"""An application called as a server calls it, without one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request was answered with."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """Of an answer that is one."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def scope_of(
    path: str = "/v1/models", method: str = "GET", kind: str = "http", client: str = "192.0.2.1", **headers: str
) -> dict[str, Any]:
    """A request; an underscore in a header's name is a hyphen."""
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    where, _, query = path.partition("?")
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw,
        "client": (client, 50_000),
        "server": ("127.0.0.1", 8080),
        "extensions": {},
    }


async def call(app: ASGIApp, scope: dict[str, Any], body: Sequence[bytes] = (b"",), *, stay: bool = True) -> Answered:
    """One request; with ``stay`` its client waits for the answer, else it is gone after the body's parts."""
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    if stay:
        parts[-1]["more_body"] = False
    said: list[Message] = []

    async def receive() -> Message:
        if parts:
            return parts.pop(0)
        if stay:
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    if not said:
        return Answered(0, {}, b"")
    start, *rest = said
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}
    return Answered(start["status"], headers, b"".join(part.get("body", b"") for part in rest))
