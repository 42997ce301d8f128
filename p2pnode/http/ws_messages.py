"""What a client says on a WebSocket."""

from typing import Annotated

import msgspec
from pydantic import ValidationError

from p2pnode.http.errors import invalid, of_validation
from p2pnode.http.nesting import NESTING_MAX, too_deep
from p2pnode.http.requests import ChatRequest

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Asked(msgspec.Struct, tag="request"):
    """A request; the rest of it is read by what takes the same over HTTP."""

    request_id: Id
    session: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """The session that it would like, as ``x-session-id`` over HTTP."""


class Cancel(msgspec.Struct, tag="cancel"):
    """Stop a request."""

    request_id: Id


class Resume(msgspec.Struct, tag="resume"):
    """Go on with a request from a message on."""

    request_id: Id
    from_seq: Number


class Ping(msgspec.Struct, tag="ping"):
    """Show that you are there."""

    id: Annotated[str, msgspec.Meta(max_length=64)] = ""


Said = Asked | Cancel | Resume | Ping

_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def decoded(text: str) -> Said:
    """Raises ApiError."""
    if too_deep(text.encode("utf-8", "replace")):
        raise invalid(f"the message is nested more than {NESTING_MAX} deep", None, "too_deep")
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise invalid(f"not a message of this protocol: {error}", None, "invalid_message") from error


def body_of(text: str) -> ChatRequest:
    """The request in a message that was decoded. Raises ApiError."""
    try:
        raw = {**msgspec.json.decode(text), "stream": True, "stream_options": {"include_usage": True}}
        return ChatRequest.model_validate(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(f"not a message of this protocol: {error}", None, "invalid_message") from error
    except ValidationError as error:
        raise of_validation([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
