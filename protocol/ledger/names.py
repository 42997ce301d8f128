"""Names in the model registry: who owns one, and the head of its log."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from protocol.core.errors import DecodeError
from protocol.core.signing import U64, Bytes20, Bytes32
from protocol.ledger.records import Record

ALIAS_BYTES_MAX = 32
_WORD_BYTES = 32
_HEAD_WORDS, _ALIAS_WORDS = 4, 3


class Alias(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an alias of a name stands for."""

    alias: Annotated[str, Meta(min_length=1, max_length=ALIAS_BYTES_MAX)]
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
    """By rising alias."""

    def packed(self) -> bytes:
        """Words, as a contract reads them: four, and three for each alias. Spec: [LEDGER-NAME.1]"""
        words = [self.owner.rjust(_WORD_BYTES, b"\0"), _word(self.number), self.head, self.model]
        for alias in self.aliases:
            words += [alias.alias.encode().ljust(_WORD_BYTES, b"\0"), _word(alias.number), alias.model]
        return b"".join(words)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """See Record."""
        words = [data[at : at + _WORD_BYTES] for at in range(0, len(data), _WORD_BYTES)]
        aliases = len(words) - _HEAD_WORDS
        if len(data) % _WORD_BYTES or aliases < 0 or aliases % _ALIAS_WORDS:
            raise DecodeError("a name is four words, and three for each alias")
        owner, number, head, model = words[:_HEAD_WORDS]
        fields = (owner[-20:], int.from_bytes(number, "big"), head, model, list(_aliases(words[_HEAD_WORDS:])))
        try:
            name = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise DecodeError(f"no Name: {error}") from error
        if name.packed() != data or any(low.alias >= high.alias for low, high in pairwise(name.aliases)):
            raise DecodeError("a name is not in canonical form")
        return name


def _aliases(words: list[bytes]) -> Iterator[tuple[str, int, bytes]]:
    for at in range(0, len(words), _ALIAS_WORDS):
        alias, number, model = words[at : at + _ALIAS_WORDS]
        try:
            text = alias.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise DecodeError("an alias is no UTF-8") from error
        yield text, int.from_bytes(number, "big"), model


def _word(number: int) -> bytes:
    return number.to_bytes(_WORD_BYTES, "big")
