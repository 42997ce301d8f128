"""``/metrics``, for Prometheus and whatever reads its format."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from p2pnode.http.errors import ApiError
from p2pnode.http.service import Service
from p2pnode.telemetry.metrics import Metrics

_TEXT = {"schema": {"type": "string"}}
_ERROR = {"schema": {"$ref": "#/components/schemas/Error"}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "In Prometheus' text format, or OpenMetrics where that is asked for",
        "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
    },
    404: {
        "description": "Figures are shown on this machine alone, and where [http] metrics says",
        "content": {"application/json": _ERROR},
    },
}


def routes(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter(tags=["operation"])

    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=RESPONSES)
    async def metrics(request: Request) -> Response:
        if service.metrics is None:
            raise ApiError(404, RESPONSES[404]["description"], code="not_found")
        return await scraped(service.metrics, request)

    return router


def metrics_route(metrics: Metrics) -> Route:
    """Where the figures are read."""

    async def scrape(request: Request) -> Response:
        return await scraped(metrics, request)

    return Route("/metrics", scrape, methods=["GET"])


async def scraped(metrics: Metrics, request: Request) -> Response:
    """The figures as of now, in the format that was asked for."""
    body, content_type = await metrics.text(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
