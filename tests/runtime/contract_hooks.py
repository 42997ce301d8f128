"""Schemathesis' requests, with the model that there is and no more tokens than need be. Imported by its command."""

from typing import Any

import schemathesis

from tests.runtime.http_node import MODEL

TOKENS = 4


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """A request that would be refused for its model asks something instead."""
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        limits = {name: TOKENS for name in ("max_tokens", "max_completion_tokens") if type(body.get(name)) is int}
        return {**body, "model": MODEL, **limits}
    return body
