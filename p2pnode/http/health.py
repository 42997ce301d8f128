"""``/health``: the process lives. ``/ready``: it can answer. Neither needs a key."""

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from p2pnode.http.service import Service
from p2pnode.http.view import View

UNREADY: dict[int | str, dict[str, Any]] = {
    503: {"description": "It cannot answer requests now; the body says why"},
}


def routes(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter(tags=["operation"])

    @router.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/ready", summary="Whether it can answer requests now", response_model=None, responses=UNREADY)
    async def ready() -> Response:
        return readiness(service.view)

    return router


def readiness(view: View | None) -> Response:
    """200, or 503 and why."""
    reason = "" if view is None else view.unready()
    if not reason:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "unready", "reason": reason}, 503, {"retry-after": "1"})


def watch_routes(view: View) -> Sequence[BaseRoute]:
    """The same for a listener without the OpenAI API."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        return readiness(view)

    served: dict[str, Callable[[Request], Any]] = {"/health": health, "/ready": ready}
    return [Route(path, serve) for path, serve in served.items()]
