"""The OpenAPI document: what FastAPI reads off the routes, completed with what it cannot see there.

That is every status that a route, the guard before it or the network behind it can answer with, the one form that all
errors have, the key, the headers, and what the bodies of the OpenAI routes look like.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from p2pnode.embeddings import TEXTS_MAX
from p2pnode.http.guard import OPEN_PATHS
from p2pnode.http.requests import CHOICES_MAX, SEED_MAX, SEED_MIN

EVERYWHERE = {
    400: "The request is malformed, or asks for what is not supported; `param` says where",
    403: "A web page of this origin may not call, or the server is not called that",
    405: "The path takes another method",
    408: "The request did not come whole in time",
    413: "The request is too large",
}
GUARDED = {
    401: "No API key, or one that is not known here",
    429: "A limit of the key is reached: of requests, of tokens, or of what it may use in all",
    503: "Nobody can answer now, or too much runs already; Retry-After says when to try again",
}
ANSWERED = {
    404: "No miner is known for the model",
    499: "The answer was cancelled",
    502: "A miner or a router was lost, or broke the rules, and no other could go on",
    504: "The answer took too long",
}
MISSING = {404: "There is no such thing, or not for this key"}
RETRIED = (429, 503)

HEADERS: Mapping[str, str] = {
    "x-session-id": "The session of the network that answered",
    "x-miner-peer": "The miner that answered",
    "x-overhead-ms": "What this server took of the time to the first token",
    "x-attempts": "How many orders were given",
    "x-receipt": "The id of the answer's receipt",
}

_TEXT, _NUMBER, _OPEN = {"type": "string"}, {"type": "integer"}, {"type": "object"}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


_ERROR = _object(
    {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
)
_USAGE = _object({"prompt_tokens": _NUMBER, "total_tokens": _NUMBER}, {"completion_tokens": _NUMBER})
_MODEL = _object({"id": _TEXT, "object": _one_of("model"), "created": _NUMBER, "owned_by": _TEXT})
_FINISH = {"finish_reason": {"type": ["string", "null"]}}


def _answer(kind: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    choices = _list_of(_object({"index": _NUMBER, **choice, **_FINISH}))
    head = {"id": _TEXT, "object": _one_of(kind), "created": _NUMBER, "model": _TEXT}
    return _object({**head, "choices": choices, "usage": _USAGE}, {"p2pnode": _OPEN})


SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "Error": _object({"error": _ERROR}),
    "ChatCompletion": _answer("chat.completion", {"message": _object({"role": _TEXT})}),
    "Completion": _answer("text_completion", {"text": _TEXT}),
    "Embeddings": _object({"object": _one_of("list"), "data": _list_of(_OPEN), "model": _TEXT, "usage": _USAGE}),
    "Model": _MODEL,
    "Models": _object({"object": _one_of("list"), "data": _list_of(_MODEL)}),
}
BODIES: Mapping[str, str] = {
    "/v1/chat/completions": "ChatCompletion",
    "/v1/completions": "Completion",
    "/v1/embeddings": "Embeddings",
    "/api/v1/completions": "Completion",
    "/api/v1/completions/{session}": "Completion",
    "/v1/models": "Models",
    "/v1/models/{model}": "Model",
}
"""What a path answers with when all is well."""
STREAMED = frozenset(path for path, body in BODIES.items() if body in ("ChatCompletion", "Completion"))
"""May answer with server-sent events instead."""


_SOME_TEXT = {"type": "string", "minLength": 1}
_NULL = {"type": "null", "description": "OpenAI's, and not supported here."}
_SAMPLED = {
    "logit_bias": _NULL,
    # FastAPI writes bounds as floats, which these are too large for.
    "seed": {"type": ["integer", "null"], "minimum": SEED_MIN, "maximum": SEED_MAX},
}
NARROWER: Mapping[str, Mapping[str, Any]] = {
    "ChatRequest": {
        **_SAMPLED,
        **dict.fromkeys(("audio", "web_search_options", "functions", "function_call"), _NULL),
        "modalities": {"type": ["array", "null"], "items": _one_of("text")},
    },
    "EmbeddingRequest": {
        "dimensions": _NULL,
        "input": {"anyOf": [_SOME_TEXT, _list_of(_SOME_TEXT) | {"minItems": 1, "maxItems": TEXTS_MAX}]},
    },
    "TaskRequest": {**_SAMPLED, **dict.fromkeys(("suffix", "best_of"), _NULL)},
    "CompletionRequest": {
        **_SAMPLED,
        **dict.fromkeys(("suffix", "best_of"), _NULL),
        "prompt": {"anyOf": [_TEXT, _list_of(_TEXT) | {"minItems": 1, "maxItems": CHOICES_MAX}]},
    },
}
"""What a body may say, where its reader takes more than the network can do, to say better what is wrong with it."""


def _only_with(field: str, other: str) -> dict[str, Any]:
    """A rule between two fields: the one is nothing unless the other is true."""
    told = {"required": [other], "properties": {other: {"const": True}}}
    return {"anyOf": [{"properties": {field: {"enum": [None, 0]}}}, told]}


RULES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "ChatRequest": (_only_with("top_logprobs", "logprobs"), _only_with("stream_options", "stream")),
    "TaskRequest": (_only_with("stream_options", "stream"),),
    "CompletionRequest": (
        _only_with("stream_options", "stream"),
        {"anyOf": [{"properties": {"n": {"enum": [None, 1]}}}, {"properties": {"prompt": _TEXT}}]},
    ),
}
"""Between the fields of one body."""


def install(app: FastAPI) -> None:
    """Serve the completed document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            read = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            app.openapi_schema = completed(read)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with all that is missing from it."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form, which is nowhere answered with
        schemas.pop(name, None)
    schemas.update(SCHEMAS)
    for name, properties in NARROWER.items():
        schemas[name]["properties"].update(properties)
        if name in RULES:
            schemas[name]["allOf"] = list(RULES[name])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return document


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = method == "post"
    codes = dict(EVERYWHERE)
    if path not in OPEN_PATHS:
        codes |= GUARDED
        operation["security"] = [{"key": []}, {}]
    if answers:
        codes |= ANSWERED
    elif "{" in path:
        codes |= MISSING
    responses = operation["responses"]
    responses.pop("422", None)
    for code, meaning in sorted(codes.items()):
        responses.setdefault(str(code), _refusal(code, meaning))
    _describe_success(path, responses["200"], answers)


def _refusal(code: int, meaning: str) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": meaning,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if code in RETRIED:
        refusal["headers"] = {"retry-after": {"description": "Seconds", "schema": _NUMBER}}
    return refusal


def _describe_success(path: str, success: dict[str, Any], answers: bool) -> None:
    if path in BODIES:
        schema = {"$ref": f"#/components/schemas/{BODIES[path]}"}
        success["content"] = {"application/json": {"schema": schema}}
    if path in STREAMED:
        success["content"]["text/event-stream"] = {}
    headers = {"x-request-id": "The request's id, its client's own if that was fit", **(HEADERS if answers else {})}
    success["headers"] = {name: {"description": meaning, "schema": _TEXT} for name, meaning in headers.items()}
