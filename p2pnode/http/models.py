"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Any

from fastapi import APIRouter

from p2pnode.http.service import Service
from protocol.messages.adverts import ModelOffer


def routes(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter(tags=["openai"])

    @router.get("/v1/models", summary="The models that miners are known for")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model_object(service, offer) for offer in await service.offers()]}

    @router.get("/v1/models/{model:path}", summary="One of them")
    async def get_model(model: str) -> dict[str, Any]:
        return model_object(service, await service.find(model))

    return router


def model_object(service: Service, offer: ModelOffer) -> dict[str, Any]:
    """A model as OpenAI lists it, and what this network knows of it beside."""
    manifest = offer.manifest
    about = {
        "digest": manifest.digest().hex(),
        "file_sha256": manifest.file_sha256.hex(),
        "architecture": manifest.architecture,
        "quantization": manifest.quantization,
        "context_tokens": offer.context_tokens,
        "slots": offer.slots,
        "price_wei": offer.price_wei,
    }
    created = service.started_s
    return {"id": manifest.name, "object": "model", "created": created, "owned_by": "p2pnode", "p2pnode": about}
