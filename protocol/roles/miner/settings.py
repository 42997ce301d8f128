"""What a miner is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.light.handovers import HandOverBook
from protocol.light.shelf import ReceiptShelf
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
    hand_overs: HandOverBook | None = None
    """The committees since then, as far as they are known here. None: none but the first."""
    salt_key: bytes = b""
    """32 secret random bytes drawn at process start, from which the salts of commits are derived."""
    results: Mapping[bytes, StoredResult] = field(default_factory=dict)
    """Results of earlier lives that were not final, by their records in the store, oldest first."""
    shelf: ReceiptShelf | None = None
    """Where the receipts of its answers are kept. None: nowhere."""
    owner: NodeId | None = None
    """Who is paid; None: the node itself."""
    tokens_per_second: int = 0
    """Of one stream, as the miner claims it when it enlists."""

    @property
    def proves(self) -> bool:
        """Whether there is a committee to prove results to."""
        return self.genesis is not None and bool(self.genesis.committee)

    def book(self) -> HandOverBook:
        """The committees that are known at the start."""
        return self.hand_overs or HandOverBook(self.genesis or Genesis("without a committee"))
