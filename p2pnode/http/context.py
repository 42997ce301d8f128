"""What a request brings beside its body: who it is from, its id, the session that it would like."""

import re
import time

from fastapi import Request as HttpRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pnode.http.limits import caller_of
from p2pnode.http.service import Request, new_request_id

LABEL_CHARACTERS_MAX = 128
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class RequestIds:
    """Gives each request an id, its client's own if that is fit, and each response the same in x-request-id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = given if _ID.match(given) else new_request_id()
        scope.setdefault("state", {}).update(request_id=name, began_ns=time.monotonic_ns())

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
            await send(message)

        await self._app(scope, receive, named)


def request_of(http: HttpRequest, kind: str, model: str, *, streamed: bool = False) -> Request:
    """As it is counted, traced and answered."""
    parent = http.headers.get("traceparent", "")
    return Request(
        kind=kind,
        model=model,
        id=getattr(http.state, "request_id", None) or new_request_id(),
        owner=owner_of(http),
        caller=caller_of(http.scope),
        began_ns=getattr(http.state, "began_ns", 0) or time.monotonic_ns(),
        traceparent=parent if _PARENT.match(parent) else "",
        streamed=streamed,
    )


def owner_of(http: HttpRequest) -> str:
    """The name of its API key, as whoever checked the key wrote it into the state; empty where none is needed."""
    return str(getattr(http.state, "owner", ""))


def session_label(http: HttpRequest) -> str:
    """The session that it would like, by id or by a name of its own."""
    return http.headers.get("x-session-id", "")[:LABEL_CHARACTERS_MAX]
