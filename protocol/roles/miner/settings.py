"""What a miner is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.messages.adverts import ModelOffer
from protocol.messages.sessions import CountersignedBid
from protocol.roles.miner.result import StoredResult


@dataclass(frozen=True, slots=True)
class MinerSettings:
    """What distinguishes one miner from another."""

    node: NodeId
    offers: Mapping[ModelDigest, ModelOffer]
    boot: bytes
    """16 random bytes drawn at process start."""
    kept: Mapping[bytes, CountersignedBid] = field(default_factory=dict)
    """Countersigned bids of earlier lives by their records in the store, oldest first."""
    genesis: Genesis | None = None
    """Whose committee results are proved to. None, or one without a committee: nobody is told of results."""
    salt_key: bytes = b""
    """32 secret random bytes drawn at process start, from which the salts of commits are derived."""
    results: Mapping[bytes, StoredResult] = field(default_factory=dict)
    """Results of earlier lives that were not final, by their records in the store, oldest first."""
    owner: NodeId | None = None
    """Who is paid; None: the node itself."""
    tokens_per_second: int = 0
    """Of one stream, as the miner claims it when it enlists."""

    @property
    def oracles(self) -> tuple[NodeId, ...]:
        """The committee; empty where there is none."""
        return self.genesis.committee if self.genesis is not None else ()
