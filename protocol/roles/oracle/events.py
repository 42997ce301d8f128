"""What an oracle hears from its own node, beside the common events."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Include:
    """The node has something for the blocks: it goes out in a batch of its own."""

    content: bytes
