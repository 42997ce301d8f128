"""Tasks whose commits are closed, as an oracle keeps them on its disk: a restart must not open them again."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import pack, unpack
from protocol.core.signing import U8
from protocol.messages.results import Papers, SignedCommit
from protocol.messages.sessions import LANES_MAX
from protocol.results.papers import Task

CLOSED = b"results/closed/"

_BYTES_MAX = 1 << 16


class ClosedTask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which commit counts for each lane, and which lanes came too late."""

    papers: Papers
    commits: Annotated[tuple[SignedCommit, ...], Meta(max_length=LANES_MAX)]
    late: Annotated[tuple[U8, ...], Meta(max_length=LANES_MAX)]


def closed_key(task: Task) -> bytes:
    """Of a task's record."""
    return CLOSED + task[0] + task[1].to_bytes(4, "big")


def closed_record(closed: ClosedTask) -> tuple[bytes, bytes]:
    """What is to be durable before a miner is asked to open its commit."""
    return closed_key((closed.papers.order.session, closed.papers.order.task)), pack(closed)


def unpack_closed(data: bytes) -> ClosedTask:
    """Raises DecodeError."""
    return unpack(ClosedTask, data, limit_bytes=_BYTES_MAX)
