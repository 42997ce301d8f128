"""``POST /v1/embeddings``: texts to vectors, each under its miner's signature."""

import base64
import struct
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from p2pnode.answer import RequestFailed
from p2pnode.embeddings import TEXTS_BYTES_MAX, TEXTS_MAX, Embeddings
from p2pnode.http.asking import AGAIN, HARMLESS, TRIES, watched
from p2pnode.http.context import request_of, session_label
from p2pnode.http.errors import invalid, unsupported
from p2pnode.http.pool import Want
from p2pnode.http.requests import EmbeddingRequest
from p2pnode.http.service import Request, Service
from p2pnode.http.sse import Whole

BYTES_OF_TOKEN = 3
"""About so many a token has: by this a request is held against the limits of its caller before it is run."""


def routes(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/embeddings", summary="The vectors of texts", response_model=None)
    async def embeddings(body: EmbeddingRequest, http: HttpRequest) -> Response:
        texts = _texts(body)
        offer = await service.find(body.model)
        request = request_of(http, "embedding", offer.manifest.name)
        size = sum(len(text) for text in texts) // BYTES_OF_TOKEN + len(texts)
        open_ms = service.terms.open_ms
        want = Want(offer.manifest.digest().hex(), size, open_ms, request.owner, session_label(http))
        return Whole(partial(_whole, service, request, body, texts, want))

    return router


def _texts(body: EmbeddingRequest) -> Sequence[str]:
    """Raises ApiError."""
    if body.dimensions is not None:
        raise unsupported("dimensions", "to choose the number of dimensions")
    given = [body.input] if isinstance(body.input, str) else body.input
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise unsupported("input", "an input of token ids")
    if not 0 < len(texts) <= TEXTS_MAX or not all(texts):
        raise invalid(f"input: 1 to {TEXTS_MAX} texts, none of them empty", "input")
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:
        raise invalid("input: half a character cannot be sent", "input") from error
    if size > TEXTS_BYTES_MAX:
        raise invalid(f"input: at most {TEXTS_BYTES_MAX} bytes together", "input")
    return texts


async def _whole(
    service: Service, request: Request, body: EmbeddingRequest, texts: Sequence[str], want: Want
) -> tuple[Any, Mapping[str, str]]:
    with request.caller.taking(tokens=want.tokens) as taken, watched(service, request):
        made = await _embed(service, request, want, texts)
        request.prompt_tokens = made.prompt_tokens
        taken.used(prompt_tokens=made.prompt_tokens, completion_tokens=0)
    encode = _base64 if body.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(made.vectors)
    ]
    usage = {"prompt_tokens": made.prompt_tokens, "total_tokens": made.prompt_tokens}
    miner = f"0x{made.miner.hex()}"
    about = {"miner": miner, "session": request.sessions[-1].hex()}
    headers = {
        "x-overhead-ms": f"{request.overhead_ms:.1f}",
        "x-attempts": str(request.attempts),
        "x-session-id": about["session"],
        "x-miner-peer": miner,
    }
    return {"object": "list", "data": data, "model": body.model, "usage": usage, "p2pnode": about}, headers


async def _embed(service: Service, request: Request, want: Want, texts: Sequence[str]) -> Embeddings:
    """Raises RequestFailed."""
    tries = 0
    while True:
        try:
            async with service.pool.take(want) as held:
                request.attempts += 1
                request.ordered_ns = request.ordered_ns or time.monotonic_ns()
                request.sessions.append(held.session.id)
                try:
                    made = await held.session.embed(texts, timeout_ms=service.terms.timeout_ms)
                except RequestFailed as error:
                    held.over = held.over or error.code not in HARMLESS
                    raise
                request.first_ns = time.monotonic_ns()
                return made
        except RequestFailed as error:
            tries += 1
            if error.code not in AGAIN or tries >= TRIES:
                request.code = error.code
                raise


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's own client asks for it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
