"""``POST /v1/chat/completions``."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from p2pnode.answer import TokenLogprob
from p2pnode.http import answers
from p2pnode.http.asking import Failed, Over, Said, asking
from p2pnode.http.context import request_of, session_label
from p2pnode.http.requests import ChatRequest
from p2pnode.http.service import Request, Service
from p2pnode.http.sse import Events, EventStream, Whole
from p2pnode.http.toolcalls import CallBegun, Told
from p2pnode.http.wishes import ChatWish, chat_wishes


def routes(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        asked = await chat_wishes(service, body, session_label(http))
        request = request_of(http, "chat", asked.offer.manifest.name, streamed=bool(body.stream))
        chat = Chat(service, request, body, asked)
        if body.stream:
            return EventStream(chat.stream, service.terms.ping_s)
        return Whole(chat.whole)

    return router


class Chat:
    """One request, as it is answered."""

    def __init__(self, service: Service, request: Request, body: ChatRequest, asked: ChatWish) -> None:
        self._service = service
        self._request = request
        self._body = body
        self._asked = asked
        self._head = {
            "id": f"chatcmpl-{request.id.removeprefix('req_')}",
            "object": "chat.completion",
            "created": int(service.now_s()),
            "model": body.model,
            "system_fingerprint": answers.fingerprint(asked.wishes[0]),
        }

    async def stream(self, stream: Events) -> None:
        """The answer as events. Raises RequestFailed, ApiError."""
        streamed = [_Streamed(self, stream, index) for index in range(len(self._asked.wishes))]
        overs: list[Over] = []
        last: list[dict[str, Any]] = []
        async with asking(self._service, self._request, self._asked.wishes) as events:
            async for event in events:
                match event:
                    case Said():
                        await streamed[event.choice].say(event.text, event.logprobs)
                    case Over():
                        overs.append(event)
                        last = streamed[event.choice].end(event)
                        if len(overs) < len(streamed):
                            await stream.event(*last)
                    case Failed():
                        raise event.error
        if self._body.stream_options and self._body.stream_options.include_usage:
            last.append({**self.chunk_head, "choices": [], "usage": answers.usage(overs, len(overs))})
        await stream.done(*last)

    async def whole(self) -> tuple[Any, Mapping[str, str]]:
        """The answer as one body, and its headers. Raises RequestFailed, ApiError."""
        overs: dict[int, Over] = {}
        async with asking(self._service, self._request, self._asked.wishes) as events:
            async for event in events:
                match event:
                    case Over():
                        overs[event.choice] = event
                    case Failed():
                        raise event.error
        choices = [self._choice(overs[index]) for index in sorted(overs)]
        body = {**self._head, "choices": choices, "usage": answers.usage(list(overs.values()), len(overs))}
        return {**body, "p2pnode": answers.provenance(overs[0])}, answers.headers(self._request)

    def _choice(self, over: Over) -> dict[str, Any]:
        reader = self._asked.reader()
        told = [*reader.take(over.answer.text), *reader.end()]
        logprobs = answers.chat_logprobs(over.answer.logprobs) if self._body.logprobs else None
        return {
            "index": over.choice,
            "message": answers.message(told),
            "logprobs": logprobs,
            "finish_reason": finish_of(over, called=any(isinstance(each, CallBegun) for each in told)),
            "p2pnode": answers.provenance(over),
        }

    @property
    def chunk_head(self) -> dict[str, Any]:
        """What all chunks have in common."""
        usage = {"usage": None} if self._body.stream_options and self._body.stream_options.include_usage else {}
        return {**self._head, "object": "chat.completion.chunk", **usage}

    @property
    def headers(self) -> dict[str, str]:
        """Of the response, as far as is known now."""
        return answers.headers(self._request)

    @property
    def asked(self) -> ChatWish:
        """What the network is asked for."""
        return self._asked


class _Streamed:
    """One of a chat's answers on its way out."""

    def __init__(self, chat: Chat, stream: Events, index: int) -> None:
        self._chat = chat
        self._stream = stream
        self._index = index
        self._reader = chat.asked.reader()
        self._head = chat.chunk_head
        self._begun = False
        self._called = False

    async def say(self, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        """More of its text."""
        chunks = self._told(self._reader.take(text) if text else (), logprobs)
        if chunks:
            await self._stream.event(*chunks)

    def end(self, over: Over) -> list[dict[str, Any]]:
        """The chunks of its end."""
        rest = self._told(self._reader.end(), ())
        last = self._chunk({}, finish=finish_of(over, called=self._called))
        return [*self._beginning(), *rest, {**last, "p2pnode": answers.provenance(over)}]

    def _told(self, told: Sequence[Told], logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        if not told and not logprobs:
            return []
        deltas = [answers.delta(each) for each in told] or [{"content": ""}]
        self._called = self._called or any(isinstance(each, CallBegun) for each in told)
        chunks = [self._chunk(delta, () if place else logprobs) for place, delta in enumerate(deltas)]
        return [*self._beginning(), *chunks]

    def _beginning(self) -> list[dict[str, Any]]:
        """What comes before the first chunk, and only there."""
        if self._begun:
            return []
        self._begun = True
        self._stream.headers = self._chat.headers
        return [self._chunk({"role": "assistant", "content": ""})]

    def _chunk(
        self, delta: dict[str, Any], logprobs: Sequence[TokenLogprob] = (), finish: str | None = None
    ) -> dict[str, Any]:
        told = answers.chat_logprobs(logprobs) if logprobs else None
        choice = {"index": self._index, "delta": delta, "logprobs": told, "finish_reason": finish}
        return {**self._head, "choices": [choice]}


def finish_of(over: Over, *, called: bool) -> str:
    """Why an answer ended, in OpenAI's word."""
    reason = answers.FINISH[over.reason]
    return "tool_calls" if called and reason == "stop" else reason
