"""What a person signed for the ledger and hands in at a running node's control socket."""

from collections.abc import Callable, Mapping
from typing import Any

from protocol.core.codec import decode
from protocol.core.errors import DecodeError, P2PNodeError
from protocol.messages.results import Submit

QUESTION = "hand-in:"
"""What it begins with; a Submit in hexadecimal digits follows."""


def handed_in(way: Callable[[Submit], None] | None, question: str) -> Mapping[str, Any]:
    """Pass it on to the committee, if there is a way. Raises P2PNodeError."""
    if way is None:
        hint = "ask a router or an oracle of a network with a committee"
        raise P2PNodeError("this node has no way to the ledger", code="control/no-ledger", hint=hint)
    try:
        submit = decode(bytes.fromhex(question.removeprefix(QUESTION)))
    except (ValueError, DecodeError) as error:
        raise P2PNodeError(f"this is nothing for the ledger: {error}", code="control/malformed") from error
    if not isinstance(submit, Submit):
        raise P2PNodeError("this is nothing for the ledger", code="control/malformed")
    way(submit)
    return {"handed_in": True}
