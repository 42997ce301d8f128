"""What a receipt is made of, for SPEC.md: every struct in it field by field, read from the code."""

import ast
import inspect
import sys
from enum import IntEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from protocol.core.codec import Message
from protocol.messages.receipts import Receipt
from protocol.messages.results import Observation
from protocol.messages.sessions import Announcement, Bid, BidReceipt, BidSet

SEALED = (BidSet, Announcement, Bid, BidReceipt)
"""What stands in envelopes of a receipt."""


def grammar() -> str:
    """A line for each struct: its fields in order, with their types."""
    lines = []
    for struct in structs():
        hints = get_type_hints(struct, include_extras=True)
        told = ", ".join(f"{name}: {shown(hints[name])}" for name in struct.__struct_fields__)
        kind = f"{struct.KIND}, " if struct in SEALED and issubclass(struct, Message) else ""
        lines.append(f"- `{struct.__name__}` = [{kind}{told}]\n")
    return "".join(lines)


def meanings() -> str:
    """What the fields are of the structs that only receipts have."""
    rows = [
        f"| `{struct.__name__}` | `{name}` | {meaning} |\n"
        for struct in structs()
        if struct.__module__ == Receipt.__module__
        for name, meaning in documented(struct)
        if meaning
    ]
    return "| of | field | meaning |\n| --- | --- | --- |\n" + "".join(rows)


def structs() -> list[type[msgspec.Struct]]:
    """The structs of a receipt, each after the first that has it."""
    found: dict[type[msgspec.Struct], None] = {}
    waiting: list[type[msgspec.Struct]] = [Receipt]
    while waiting:
        struct = waiting.pop(0)
        if struct in found:
            continue
        found[struct] = None
        waiting = [*parts_of_struct(struct), *waiting]
    sealed = [part for struct in SEALED for part in (struct, *parts_of_struct(struct))]
    return list(dict.fromkeys([*found, *sealed, Observation]))


def parts_of_struct(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The structs that are fields of one."""
    return [part for hint in get_type_hints(struct).values() for part in parts_of(hint)]


def parts_of(hint: Any) -> list[type[msgspec.Struct]]:
    """The structs that a type is made of."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [part for item in get_args(hint) if not isinstance(item, Meta) for part in parts_of(item)]


def shown(hint: Any) -> str:
    """A field's type in a word or two."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(args[0], [meta for meta in args[1:] if isinstance(meta, Meta)])
    if origin in (Union, UnionType):
        return " or ".join("nil" if part is NoneType else shown(part) for part in args)
    if origin is tuple:
        return f"[{shown(args[0])}…]"
    if origin is Literal:
        return " or ".join(f'"{word}"' for word in args)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return " or ".join(f"{item.value} ({item.name.lower()})" for item in hint)
    return {str: "text", bytes: "bytes", int: "integer", bool: "bool"}.get(hint, hint.__name__)


def _annotated(base: Any, metas: list[Meta]) -> str:
    low, high = (_bound(metas, ("ge", "min_length")), _bound(metas, ("le", "max_length")))
    extra = next((str(meta.extra["eip712"]) for meta in metas if meta.extra and "eip712" in meta.extra), "")
    if base is int:
        return extra if extra.startswith("uint") and low == 0 else f"integer {low} to {high}"
    if base is bytes:
        return f"bytes{high}" if low == high else f"bytes, at most {high:,}"
    if base is str:
        return f"text, at most {high:,}"
    return f"{shown(base)[:-1]}, {f'{low} to ' if low else 'at most '}{high:,}]"


def _bound(metas: list[Meta], names: tuple[str, str]) -> int | None:
    return next((getattr(meta, name) for meta in metas for name in names if getattr(meta, name) is not None), None)


def documented(struct: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """Each field with what stands below it, in one line."""
    tree = ast.parse(inspect.getsource(sys.modules[struct.__module__]))
    body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == struct.__name__)
    texts: dict[str, str] = {}
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = str(after.value.value) if told else ""  # type: ignore[union-attr]
            texts[field.target.id] = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    return [(name, texts[name]) for name in struct.__struct_fields__]
