"""The miner: bids on sessions, holds leases, runs orders and streams signed frames."""

from protocol.roles.miner.events import (
    CancelGeneration,
    Generate,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
    Rendered,
)
from protocol.roles.miner.machine import MinerMachine, MinerSettings

__all__ = [
    "CancelGeneration",
    "Generate",
    "Generated",
    "GenerationFailed",
    "GenerationKey",
    "MinerMachine",
    "MinerSettings",
    "Produced",
    "Rendered",
]
