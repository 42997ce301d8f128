"""``/v1/receipts/{id}``: what proves an answer to others, and how certain it has become since it was streamed.

An answer is remembered for whoever asked for it, and for nobody else. Its receipt holds prompt and text, unless it is
asked for redacted.
"""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi import Request as HttpRequest
from starlette.responses import Response

from p2pnode.answer import Answer, RequestFailed
from p2pnode.http.context import owner_of
from p2pnode.http.errors import ApiError
from p2pnode.http.service import KEPT_MAX, Kept, Service
from p2pnode.http.sse import EventStream, Stream, encode
from protocol.core.codec import pack
from protocol.light.levels import Level
from protocol.light.receipt.redact import redact
from protocol.light.receipt.view import view
from protocol.messages.receipts import Receipt

MSGPACK = "application/msgpack"
FOLLOW_S = 600.0
"""So long a level is waited for on one connection."""

ReceiptId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}-[0-9]{1,10}$", description="As x-receipt names it.")]


def routes(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter(prefix="/v1/receipts", tags=["receipts"])

    @router.get(
        "/{receipt}",
        summary="What proves an answer; `p2pnode verify` checks the msgpack form, offline",
        response_model=None,
        responses={200: {"content": {MSGPACK: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def get_receipt(
        receipt: ReceiptId,
        http: HttpRequest,
        redacted: Annotated[bool, Query(description="Without prompt and text: it proves as much.")] = False,
        form: Annotated[Literal["json", "msgpack"], Query(alias="format")] = "json",
    ) -> Response:
        proof = _receipt(_kept(service, receipt, http).answer)
        shown = redact(proof) if redacted else proof
        if form == "msgpack" or MSGPACK in http.headers.get("accept", ""):
            name = {"content-disposition": f'attachment; filename="{receipt[:16]}.receipt"'}
            return Response(pack(shown), headers=name, media_type=MSGPACK)
        return Response(encode(view(shown)), media_type="application/json")

    @router.get(
        "/{receipt}/levels",
        summary="Each level as the answer comes to it, as server-sent events",
        response_model=None,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def get_levels(receipt: ReceiptId, http: HttpRequest) -> Response:
        levels = Levels(service, _kept(service, receipt, http), receipt)
        return EventStream(levels.stream, service.terms.ping_s)

    return router


def _kept(service: Service, receipt: str, http: HttpRequest) -> Kept:
    kept = service.kept(receipt, owner_of(http))
    if kept is None:
        message = f"no answer {receipt} is remembered for this key; the latest {KEPT_MAX} are"
        raise ApiError(404, message, param="receipt", code="receipt_not_found")
    return kept


def _receipt(answer: Answer) -> Receipt:
    try:
        return answer.receipt()
    except RequestFailed as error:
        raise ApiError(404, str(error), param="receipt", code="no_receipt") from error


class Levels:
    """What one answer comes to, as events: one for each level that is proved, and a last one."""

    def __init__(self, service: Service, kept: Kept, receipt: str) -> None:
        self._answer = kept.answer
        self._receipt = receipt
        self._top = _top(service)
        self._told: set[str] = set()
        self._until = time.monotonic() + FOLLOW_S

    async def stream(self, stream: Stream) -> None:
        """Until it is as certain as it gets here, will not be more so, or nothing more is heard of it."""
        answer = self._answer
        await stream.event(self._event("streamed", after_ms=0, detail=""))
        heard = True
        while True:
            for reached in answer.levels:
                if reached.level not in self._told:
                    await stream.event(self._event(reached.level, after_ms=reached.after_ms, detail=reached.detail))
            if not heard or self._over():
                break
            heard = await answer.changed()
        await stream.done({"receipt": self._receipt, "level": answer.level, "last": True, "against": answer.against})

    def _over(self) -> bool:
        answer = self._answer
        return bool(answer.against) or Level[answer.level.upper()] >= self._top or time.monotonic() > self._until

    def _event(self, level: str, **more: Any) -> dict[str, Any]:
        self._told.add(level)
        return {"receipt": self._receipt, "level": level, **more}


def _top(service: Service) -> Level:
    """The most that an answer can come to in front of this client."""
    net = service.net
    if net.settles:
        return Level.SETTLED
    return Level.FINALIZED if net.certifies else Level.STREAMED
