"""A trust point: a committee that somebody shows to a reader who cannot have followed it, short enough for a QR code.

Whoever reads it believes who showed it, once, and nobody after that: hand-overs lead on from it.
"""

import base64
import binascii
from dataclasses import dataclass

from protocol.core.errors import P2PNodeError
from protocol.core.ids import Digest, NetworkId
from protocol.core.signing import keccak

PREFIX = "P2PNODE-TRUST:1:"
"""The number is that of the form of what follows."""
TRUST_STRING_CHARS_MAX = 512

_CHECKED = b"p2pnode/trust-point/1"
_CHECKSUM_BYTES = 4
_CONTENT_BYTES = 32 + 8 + 8 + 32 + 8


class MalformedTrust(P2PNodeError):
    """A text that is no trust string."""

    code = "trust/malformed"
    hint = f"it begins with {PREFIX} and is shown by `p2pnode trust show`; copy all of it"


@dataclass(frozen=True, slots=True)
class TrustPoint:
    """The committee of an epoch, by its root, and when it was known to be that. Spec: [TRUST-POINT.1]"""

    network_id: NetworkId
    chain_id: int
    epoch: int
    committee_root: Digest
    time_s: int
    """Its age counts from then; 0 if that is not known, and then its age never matters."""


def show_trust(point: TrustPoint) -> str:
    """The trust string of a point: upper case, digits and ``:-`` only. Spec: [TRUST-STRING.1]"""
    content = b"".join(
        (
            point.network_id,
            point.chain_id.to_bytes(8, "big"),
            point.epoch.to_bytes(8, "big"),
            point.committee_root,
            point.time_s.to_bytes(8, "big"),
        )
    )
    return PREFIX + base64.b32encode(content + _checksum(content)).decode().rstrip("=")


def parse_trust(text: str) -> TrustPoint:
    """Read a trust string; small letters and blanks around it do no harm. Raises MalformedTrust."""
    if len(text) > TRUST_STRING_CHARS_MAX:
        raise MalformedTrust(f"a trust string has at most {TRUST_STRING_CHARS_MAX} characters")
    shown = text.strip().upper()
    if not shown.startswith(PREFIX):
        raise MalformedTrust("this is no trust string of this form")
    coded = shown.removeprefix(PREFIX)
    try:
        data = base64.b32decode(coded + "=" * (-len(coded) % 8))
    except (binascii.Error, ValueError) as error:
        raise MalformedTrust("a trust string holds the letters A to Z and the digits 2 to 7") from error
    content, checksum = data[:_CONTENT_BYTES], data[_CONTENT_BYTES:]
    if checksum != _checksum(content) or len(content) != _CONTENT_BYTES:
        raise MalformedTrust("its checksum is wrong: a character was lost or mistaken")
    point = TrustPoint(
        NetworkId(content[:32]),
        int.from_bytes(content[32:40], "big"),
        int.from_bytes(content[40:48], "big"),
        Digest(content[48:80]),
        int.from_bytes(content[80:], "big"),
    )
    if show_trust(point) != shown or not point.epoch or max(point.chain_id, point.epoch, point.time_s) >= 1 << 63:
        raise MalformedTrust("its numbers are none that a trust string can hold")
    return point


def _checksum(content: bytes) -> bytes:
    return keccak(_CHECKED + content)[:_CHECKSUM_BYTES]
