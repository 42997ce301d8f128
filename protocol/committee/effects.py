"""What consensus asks for, beside Persist and Note. All of it belongs to one key, so it happens in order."""

from dataclasses import dataclass
from typing import Any

from protocol.core.codec import Message
from protocol.core.machine import Key
from protocol.messages.committee import Certificate, Header, SignedBatch, Statement
from protocol.messages.evidence import ConflictingBatches, ConflictingStatements

COMMITTEE: Key = b"committee"
"""The key of all effects of consensus."""


@dataclass(frozen=True, slots=True)
class ToMembers:
    """Send to every other member of the committee."""

    message: Message


@dataclass(frozen=True, slots=True)
class Held:
    """A batch is new here, and its signature holds."""

    signed: SignedBatch


@dataclass(frozen=True, slots=True)
class Executed:
    """Blocks are about to be settled: what else follows from these states is to be durable before they are. A crash
    in between only makes it be written again."""

    states: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """Blocks are final and executed, the lowest first; the certificate is of the last one."""

    headers: tuple[Header, ...]
    states: tuple[Any, ...]
    """After each of them."""
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Convicted:
    """Two signed statements contradict each other."""

    evidence: ConflictingStatements | ConflictingBatches


@dataclass(frozen=True, slots=True)
class Closed:
    """The epoch is closed: the next one begins with the state of the tree's base."""


@dataclass(frozen=True, slots=True)
class LogLost:
    """A valid statement of this node's key is not in its signer log."""

    statement: Statement
