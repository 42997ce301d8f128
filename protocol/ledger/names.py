"""Names in the model registry: who owns one, and the head of its log."""

from typing import Annotated

from msgspec import Meta

from protocol.core.signing import U64, Bytes20, Bytes32
from protocol.ledger.records import Record


class Alias(Record, frozen=True):
    """What an alias of a name stands for."""

    alias: Annotated[str, Meta(max_length=64)]
    number: U64
    """Of the entry that set it."""
    model: Bytes32


class Name(Record, frozen=True):
    """The head of a name's log."""

    owner: Bytes20
    number: U64
    head: Bytes32
    """The digest of the last entry."""
    model: Bytes32
    aliases: tuple[Alias, ...] = ()
