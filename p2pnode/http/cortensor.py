"""Cortensor's ``/api/v1``: the same network by the names that its programs know. Thin views, and nothing of their own.

A session is one that this process keeps open, a task is an answer that it remembers for whoever asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from p2pnode.http.answers import FINISH
from p2pnode.http.completions import Completion, completion_wishes
from p2pnode.http.context import owner_of, request_of
from p2pnode.http.errors import ApiError
from p2pnode.http.pool import Held
from p2pnode.http.requests import CompletionRequest, Text
from p2pnode.http.service import Kept, Service, receipt_id
from p2pnode.http.sse import EventStream, Whole
from protocol.messages.tasks import PromptMessage

SessionId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="As x-session-id names it.")]
TaskId = Annotated[int, Path(ge=0, lt=2**32)]


class TaskRequest(CompletionRequest):
    """``POST /api/v1/completions``."""

    model: str = Field("", max_length=256)
    """Empty: the first that there are miners for."""
    prompt: Annotated[Text, Field(min_length=1)]
    session_id: str | None = Field(None, max_length=64)


def routes(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter(prefix="/api/v1", tags=["cortensor"])

    @router.get("/info", summary="What this server is")
    async def info() -> dict[str, Any]:
        return _info(service)

    @router.get("/status", summary="How it is doing")
    async def status() -> dict[str, Any]:
        view = service.view
        reason = "" if view is None else view.unready()
        told = {} if view is None else dict(view.status())
        return {"status": "unready" if reason else "ok", "reason": reason, **told}

    @router.get("/miners", summary="The miners that it knows")
    async def miners() -> dict[str, Sequence[Mapping[str, Any]]]:
        return {"miners": [] if service.view is None else service.view.miners()}

    @router.get("/sessions", summary="The sessions that it keeps open")
    async def sessions() -> dict[str, list[dict[str, Any]]]:
        return {"sessions": [_session(service, held) for held in service.pool.open]}

    @router.get("/sessions/{session}", summary="One of them")
    async def session_of(session: SessionId) -> dict[str, Any]:
        held = service.pool.find(bytes.fromhex(session))
        if held is None:
            raise ApiError(404, f"session {session} is not open here", param="session", code="session_not_found")
        return _session(service, held)

    @router.get("/tasks/{session}", summary="The answers in a session that are remembered for this key")
    async def tasks(session: SessionId, http: HttpRequest) -> dict[str, list[dict[str, Any]]]:
        wanted = bytes.fromhex(session)
        kept = [each for each in service.kept_of(owner_of(http)) if each.session == wanted]
        return {"tasks": [_task(each) for each in reversed(kept)]}

    @router.get("/tasks/{session}/{task}", summary="One of them, with its text")
    async def task_of(session: SessionId, task: TaskId, http: HttpRequest) -> dict[str, Any]:
        kept = service.kept(receipt_id(bytes.fromhex(session), task), owner_of(http))
        if kept is None:
            message = f"task {task} of session {session} is not remembered for this key"
            raise ApiError(404, message, param="task", code="task_not_found")
        return {**_task(kept), "result": kept.answer.text}

    @router.post("/completions", summary="Answer a prompt", response_model=None)
    async def completions(body: TaskRequest, http: HttpRequest) -> Response:
        return await _completion(service, body, http, body.session_id or "")

    @router.post(
        "/completions/{session}", summary="Answer a prompt, in a session if it is still open", response_model=None
    )
    async def completions_in(session: SessionId, body: TaskRequest, http: HttpRequest) -> Response:
        return await _completion(service, body, http, session)

    return router


async def _completion(service: Service, body: TaskRequest, http: HttpRequest, session: str) -> Response:
    """As OpenAI's old form of it, but for the prompt: it is a turn of a conversation, as Cortensor has it."""
    offers = service.models()
    if not body.model and offers:
        body = body.model_copy(update={"model": offers[0].manifest.name})
    prompts, wishes = await completion_wishes(service, body, session)
    turns = [replace(wish, messages=(PromptMessage("user", body.prompt),)) for wish in wishes]
    request = request_of(http, "completion", turns[0].model_name, streamed=bool(body.stream))
    completion = Completion(service, request, body, prompts, turns)
    if body.stream:
        return EventStream(completion.stream, service.terms.ping_s)
    return Whole(completion.whole)


def _info(service: Service) -> dict[str, Any]:
    genesis = service.net.genesis
    return {
        "name": "p2pnode",
        "network": genesis.name,
        "network_id": genesis.network_id().hex(),
        "chain_id": genesis.chain_id,
        "models": [offer.manifest.name for offer in service.models()],
        "started": service.started_s,
    }


def _session(service: Service, held: Held) -> dict[str, Any]:
    names = {offer.manifest.digest().hex(): offer.manifest.name for offer in service.models()}
    return {
        "session_id": held.session.id.hex(),
        "model": names.get(held.model, held.model),
        "miners": [f"0x{miner.hex()}" for miner in held.session.assigned.assignment.miners],
        "router": f"0x{held.session.router.hex()}",
        "tasks": held.orders,
        "busy": held.busy,
    }


def _task(kept: Kept) -> dict[str, Any]:
    finish = kept.answer.finish
    return {
        "session_id": kept.session.hex(),
        "task_id": kept.task,
        "model": kept.model,
        "miner": f"0x{kept.miner.hex()}",
        "created": kept.created_s,
        "finish_reason": None if finish is None else FINISH[finish.reason],
        "prompt_tokens": 0 if finish is None else finish.prompt_tokens,
        "completion_tokens": 0 if finish is None else finish.completion_tokens,
        "level": kept.answer.level,
        "receipt": receipt_id(kept.session, kept.task),
    }
