"""How whoever runs no consensus learns who is in the committee: an epoch's last word on the next one's members."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U64, Bytes20
from protocol.messages.committee import MEMBERS_MAX, Certified

HAND_OVERS_MAX = 32
"""Of one message."""


class HandOver(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Any final header of an epoch with its certificate, and the members of the next one, whose root it names."""

    certified: Certified
    members: Annotated[tuple[Bytes20, ...], Meta(min_length=4, max_length=MEMBERS_MAX)]

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
