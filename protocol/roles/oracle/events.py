"""What an oracle hears from its own node, beside the common events."""

from dataclasses import dataclass

from protocol.messages.chain import Accepted
from protocol.messages.results import TestReport
from protocol.results.evidence import Evidence
from protocol.settlement.sightings import Seen
from protocol.settlement.words import AnchorBlock


@dataclass(frozen=True, slots=True)
class Include:
    """The node has something for the blocks: it goes out in a batch of its own."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What the node's own test of a miner has come to: it goes out in a batch, once."""

    report: TestReport


@dataclass(frozen=True, slots=True)
class Accuse:
    """Somebody handed the node evidence (untrusted): it is told on and reported, as if it had come by gossip.

    Spec: [EVIDENCE-HAND-IN.1]
    """

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class ChainSeen:
    """All events of the chain's final blocks after one up to another, in order."""

    after: int
    """What the machine's ``chain.through`` is: else there would be a gap."""
    through: int
    events: tuple[Seen, ...]
    """Each with the number of its block."""
    blocks: tuple[AnchorBlock, ...]
    """The last stride blocks up to ``through``, by rising number: as many as the machine remembers, if there are."""


@dataclass(frozen=True, slots=True)
class AnchorsSeen:
    """Headers in RLP of blocks of the chain at which the ledger is, or may soon be, anchored."""

    headers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ChainLost:
    """The chain is not what it was, or nobody knows any more up to where it was read: reading begins at the machine's
    ``chain.cursor`` again."""


@dataclass(frozen=True, slots=True)
class ContractSeen:
    """What the contracts say, in blocks that need not be final yet."""

    accepted: Accepted | None
    """The last checkpoint."""
    undrawn: int | None
    """An epoch whose committee may be drawn now."""
