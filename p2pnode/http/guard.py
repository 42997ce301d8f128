"""What stands before every route: who asks, whether a web page may, how large a request is, how long it may take.

Pure ASGI, so that it costs a stream nothing but two calls a chunk. What it refuses never reaches a route, and is told
in the same words as everything else. What it lets through carries its ``caller``, and as ``owner`` the name of its
key, in the scope's state, and a body that is there as a whole.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pnode.http.context import RequestIds
from p2pnode.http.errors import ApiError
from p2pnode.http.keys import ApiKeyError, KeyFile
from p2pnode.http.limits import Caller, Limits
from p2pnode.http.nesting import NESTING_MAX, too_deep

OPEN_PATHS = frozenset(("/health", "/ready", "/openapi.json"))
"""Need no key, and are not counted: they say nothing of anybody."""
LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))
BODIES_BYTES_MAX = 64 << 20
"""Of all requests that are being read or answered."""
DRAIN_S = 2.0
"""So long the rest of a refused body is read, or its sender would not see why."""
SUBPROTOCOL_KEY = "openai-insecure-api-key."
"""How a browser, which can set no header on a WebSocket, names its key: as OpenAI's own clients do."""


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """What is let through."""

    body_bytes_max: int = 4 << 20
    slow_s: float = 30.0
    """For a whole body."""
    origins: Collection[str] = ()
    """Whose web pages may call; ``*``: all."""
    hosts: Collection[str] = ()
    """What the server may be called by; empty: anything. On loopback it keeps away pages that rename themselves."""


class Guard:
    """See the module. Without ``keys`` everybody may ask, each address by its own limits."""

    def __init__(self, app: ASGIApp, limits: Limits, keys: KeyFile | None, terms: GuardTerms) -> None:
        self.limits = limits
        self._app = app
        self._keys = keys
        self._terms = terms
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        incoming = _Incoming(receive)
        with ExitStack() as held:
            try:
                receive = await self._let_in(scope, incoming, held)
            except ApiError as error:
                await _refuse(error, scope, incoming, send)
                return
            await self._app(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, held: ExitStack) -> Receive:
        """What the route is to receive. Raises ApiError."""
        self._check_page(scope)
        if scope["path"] not in OPEN_PATHS:
            caller = self._caller(scope)
            scope.setdefault("state", {}).update(caller=caller, owner=caller.key.name if caller.key else "")
            held.enter_context(self.limits.running_one(caller))
        if scope["type"] == "websocket":
            return receive
        body = _Body(self, scope)
        held.callback(body.forget)
        await body.read(receive)
        body.check_nesting()
        return body.replayed(receive)

    def _check_page(self, scope: Scope) -> None:
        """A page from elsewhere, or a name that does not belong here. Raises ApiError."""
        host = _header(scope, b"host")
        if self._terms.hosts and _host_name(host) not in self._terms.hosts:
            message = (
                f"this server is not called {host[:64]!r}; it is reached as {', '.join(sorted(self._terms.hosts))}"
            )
            raise ApiError(403, message, code="host_refused")
        origin = _header(scope, b"origin")
        if not origin or "*" in self._terms.origins or origin in self._terms.origins:
            return
        if origin.partition("://")[2] != host:
            message = f"pages of {origin[:128]} may not call this server; its operator lists origins in [http] origins"
            raise ApiError(403, message, code="origin_refused")

    def _caller(self, scope: Scope) -> Caller:
        """Who asks. Raises ApiError."""
        address = (scope.get("client") or ("", 0))[0]
        if self._keys is None:
            return self.limits.caller(None, address)
        given = _given_key(scope)
        if given is None:
            message = "no API key is given: send it as `Authorization: Bearer KEY`"
            raise ApiError(401, message, code="missing_api_key")
        try:
            key = self._keys.find(given)
        except ApiKeyError as error:
            message = "API keys cannot be checked now; the server's log says why"
            raise ApiError(503, message, type="server_error", code="keys_unreadable", retry_after_s=5) from error
        if key is None:
            raise ApiError(401, "the API key is not known here", code="invalid_api_key")
        return self.limits.caller(key, address)

    def hold(self, count: int) -> None:
        """Bytes of a body. Raises ApiError."""
        if self._bodies_bytes + count > BODIES_BYTES_MAX:
            message = "too much is being read at once; try again in a moment"
            raise ApiError(503, message, type="server_error", code="overloaded", retry_after_s=1)
        self._bodies_bytes += count

    def let_go(self, count: int) -> None:
        """They are no longer held."""
        self._bodies_bytes -= count

    @property
    def terms(self) -> GuardTerms:
        """What is let through."""
        return self._terms


class _Incoming:
    """What is received, and whether the body has ended."""

    def __init__(self, receive: Receive) -> None:
        self.ended = False
        self._receive = receive

    async def __call__(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message


class _Body:
    """A request's body, read as a whole within bounds."""

    def __init__(self, guard: Guard, scope: Scope) -> None:
        self._guard = guard
        self._scope = scope
        self._bytes = bytearray()
        self._gone = False
        self._replayed = False

    async def read(self, receive: Receive) -> None:
        """Read it. Raises ApiError."""
        most, length = self._guard.terms.body_bytes_max, _header(self._scope, b"content-length")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        with trio.move_on_after(self._guard.terms.slow_s) as waiting:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self._gone = True
                    return
                part = message.get("body", b"")
                if len(self._bytes) + len(part) > most:
                    raise _too_large(most)
                self._guard.hold(len(part))
                self._bytes += part
                more = message.get("more_body", False)
        if waiting.cancelled_caught:
            message_ = f"the request did not come whole within {self._guard.terms.slow_s:g} s"
            raise ApiError(408, message_, code="request_timeout")

    def check_nesting(self) -> None:
        """JSON that is nested too deeply is not even parsed. Raises ApiError."""
        if too_deep(self._bytes):
            raise ApiError(400, f"the body is nested more than {NESTING_MAX} deep", code="too_deep")

    def replayed(self, receive: Receive) -> Receive:
        """What a route receives: the whole at once, then what happens to the connection."""

        async def next_message() -> Message:
            if self._gone:
                return {"type": "http.disconnect"}
            if not self._replayed:
                self._replayed = True
                return {"type": "http.request", "body": bytes(self._bytes), "more_body": False}
            return await receive()

        return next_message

    def forget(self) -> None:
        """The request is over."""
        self._guard.let_go(len(self._bytes))
        self._bytes = bytearray()


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most} bytes", code="request_too_large")


async def _refuse(error: ApiError, scope: Scope, incoming: _Incoming, send: Send) -> None:
    if scope["type"] == "websocket":
        await _refuse_websocket(error, scope, send)
        return
    with trio.move_on_after(DRAIN_S):
        while not incoming.ended:
            await incoming()
    response = error.response()
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    await RequestIds(response)(scope, incoming, send)


async def _refuse_websocket(error: ApiError, scope: Scope, send: Send) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:100]})
        return
    response = error.response()
    headers = list(response.raw_headers)
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.body, "more_body": False})


def _given_key(scope: Scope) -> str | None:
    """The key that a request carries; None without one."""
    scheme, _, given = _header(scope, b"authorization").partition(" ")
    if scheme.lower() == "bearer" and given.strip():
        return given.strip()
    protocols: Sequence[str] = scope.get("subprotocols", ()) if scope["type"] == "websocket" else ()
    return next((each.removeprefix(SUBPROTOCOL_KEY) for each in protocols if each.startswith(SUBPROTOCOL_KEY)), None)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


def _host_name(host: str) -> str:
    """Without its port; an empty one where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
