"""The evidence court of the model: the protocol's own verdicts, and the registry told of them."""

from dataclasses import dataclass

from chain.model.calls import Call, Revert
from chain.model.registry import ModelRegistry
from chain.model.terms import Terms
from protocol.core.errors import EvidenceError
from protocol.core.ids import NodeId
from protocol.results.evidence import Evidence, convict, evidence_id


@dataclass(slots=True)
class ModelEvidence:
    """See the module."""

    terms: Terms
    registry: ModelRegistry

    def judge(self, call: Call, evidence: Evidence, reporter: NodeId) -> NodeId:
        """Slash whom evidence convicts."""
        domain = self.terms.domain
        try:
            node = convict(domain, evidence)
        except EvidenceError as error:
            raise Revert(error.link) from error
        self.registry.slash(call.by(self.terms.addresses.evidence), node, evidence_id(domain, node, evidence), reporter)
        return node
