"""The tables of the verifier in JavaScript, from the code: ``python -m tests.browser.tables`` writes them anew.

What a struct's fields are, how far they go, what is hashed field by field and which parameters a genesis names is data,
the same in every language; all that is done with it is written by hand, once here and once there.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from protocol.core.codec import Message
from protocol.core.params import Params
from protocol.core.signing import TypedStruct, type_string
from protocol.messages.committee import Finalize
from protocol.messages.receipts import Receipt
from protocol.messages.results import LaneResult, Observation
from protocol.messages.sessions import Announcement, Bid, BidReceipt, BidSet
from protocol.messages.tasks import Ack, Frame

TABLES = Path(__file__).with_name("tables.js")

MESSAGES: tuple[type[Message], ...] = (Announcement, Bid, BidReceipt, BidSet)
"""What envelopes of a receipt hold."""
ROOTS: tuple[type[msgspec.Struct], ...] = (Receipt, Observation, Finalize, LaneResult, Ack, Frame, *MESSAGES)
"""All else is reached from these."""
SAFE = 2**53 - 1
"""Larger numbers are written as strings: JavaScript's own numbers are exact up to here."""


def tables() -> str:
    """The content of tables.js."""
    structs: dict[str, Any] = {}
    for root in ROOTS:
        _add(inspect.type_info(root), structs)
    typed = {name: type_string(content["cls"]) for name, content in structs.items() if _is_typed(content["cls"])}
    parts = {
        "STRUCTS": {name: content["fields"] for name, content in structs.items()},
        "TYPED": typed,
        "MESSAGES": {cls.__name__: {"kind": cls.KIND, "limit": cls.LIMIT_BYTES} for cls in MESSAGES},
        "PARAMS": {item.name: [item.metadata["low"], _number(item.metadata["high"])] for item in fields(Params)},
    }
    head = "// Written by `python -m tests.browser.tables`: what a field may be, by struct.\n"
    return head + "".join(f"\nexport const {name} = {_lines(content)};\n" for name, content in parts.items())


def _lines(content: dict[str, Any]) -> str:
    rows = [f"  {key}: {_value(value)},\n" for key, value in content.items()]
    return "{\n" + "".join(rows) + "}"


def _value(value: Any) -> str:
    shown = json.dumps(value)
    if len(shown) < 100 or not (isinstance(value, list) and value and isinstance(value[0], list)):
        return shown
    return "[\n" + "".join(f"    {json.dumps(row)},\n" for row in value) + "  ]"


def _is_typed(cls: type) -> bool:
    return issubclass(cls, TypedStruct)


def _add(info: inspect.Type, structs: dict[str, Any]) -> None:
    """A struct, and all that its fields hold."""
    assert isinstance(info, inspect.StructType), info
    assert info.array_like and info.forbid_unknown_fields, f"{info.cls.__name__} is no array of known fields"
    name = info.cls.__name__
    if name in structs:
        assert structs[name]["cls"] is info.cls, f"two structs are called {name}"
        return
    structs[name] = {"cls": info.cls, "fields": []}
    structs[name]["fields"] = [[field.name, _type(field.type, structs)] for field in info.fields]


def _type(info: inspect.Type, structs: dict[str, Any]) -> Any:
    match info:
        case inspect.Metadata():
            return _type(info.type, structs)
        case inspect.BoolType():
            return {"bool": True}
        case inspect.IntType():
            assert info.gt is None and info.lt is None and info.multiple_of is None
            assert info.ge is not None and info.le is not None, "a number has bounds"
            return {"int": [_number(int(info.ge)), _number(int(info.le))]}
        case inspect.EnumType():
            return {"enum": [int(item) for item in info.cls]}
        case inspect.LiteralType():
            return {"literal": list(info.values)}
        case inspect.StrType():
            assert info.pattern is None, "patterns are not spoken here"
            return {"str": [info.min_length or 0, info.max_length]}
        case inspect.BytesType():
            return {"bytes": [info.min_length or 0, info.max_length]}
        case inspect.VarTupleType():
            return {"list": _type(info.item_type, structs), "size": [info.min_length or 0, info.max_length]}
        case inspect.StructType():
            _add(info, structs)
            return {"struct": info.cls.__name__}
        case inspect.UnionType():
            return _optional(info, structs)
    raise AssertionError(f"no table for {info}")


def _optional(info: inspect.UnionType, structs: dict[str, Any]) -> Any:
    others = [member for member in info.types if not isinstance(member, inspect.NoneType)]
    assert len(others) == 1 < len(info.types), "of unions only what may be left out is spoken here"
    return {"optional": _type(others[0], structs)}


def _number(value: int) -> int | str:
    return value if value <= SAFE else str(value)


def main() -> None:
    """Write the tables."""
    TABLES.write_text(tables())


if __name__ == "__main__":
    main()
