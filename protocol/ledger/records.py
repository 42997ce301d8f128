"""What the ledger's sections hold: the sections, and what a record is."""

from enum import IntEnum
from functools import cache
from typing import Any, Self, TypeVar

import msgspec

from protocol.committee.payload import HOMES_KEPT
from protocol.core.errors import DecodeError


class Section(IntEnum):
    """The parts of the ledger, in the order in which their roots make the ledger root. Spec: [LEDGER-ROOT.1]"""

    ACCOUNTS = 0
    """address -> Account"""
    SESSIONS = 1
    """session id -> Session: what is reserved"""
    MINERS = 2
    """node id -> Miner: the node pool"""
    NAMES = 3
    """model name -> Name: the heads of the registry's logs"""
    OPEN = 4
    """home epoch and lane -> Lane: lanes that are not decided"""
    LANES_0 = 5
    """lane -> Lane: those decided, of home epochs that 3 divides"""
    LANES_1 = 6
    LANES_2 = 7
    NODES = 8
    """node id -> Node: who is registered on the chain"""
    COURSE = 9
    """No tree: the digest of epoch, committees, cut and chain."""


TREES = len(Section) - 1
"""Sections that are trees."""


def lanes_of(home_epoch: int) -> Section:
    """Where the decided lanes of a home epoch are: a whole tree is forgotten at once when it is used again."""
    return Section(Section.LANES_0 + home_epoch % HOMES_KEPT)


def lane_key(session: bytes, task: int, lane: int) -> bytes:
    """The key of a lane in the section of its home epoch."""
    return session + task.to_bytes(4, "big") + bytes([lane])


def open_key(home_epoch: int, lane: bytes) -> bytes:
    """The key of a lane that is not decided, from its own."""
    return home_epoch.to_bytes(8, "big") + lane


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A value of a section. One encoding each, the one that ``core.codec`` would give it."""

    def packed(self) -> bytes:
        """The record's encoding."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The record that was packed. Raises DecodeError."""
        try:
            read: Self = _decoder(cls).decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DecodeError(f"no {cls.__name__}: {error}") from error
        return read


R = TypeVar("R", bound=Record)


@cache
def _decoder(cls: type[Record]) -> "msgspec.msgpack.Decoder[Any]":
    return msgspec.msgpack.Decoder(cls)
