"""A receipt as JSON, for people and for programs that only look: bytes in hexadecimal, what is signed inside out.

The view is no receipt: what is hashed and signed is the file's MessagePack.
"""

from contextlib import suppress
from enum import Enum
from typing import Any

import msgspec

from protocol.core.codec import decode
from protocol.core.errors import DecodeError
from protocol.messages.envelope import Envelope
from protocol.messages.receipts import Receipt, Tokens

_GenesisField = int | str | list[str] | dict[str, int | str] | None
"""A decoder that knows no type recurses as deep as the text says, and can end the process."""


def view(receipt: Receipt) -> dict[str, Any]:
    """The receipt by the names of its fields, in their order. Spec: [RECEIPT-VIEW.1]"""
    shown: dict[str, Any] = _shown(receipt)
    # One that is none stands as the text that it is: a receipt can be looked at before it is verified.
    with suppress(msgspec.DecodeError):
        shown["genesis"] = msgspec.json.decode(receipt.genesis, type=dict[str, _GenesisField])
    return shown


def text_of(tokens: Tokens) -> str:
    """What the tokens say; what is not UTF-8 is marked."""
    return b"".join(tokens.texts).decode("utf-8", "replace")


def _shown(value: Any) -> Any:
    match value:
        case Envelope():
            return {"signed": _signed(value.payload), "signature": _shown(value.signature)}
        case Tokens():
            return {"ids": list(value.ids), "texts": [_shown(text) for text in value.texts], "text": text_of(value)}
        case msgspec.Struct():
            return {name: _shown(getattr(value, name)) for name in value.__struct_fields__}
        case Enum():
            return value.name.lower()
        case bytes():
            return f"0x{value.hex()}"
        case tuple():
            return [_shown(item) for item in value]
    return value


def _signed(payload: bytes) -> Any:
    try:
        inner = decode(payload, limit_bytes=len(payload))
    except DecodeError:
        return _shown(payload)
    return {"kind": type(inner).__name__, **_shown(inner)}
