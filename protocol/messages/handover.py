"""How whoever runs no consensus learns who is in the committee: an epoch's last word on the next one's members."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U64, Bytes20
from protocol.messages.committee import MEMBERS_MAX, Certified

HAND_OVERS_MAX = 32
"""Of one message."""
PICKED_MAX = 8
"""Of one message, where they are asked for one by one."""
EVM_HEADER_BYTES_MAX = 1_024
"""Of an EVM block; with the fields of all forks that there are it has some 650."""


class HandOver(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Any final header of an epoch with its certificate, and the members of the next one, whose root it names."""

    certified: Certified
    members: Annotated[tuple[Bytes20, ...], Meta(min_length=4, max_length=MEMBERS_MAX)]
    anchor: Annotated[bytes, Meta(max_length=EVM_HEADER_BYTES_MAX)] = b""
    """The EVM block that the header anchors: its header in RLP, which tells how old the hand-over is at most; empty
    where there is no chain, or whoever kept the hand-over had not read that block."""

    @property
    def epoch(self) -> int:
        """Which hands over: the members are those of the next one."""
        return self.certified.certificate.epoch


@message(kind=80, limit_bytes=64)
class HandOversAsked(Message, frozen=True):
    """The asker knows the committee of epoch ``first``, and wants all hand-overs from that epoch's on: those that there
    are, page by page, and each later one as it comes."""

    first: U64


@message(kind=81, limit_bytes=131_072)
class HandOvers(Message, frozen=True):
    """Hand-overs of consecutive epochs, the lowest first."""

    hand_overs: Annotated[tuple[HandOver, ...], Meta(max_length=HAND_OVERS_MAX)]
    more: bool = False
    """The answerer has later ones, which are to be asked for."""


@message(kind=82, limit_bytes=128)
class HandOversPicked(Message, frozen=True):
    """The asker wants the hand-overs of some epochs, for it skips the others."""

    epochs: Annotated[tuple[U64, ...], Meta(min_length=1, max_length=PICKED_MAX)]


@message(kind=83, limit_bytes=40_960)
class HandOversFound(Message, frozen=True):
    """Those of them that there are, in the order in which they were asked for."""

    hand_overs: Annotated[tuple[HandOver, ...], Meta(max_length=PICKED_MAX)]
