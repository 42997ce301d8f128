"""``/v1/ws``: several requests on one WebSocket, and one that was cut off goes on where it stopped.

Both sides send JSON texts. The client: ``{"type": "request", "request_id": "a", …}`` with the fields of
``/v1/chat/completions`` beside, ``cancel``, ``resume`` with ``from_seq``, and ``ping``. The server, of each request and
numbered by ``seq`` from 0: ``accepted``, some ``token`` with the ``choices`` of OpenAI's chunks, ``usage``, and exactly
one of ``done`` and ``error``; after ``done`` comes a ``level`` whenever the answer has become more certain. A client
that lost its socket opens another one and sends ``resume`` with the number of the first message that it lacks.

A request belongs to an API key and to the name that the client gives itself (``?client=``, 16 to 64 characters, drawn
by it): only who gives both resumes it. Who gives neither has its requests for as long as the socket.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import trio
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from p2pnode.http.chat import Chat
from p2pnode.http.errors import ApiError, as_api_error, invalid
from p2pnode.http.guard import SUBPROTOCOL_KEY
from p2pnode.http.limits import Caller, caller_of
from p2pnode.http.service import Request, Service, new_request_id
from p2pnode.http.wishes import chat_wishes
from p2pnode.http.ws_answer import answer
from p2pnode.http.ws_journal import Journal, Journals, KeepTerms
from p2pnode.http.ws_messages import Asked, Cancel, Ping, Resume, Said, body_of, decoded
from p2pnode.transport.unwrap import unwrapped

MISTAKES_MAX = 32
"""Messages that are none; a client that sends more is not worth a socket."""
CLOSE_NORMAL, CLOSE_AWAY, CLOSE_BINARY, CLOSE_POLICY, CLOSE_LARGE = 1000, 1001, 1003, 1008, 1009
_encode = msgspec.json.Encoder().encode
_CLIENT = re.compile(r"[A-Za-z0-9._-]{16,64}\Z")


@dataclass(frozen=True, slots=True)
class WsTerms:
    """The bounds of a socket."""

    keep: KeepTerms = field(default_factory=KeepTerms)
    at_once: int = 32
    """Requests that one socket reads."""
    message_characters: int = 1 << 20
    idle_s: float = 300.0
    """A socket without requests that says nothing for so long is closed."""
    level_s: float = 30.0
    """For an answer to become certain."""


def routes(service: Service, terms: WsTerms | None = None) -> APIRouter:
    """The route of this file."""
    router = APIRouter()
    journals = Journals((terms or WsTerms()).keep)

    @router.websocket("/v1/ws")
    async def websocket(websocket: WebSocket) -> None:
        await Socket(service, journals, terms or WsTerms(), websocket).run()

    return router


class Socket:
    """One client's socket, from its opening to its end."""

    def __init__(self, service: Service, journals: Journals, terms: WsTerms, websocket: WebSocket) -> None:
        self._service = service
        self._journals = journals
        self._terms = terms
        self._websocket = websocket
        self._caller = caller_of(websocket.scope)
        self._owner, self._returns = _owner(websocket, self._caller)
        self._reads: dict[Journal, int] = {}
        """With the number of the next message to send."""
        self._woken = trio.Event()
        self._sending = trio.Lock()
        self._mistakes = 0

    async def run(self) -> None:
        """Serve it."""
        await self._websocket.accept(_subprotocol(self._websocket))
        try:
            with unwrapped():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, nursery.cancel_scope)
                    nursery.start_soon(self._hear_of_the_end)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except WebSocketDisconnect:
            pass
        finally:
            for journal in self._reads:
                journal.detach(self)
                if not self._returns:
                    self._journals.forget(journal)

    def wake(self) -> None:
        """There is more to send."""
        self._woken.set()
        self._woken = trio.Event()

    def taken_over(self, journal: Journal) -> None:
        """Another socket reads it from now on: this one does no more."""
        self._reads.pop(journal, None)

    async def _hear_of_the_end(self) -> None:
        await self._service.ending.wait()
        self.wake()

    async def _write(self, scope: trio.CancelScope) -> None:
        """What the requests say, in turn, one message of each; until the process ends, and all are answered."""
        while True:
            woken, sent = self._woken, False
            for journal in list(self._reads):
                sent |= await self._send_next(journal)
            if sent:
                continue
            if self._service.ending.is_set() and all(journal.answered for journal in self._reads):
                await self._websocket.close(CLOSE_AWAY, "the server is being stopped")
                scope.cancel()
            await woken.wait()

    async def _send_next(self, journal: Journal) -> bool:
        number = self._reads.get(journal)
        if number is None:
            return False
        if number < journal.first:
            self._leave(journal)
            await self._refuse(_lost(journal), journal.request_id)
            return True
        if number < journal.next:
            self._reads[journal] = number + 1
            await self._send(journal[number])
            return True
        if journal.closed:
            self._leave(journal)
        return False

    def _leave(self, journal: Journal) -> None:
        del self._reads[journal]
        journal.detach(self)

    async def _send(self, text: str) -> None:
        async with self._sending:
            await self._websocket.send_text(text)

    async def _tell(self, **message: Any) -> None:
        await self._send(_encode(message).decode())

    async def _refuse(self, error: ApiError, request_id: str | None) -> None:
        told = {"type": "error", "request_id": request_id, **error.body()}
        if error.retry_after_s is not None:
            told["retry_after_s"] = error.retry_after_s
        await self._tell(**told)

    async def _read(self) -> None:
        """What the client says, until one of the two has enough."""
        while True:
            message: Mapping[str, Any] = {}
            with trio.move_on_after(self._terms.idle_s):
                message = await self._websocket.receive()
            if message.get("type") == "websocket.disconnect":
                return
            if not message and not self._reads:
                await self._websocket.close(CLOSE_NORMAL, "nothing was said for long")
                return
            if message and not await self._take(message.get("text")):
                return

    async def _take(self, text: str | None) -> bool:
        """One message; whether there may be more."""
        if text is None:
            await self._websocket.close(CLOSE_BINARY, "messages are JSON texts")
            return False
        if len(text) > self._terms.message_characters:
            await self._websocket.close(CLOSE_LARGE, f"at most {self._terms.message_characters} characters")
            return False
        request_id = None
        try:
            asked = decoded(text)
            request_id = None if isinstance(asked, Ping) else asked.request_id
            await self._do(asked, text)
        except WebSocketDisconnect:
            raise
        except Exception as error:
            self._mistakes += 1
            await self._refuse(as_api_error(error), request_id)
            if self._mistakes >= MISTAKES_MAX:
                await self._websocket.close(CLOSE_POLICY, "too many messages that are none")
                return False
        else:
            self._mistakes = 0
        return True

    async def _do(self, asked: Said, text: str) -> None:
        """Raises ApiError, RequestFailed."""
        match asked:
            case Asked():
                await self._ask(asked, text)
            case Cancel():
                self._journals.find(self._owner, asked.request_id).order.cancel()
            case Resume():
                self._resume(self._journals.find(self._owner, asked.request_id), asked.from_seq)
            case Ping():
                await self._tell(type="pong", id=asked.id)

    async def _ask(self, asked: Asked, text: str) -> None:
        if self._service.ending.is_set():
            message = "the server is being stopped: ask again in a moment, or another one"
            raise ApiError(503, message, type="server_error", code="shutting_down", retry_after_s=1)
        self._check_room()
        body = body_of(text)
        wish = await chat_wishes(self._service, body, asked.session)
        model = wish.offer.manifest.name
        owner = str(getattr(self._websocket.state, "owner", ""))
        request = Request("chat", model, new_request_id(), owner, streamed=True, caller=self._caller)
        chat = Chat(self._service, request, body, wish)
        self._caller.enter()
        try:
            journal = self._journals.open(self._owner, asked.request_id)
        except ApiError:
            self._caller.leave()
            raise
        journal.add("accepted", id=request.id, model=model, kept_s=self._terms.keep.kept_s)
        self._attach(journal, 0)
        work = partial(answer, self._service, self._caller, chat, request, journal, self._terms.level_s)
        self._service.start(self._journals.live, journal, work)

    def _resume(self, journal: Journal, from_seq: int) -> None:
        if from_seq > journal.next:
            message = f"from_seq: there is no message {from_seq} yet, the next will be {journal.next}"
            raise invalid(message, "from_seq")
        if from_seq < journal.first:
            raise _lost(journal)
        if journal not in self._reads:
            self._check_room()
        self._attach(journal, from_seq)

    def _check_room(self) -> None:
        if len([journal for journal in self._reads if not journal.answered]) >= self._terms.at_once:
            message = f"a socket has at most {self._terms.at_once} requests at once"
            raise ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", retry_after_s=1)

    def _attach(self, journal: Journal, number: int) -> None:
        self._reads[journal] = number
        journal.attach(self)
        self.wake()


def _lost(journal: Journal) -> ApiError:
    message = f"the messages before {journal.first} are no longer kept: they were not taken in time"
    return ApiError(410, message, param="from_seq", code="resume_too_late")


def _owner(websocket: WebSocket, caller: Caller) -> tuple[str, bool]:
    """Whose requests they are, and whether another socket can be the same client's: by its key, or a name it drew."""
    client = websocket.query_params.get("client", "")
    named = client if _CLIENT.match(client) else ""
    if caller.key is None and not named:
        return f"socket {secrets.token_hex(16)}", False
    return f"{caller.key.id if caller.key is not None else ''} {named}", True


def _subprotocol(websocket: WebSocket) -> str | None:
    """The first that is offered and no key: a browser wants one of those that it names."""
    offered: list[str] = websocket.scope.get("subprotocols", [])
    return next((each for each in offered if not each.startswith(SUBPROTOCOL_KEY)), None)
