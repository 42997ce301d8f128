"""What a contract of the model is called with, and how it says no."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from protocol.core.ids import Digest, NodeId

FOREVER = 1 << 256
"""Later than any time."""


class Revert(Exception):
    """A contract refuses: nothing of the call has happened. ``reason`` is the same short word as on chain."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def require(holds: object, reason: str) -> None:
    """Raises Revert unless it holds."""
    if not holds:
        raise Revert(reason)


@dataclass(frozen=True, slots=True)
class Log:
    """An event of a contract, as the seam's types have it."""

    contract: str
    what: object


@dataclass(frozen=True, slots=True)
class Call:
    """The surroundings of one call."""

    sender: NodeId
    value: int
    number: int
    """Of the block."""
    time_s: int
    hash_of: Callable[[int], Digest]
    """The hash of one of the last 256 blocks; zero for any other."""
    coins: dict[NodeId, int]
    """What every address has, contracts included."""
    logs: list[Log] = field(default_factory=list)

    def by(self, contract: NodeId) -> "Call":
        """The same call as a contract makes it of another one."""
        return replace(self, sender=contract, value=0)

    def emit(self, contract: str, what: object) -> None:
        """An event."""
        self.logs.append(Log(contract, what))

    def pay(self, source: NodeId, target: NodeId, amount: int) -> None:
        """Move coin. Raises Revert."""
        require(self.coins.get(source, 0) >= amount, "funds")
        self.coins[source] = self.coins.get(source, 0) - amount
        self.coins[target] = self.coins.get(target, 0) + amount
