"""The miner: bids on sessions, holds leases, runs orders and streams signed frames."""

from protocol.roles.miner.events import (
    CancelGeneration,
    Embed,
    EmbeddingFailed,
    Generate,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
    Rendered,
    TextsEmbedded,
)
from protocol.roles.miner.machine import MinerMachine, MinerSettings

__all__ = [
    "CancelGeneration",
    "Embed",
    "EmbeddingFailed",
    "Generate",
    "Generated",
    "GenerationFailed",
    "GenerationKey",
    "MinerMachine",
    "MinerSettings",
    "Produced",
    "Rendered",
    "TextsEmbedded",
]
