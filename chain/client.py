"""A network's contracts on a real chain: asked and told over JSON-RPC, with everything that can go wrong there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chain.api import Chain, Proving
from chain.errors import WrongChain
from chain.finality import Finality
from chain.journal import Journal
from chain.proofs import settled_proof
from chain.rpc import Health, Rpc, open_rpc
from chain.signed import Payer
from chain.transactions import Final, Sender
from chain.writing import ContractWriting
from protocol.core.genesis import Contracts, Genesis
from protocol.core.signing import Domain
from protocol.messages.committee import Certified, Header
from protocol.messages.receipts import EvmProof


class EvmChain(ContractWriting):
    """See the module. Used from any thread. Asks nobody until it is asked."""

    def __init__(
        self, rpc: Rpc, contracts: Contracts, *, sender: Sender | None = None, finality: Finality | None = None
    ) -> None:
        super().__init__(rpc, contracts, finality or Finality(rpc))
        self._sender = sender

    def settled_proof(self, domain: Domain, header: Header, anchored: Certified) -> EvmProof | None:
        """See Proving."""
        return settled_proof(self._rpc, self._contracts.checkpoints, domain, header, anchored)

    def health(self) -> list[Health]:
        """How each endpoint does."""
        return self._rpc.health()


def open_chain(
    urls: Sequence[str],
    genesis: Genesis,
    payer: Payer | None = None,
    journal: Path | None = None,
    *,
    confirmations: int = 0,
) -> EvmChain:
    """The chain of a network. Raises WrongChain if the genesis names none, ParameterError, JournalError.

    Args:
        urls: Endpoints, the preferred one first.
        payer: The key that signs and pays; without it nothing is sent.
        journal: Where what it signs is written down; None keeps it in memory, which is for tests alone.
        confirmations: How many blocks make a block final, where the chain does not mark its final blocks; else 0.
    """
    if genesis.contracts is None:
        raise WrongChain("this network has no contracts", hint="its genesis names none: nothing settles on a chain")
    rpc = open_rpc(urls, genesis.chain_id)
    finality = Finality(rpc, confirmations)
    sender = None if payer is None else open_sender(rpc, finality, payer, journal)
    return EvmChain(rpc, genesis.contracts, sender=sender, finality=finality)


def open_sender(rpc: Rpc, finality: Final, payer: Payer, journal: Path | None) -> Sender:
    """What sends with a key, from its journal on. Raises JournalError."""
    return Sender(rpc, finality, payer, Journal(journal, rpc.chain_id, payer.node_id))


if TYPE_CHECKING:
    _proving: type[Proving] = EvmChain
    _: type[Chain] = EvmChain  # what the seam promises, the real one has
