"""The links of a receipt, by name and in order, and what comes out of checking them."""

from dataclasses import dataclass
from enum import StrEnum

from protocol.core.errors import RemoteProtocolError
from protocol.light.levels import Level


class Link(StrEnum):
    """Each link of a receipt, in the order in which they are checked. The names are stable. Spec: [RECEIPT-LINKS.1]"""

    FORMAT = "format"
    NETWORK = "network"
    SESSION = "session"
    ORDER = "order"
    PROMPT = "prompt"
    BIDS = "bids"
    ASSIGNMENT = "assignment"
    SEGMENTS = "segments"
    TOKENS = "tokens"
    FRAMES = "frames"
    END = "end"
    ACKS = "acks"
    COMMIT = "commit"
    REVEAL = "reveal"
    HANDOVER = "handover"
    OBSERVATIONS = "observations"
    CERTIFICATE = "certificate"
    OUTCOME = "outcome"
    CHECKPOINT = "checkpoint"


class Mark(StrEnum):
    """What became of a link."""

    HOLDS = "holds"
    FAILED = "failed"
    UNTRUSTED = "untrusted"
    """It holds, but rests on what the reader has no reason to believe."""
    SKIPPED = "skipped"
    """The receipt has nothing for it, or an earlier link failed."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One link, and what became of it."""

    link: Link
    mark: Mark
    why: str = ""
    """Why it was skipped, is untrusted or failed; what was found where it holds."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Every link holds and the reader may believe it: the answer has the level that the receipt claims."""

    level: Level
    links: tuple[Checked, ...]


@dataclass(frozen=True, slots=True)
class NotEnoughTrust:
    """Nothing is wrong with the receipt, but the reader cannot believe all of it: ``level`` holds without ``link``."""

    level: Level
    link: Link
    why: str
    links: tuple[Checked, ...]


@dataclass(frozen=True, slots=True)
class Invalid:
    """A link that does not hold: somebody changed the receipt, or made it up. Nothing in it is to be believed."""

    link: Link
    why: str
    expected: str
    actual: str
    links: tuple[Checked, ...]


Verdict = Verified | NotEnoughTrust | Invalid


class LinkBroken(RemoteProtocolError):
    """A link does not hold. ``expected`` and ``actual`` are for people; empty where there is nothing to compare."""

    code = "remote/receipt"

    def __init__(self, why: str, expected: object = "", actual: object = "") -> None:
        super().__init__(why)
        self.why = why
        self.expected = shown(expected)
        self.actual = shown(actual)


class LinkSkipped(Exception):
    """The receipt has nothing for a link. It says why."""


class LinkUntrusted(Exception):
    """A link rests on what the reader has no reason to believe: ``level`` cannot be shown. It says why."""

    def __init__(self, why: str, level: Level) -> None:
        super().__init__(why)
        self.level = level


def shown(value: object) -> str:
    """A value as it stands in a verdict: bytes in hexadecimal."""
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value)) or "none"
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


def expect(why: str, expected: object, actual: object) -> None:
    """Raises LinkBroken unless both are the same."""
    if expected != actual:
        raise LinkBroken(why, expected, actual)
