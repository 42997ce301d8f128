"""All contracts of a network, deployed, and called by name."""

from dataclasses import dataclass
from typing import Any

from chain.model.calls import Call, require
from chain.model.checkpoints import ModelCheckpoints
from chain.model.escrow import ModelEscrow
from chain.model.evidence import ModelEvidence
from chain.model.inbox import ModelInbox
from chain.model.models import ModelModels
from chain.model.registry import ModelRegistry
from chain.model.terms import Terms
from protocol.core.ids import NodeId

PAYABLE = frozenset({("registry", "register"), ("registry", "add_stake"), ("escrow", "deposit"), ("inbox", "ask")})
TRANSFER = "transfer"
"""What no contract is called by: plain coin for the address that is its argument."""


@dataclass(slots=True)
class ModelContracts:
    """See the module."""

    terms: Terms
    registry: ModelRegistry
    evidence: ModelEvidence
    checkpoints: ModelCheckpoints
    escrow: ModelEscrow
    inbox: ModelInbox
    models: ModelModels

    @staticmethod
    def deploy(terms: Terms, time_s: int) -> "ModelContracts":
        """All of them at once."""
        registry = ModelRegistry(terms)
        checkpoints = ModelCheckpoints(terms, registry, time_s)
        return ModelContracts(
            terms,
            registry,
            ModelEvidence(terms, registry),
            checkpoints,
            ModelEscrow(terms, checkpoints),
            ModelInbox(terms, checkpoints),
            ModelModels(terms, checkpoints),
        )

    def copy(self) -> "ModelContracts":
        """All of them as they are, to be changed by themselves."""
        registry = self.registry.copy()
        checkpoints = self.checkpoints.copy(registry)
        return ModelContracts(
            self.terms,
            registry,
            ModelEvidence(self.terms, registry),
            checkpoints,
            self.escrow.copy(checkpoints),
            self.inbox.copy(checkpoints),
            self.models.copy(checkpoints),
        )

    def call(self, contract: str, function: str, args: tuple[Any, ...], call: Call) -> Any:
        """Call a function of a contract; what is sent along is its own from then on. Raises Revert."""
        if contract == TRANSFER:
            return call.pay(call.sender, NodeId(args[0]), call.value)
        require(not call.value or (contract, function) in PAYABLE, "")
        call.pay(call.sender, self.terms.addresses.addresses()[contract], call.value)
        return getattr(getattr(self, contract), function)(call, *args)
