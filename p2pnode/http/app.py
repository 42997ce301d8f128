"""The application: every route on one service."""

from fastapi import FastAPI

from p2pnode.http import (
    chat,
    completions,
    cortensor,
    embeddings,
    errors,
    health,
    metrics,
    models,
    openapi,
    receipts,
    ws,
)
from p2pnode.http.context import RequestIds
from p2pnode.http.service import Service

DESCRIPTION = """OpenAI's interface to a network of miners. Every token that is answered was signed by its miner and
verified here before it was passed on; the last chunk names the receipt that proves it to others."""


def make_app(service: Service) -> FastAPI:
    """An ASGI application over a service."""
    app = FastAPI(
        title="p2pnode",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    errors.install(app)
    for part in (models, chat, completions, embeddings, ws, receipts, cortensor, health, metrics):
        app.include_router(part.routes(service))
    openapi.install(app)
    app.add_middleware(RequestIds)
    return app
