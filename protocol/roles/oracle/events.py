"""What an oracle hears from its own node, beside the common events."""

from dataclasses import dataclass

from protocol.messages.results import TestReport


@dataclass(frozen=True, slots=True)
class Include:
    """The node has something for the blocks: it goes out in a batch of its own."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What the node's own test of a miner has come to: it goes out in a batch, once."""

    report: TestReport
