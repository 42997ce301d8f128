"""``POST /v1/completions``: texts to go on with, for which no chat template is filled."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from msgspec import structs
from starlette.responses import Response

from p2pnode.answer import TokenLogprob
from p2pnode.http import answers
from p2pnode.http.asking import Failed, Over, Said, Wish, asking
from p2pnode.http.context import request_of, session_label
from p2pnode.http.errors import invalid, unsupported
from p2pnode.http.requests import CompletionRequest
from p2pnode.http.service import Request, Service
from p2pnode.http.sse import Events, EventStream, Whole
from p2pnode.http.wishes import refuse_unsent, sampling_of, spread
from protocol.messages.tasks import PromptMessage

MAX_TOKENS = 16
"""Of an answer whose request does not say: what OpenAI has always taken here."""


def routes(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/completions", summary="Go on with a text", response_model=None)
    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        prompts, wishes = await completion_wishes(service, body, session_label(http))
        request = request_of(http, "completion", wishes[0].model_name, streamed=bool(body.stream))
        completion = Completion(service, request, body, prompts, wishes)
        if body.stream:
            return EventStream(completion.stream, service.terms.ping_s)
        return Whole(completion.whole)

    return router


async def completion_wishes(
    service: Service, body: CompletionRequest, label: str
) -> tuple[Sequence[str], Sequence[Wish]]:
    """The prompts, and n wishes for each of them. Raises ApiError, RequestFailed."""
    refuse_unsent(body)
    if body.suffix:
        raise unsupported("suffix", "a suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise unsupported("best_of", "to choose the best of several")
    prompts = _texts(body.prompt)
    if not prompts:
        raise invalid("prompt: there is nothing to go on with", "prompt")
    if len(prompts) * (body.n or 1) > service.terms.answers_max:
        raise invalid(f"n: a request has at most {service.terms.answers_max} answers, over all prompts", "n")
    offer = await service.find(body.model)
    sampling = structs.replace(sampling_of(body), logprobs=0 if body.logprobs is None else 1 + body.logprobs)
    asked = body.max_tokens or MAX_TOKENS
    wishes: list[Wish] = []
    for prompt in prompts:
        wishes += spread(service, offer, (PromptMessage("plain", prompt),), sampling, asked, body, label)
    return prompts, wishes


def _texts(prompt: str | list[str] | list[int] | list[list[int]]) -> Sequence[str]:
    given = [prompt] if isinstance(prompt, str) else prompt
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise unsupported("prompt", "a prompt of token ids")
    return texts


class Completion:
    """One request, as it is answered."""

    def __init__(
        self,
        service: Service,
        request: Request,
        body: CompletionRequest,
        prompts: Sequence[str],
        wishes: Sequence[Wish],
    ) -> None:
        self._service = service
        self._request = request
        self._body = body
        self._prompts = prompts
        self._wishes = wishes
        self._n = body.n or 1
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._said: dict[int, int] = {}
        """Characters of each answer that went out."""
        self._head = {
            "id": f"cmpl-{request.id.removeprefix('req_')}",
            "object": "text_completion",
            "created": int(service.now_s()),
            "model": body.model,
            "system_fingerprint": answers.fingerprint(wishes[0]),
        }

    async def stream(self, stream: Events) -> None:
        """The answers as events. Raises RequestFailed, ApiError."""
        head = {**self._head, "usage": None} if self._usage else self._head
        overs: list[Over] = []
        last: list[dict[str, Any]] = []
        async with asking(self._service, self._request, self._wishes) as events:
            async for event in events:
                if not self._said:
                    stream.headers = answers.headers(self._request)
                match event:
                    case Said():
                        await stream.event({**head, "choices": [self._part(event)]})
                    case Over():
                        overs.append(event)
                        text = "" if event.choice in self._said else self._echo(event.choice)
                        end = self._choice(event.choice, text, (), answers.FINISH[event.reason])
                        last = [{**head, "choices": [end], "p2pnode": answers.provenance(event)}]
                        if len(overs) < len(self._wishes):
                            await stream.event(*last)
                    case Failed():
                        raise event.error
        if self._usage:
            last.append({**head, "choices": [], "usage": answers.usage(overs, self._n)})
        await stream.done(*last)

    async def whole(self) -> tuple[Any, Mapping[str, str]]:
        """The answers as one body, and its headers. Raises RequestFailed, ApiError."""
        overs: dict[int, Over] = {}
        async with asking(self._service, self._request, self._wishes) as events:
            async for event in events:
                match event:
                    case Over():
                        overs[event.choice] = event
                    case Failed():
                        raise event.error
        choices = []
        for index in sorted(overs):
            over = overs[index]
            text = self._echo(index) + over.answer.text
            choice = self._choice(index, text, over.answer.logprobs, answers.FINISH[over.reason])
            choices.append({**choice, "p2pnode": answers.provenance(over)})
        usage = answers.usage(list(overs.values()), self._n)
        body = {**self._head, "choices": choices, "usage": usage, "p2pnode": answers.provenance(overs[0])}
        return body, answers.headers(self._request)

    def _part(self, said: Said) -> dict[str, Any]:
        text = said.text if said.choice in self._said else self._echo(said.choice) + said.text
        return self._choice(said.choice, text, said.logprobs, None)

    def _choice(self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish: str | None) -> dict[str, Any]:
        offset = self._said.get(index, len(self._echo(index)))
        self._said[index] = self._said.get(index, 0) + len(text)
        told = answers.completion_logprobs(logprobs, offset) if logprobs else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish}

    def _echo(self, index: int) -> str:
        return self._prompts[index // self._n] if self._body.echo else ""
