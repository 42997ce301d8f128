"""Hypothesis strategies for every struct of the wire, read off the annotations that the decoder reads.

Sizes stay small (a few dozen bytes, three items), whatever a field allows: limits have tests of their own.
"""

import enum
import importlib
import pkgutil
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st
from msgspec import Meta

import protocol.messages
from protocol.core.codec import Message, registered
from protocol.core.signing import TypedStruct

BYTES_MAX = 48
ITEMS_MAX = 3

for _module in pkgutil.iter_modules(protocol.messages.__path__):
    importlib.import_module(f"protocol.messages.{_module.name}")


def every_message() -> list[type[Message]]:
    """All registered messages."""
    return list(registered().values())


def every_typed_struct() -> list[type[TypedStruct]]:
    """All structs that are signed field by field, by name."""
    ours = [cls for cls in TypedStruct.__subclasses__() if cls.__module__.startswith("protocol.")]
    return sorted(ours, key=lambda cls: cls.__name__)


def build(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Values of a struct."""
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{name: _of(hints[name]) for name in cls.__struct_fields__})


def _of(hint: Any, meta: tuple[Meta, ...] = ()) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Annotated:
        inner, *extra = get_args(hint)
        return _of(inner, meta + tuple(item for item in extra if isinstance(item, Meta)))
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        low, high = _sizes(meta, ITEMS_MAX)
        return st.lists(_of(get_args(hint)[0]), min_size=low, max_size=high).map(tuple)
    if get_origin(hint) in (Union, type(int | None)):
        return st.one_of(*(_of(option) for option in get_args(hint)))
    return _of_class(hint, meta)


def _of_class(cls: type, meta: tuple[Meta, ...]) -> st.SearchStrategy[Any]:
    if cls is type(None):
        return st.none()
    if cls is bool:
        return st.booleans()
    if issubclass(cls, msgspec.Struct):
        return st.deferred(lambda: build(cls))
    if issubclass(cls, enum.Enum):
        return st.sampled_from(list(cls))
    if cls is int:
        lows = [item.ge for item in meta if item.ge is not None]
        highs = [item.le for item in meta if item.le is not None]
        return st.integers(max(lows), min(highs))
    low, high = _sizes(meta, BYTES_MAX)
    if cls is bytes:
        return st.binary(min_size=low, max_size=high)
    assert cls is str
    patterns = [item.pattern for item in meta if item.pattern]
    if patterns:
        return st.from_regex(patterns[0], fullmatch=True).filter(lambda text: low <= len(text) <= high)
    return st.text(min_size=low, max_size=high)


def _sizes(meta: tuple[Meta, ...], cap: int) -> tuple[int, int]:
    low = max([item.min_length for item in meta if item.min_length is not None], default=0)
    high = min([item.max_length for item in meta if item.max_length is not None], default=cap)
    return low, max(low, min(high, cap))
