"""What all receipts that do not hold are made of: one that holds in everything, and one thing changed in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.core.codec import pack
from protocol.light.receipt import Link
from tests.receipts_made import Maker
from tests.unit.protocol.keys import key
from tests.vectors.receipts.whole import EVERYTHING, Reader, knowing

STRANGER = key(7_777)
"""Who is nobody in the network, and signs."""

RECEIPT, KNOWING = EVERYTHING.receipt(), knowing(EVERYTHING)
"""The one in which something is changed, and who believes its genesis."""

Named = Iterator[tuple[str, bytes]]
"""Files by what is wrong with them."""


@dataclass(frozen=True)
class Broken:
    """A file that does not hold at a link, to a reader."""

    link: Link
    name: str
    data: bytes
    reader: Reader = KNOWING
    maker: Maker = EVERYTHING
    """Has the genesis that the reader knows."""


def other(value: Any, path: str, new: Any) -> Any:
    """A struct with one field changed, down a path of names and places: ``segments.0.head.lane``."""
    name, _, rest = path.partition(".")
    if isinstance(value, tuple):
        place = int(name)
        return (*value[:place], other(value[place], rest, new) if rest else new, *value[place + 1 :])
    item = other(getattr(value, name), rest, new) if rest else new
    return msgspec.structs.replace(value, **{name: item})


def with_(path: str, new: Any) -> bytes:
    """The receipt with one field changed."""
    return pack(other(RECEIPT, path, new))
