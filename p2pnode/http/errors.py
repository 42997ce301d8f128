"""How requests fail over HTTP: OpenAI's error bodies and statuses, from one table."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from p2pnode.answer import RequestFailed
from protocol.core.errors import P2PNodeError

log = logging.getLogger(__name__)

INVALID = "invalid_request_error"
RETRY_AFTER_S = 1
"""Where nothing better is known."""


@dataclass(frozen=True, slots=True)
class Told:
    """How one of the network's terminal codes is told."""

    status: int
    type: str
    code: str
    again: bool = False
    """Whether the same request may do better in a moment: then it says when."""


TOLD: Mapping[str, Told] = {
    "bad_request": Told(400, INVALID, "bad_request"),
    "schema_refused": Told(400, INVALID, "invalid_json_schema"),
    "tools_refused": Told(400, INVALID, "tools_not_supported"),
    "prompt_too_long": Told(400, INVALID, "context_length_exceeded"),
    "model_not_found": Told(404, INVALID, "model_not_found"),
    "rate_limited": Told(429, "rate_limit_error", "rate_limit_exceeded", again=True),
    "unreserved": Told(429, "insufficient_quota", "insufficient_quota"),
    "queue_full": Told(503, "server_error", "queue_full", again=True),
    "no_capacity": Told(503, "server_error", "no_capacity", again=True),
    "shutting_down": Told(503, "server_error", "shutting_down", again=True),
    "session_closed": Told(503, "server_error", "session_closed", again=True),
    "session_expired": Told(503, "server_error", "session_expired", again=True),
    "deadline_exceeded": Told(504, "server_error", "deadline_exceeded"),
    "transcript_broken": Told(502, "server_error", "transcript_broken"),
    "miner_lost": Told(502, "server_error", "miner_lost"),
    "router_lost": Told(502, "server_error", "router_lost"),
    "engine_failed": Told(502, "server_error", "engine_failed"),
    "ack_timeout": Told(502, "server_error", "ack_timeout"),
    "cancelled": Told(499, "server_error", "cancelled"),
}
"""Of every code that a session or an answer can end with."""
MESSAGE_CHARACTERS_MAX = 2_000
PARAM_CHARACTERS_MAX = 200
_TYPES = frozenset(("str", "int", "float", "bool", "constrained-str", "none"))
OTHER = Told(502, "server_error", "upstream_error")


class ApiError(P2PNodeError):
    """A request that is refused, as its client is told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,  # noqa: A002 - as OpenAI calls it
        param: str | None = None,
        code: str = "invalid_value",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.type = type
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        param = None if self.param is None else _sendable(self.param, PARAM_CHARACTERS_MAX)
        message = _sendable(str(self), MESSAGE_CHARACTERS_MAX)
        return {"error": {"message": message, "type": self.type, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}

    def response(self) -> Response:
        """The whole answer to a request that failed before its first token."""
        return Response(msgspec.json.encode(self.body()), self.status, self.headers(), "application/json")


def _sendable(text: str, characters_max: int) -> str:
    """What a request said may stand in it, and half a character cannot be sent."""
    return text[:characters_max].encode("utf-8", "replace").decode()


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """A request that no server of this kind would take."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, what: str) -> ApiError:
    """A value that OpenAI knows and this network does not."""
    return ApiError(400, f"{what} is not supported here: leave {param} out", param=param, code="unsupported_value")


def told(failed: RequestFailed) -> ApiError:
    """What a client of HTTP is told of a session or an answer that failed."""
    as_told = TOLD.get(failed.code, OTHER)
    message = f"{failed}: {failed.hint}" if failed.hint and as_told.status >= 500 else str(failed)
    again = max(RETRY_AFTER_S, -(-failed.retry_after_ms // 1_000)) if as_told.again else None
    param = {"model_not_found": "model", "prompt_too_long": "messages"}.get(failed.code)
    return ApiError(as_told.status, message, type=as_told.type, param=param, code=as_told.code, retry_after_s=again)


def as_api_error(error: Exception) -> ApiError:
    """Any failure as it is told; what is our own fault is logged, and told without its reasons."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestFailed):
        return told(error)
    log.error("a request ended by a fault of this program", exc_info=error)
    return ApiError(500, "the server failed at this request; its log says why", type="server_error", code="internal")


def of_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first thing that is wrong with a body, a path or a query."""
    first = errors[0]
    if first.get("type") == "json_invalid":
        return invalid(f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}", None, "invalid_json")
    if first.get("loc") == ("body",):
        return invalid("the body has to be a JSON object, sent as content-type: application/json", None, "invalid_json")
    where = [str(part) for part in first.get("loc", ())[1:]]
    param = ".".join(part for part in where if _is_name(part)) or None
    code = "missing_required_parameter" if first.get("type") == "missing" else "invalid_value"
    return invalid(f"{param or 'the body'}: {first.get('msg', 'is not valid')}", param, code)


def _is_name(part: str) -> bool:
    """Whether a part of a place in a body names it, and not one of the types that it might have had."""
    return part not in _TYPES and not part[:1].isupper() and "[" not in part


def install(app: FastAPI) -> None:
    """Every failure of every route looks the same."""

    async def refused(_: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    async def malformed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(error.errors()).response()

    async def by_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        response = ApiError(error.status_code, message, code=code).response()
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(RequestFailed, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, by_status)
    app.add_exception_handler(Exception, refused)
