"""The model registry of the model: the heads of the ledger's logs of names, as usable headers prove them."""

from dataclasses import dataclass, field, replace

from chain.model.calls import Call, require
from chain.model.checkpoints import ModelCheckpoints
from chain.model.terms import Terms
from protocol.core.ids import NodeId
from protocol.ledger.names import Name
from protocol.ledger.proofs import verify_ledger_proof
from protocol.ledger.records import Section
from protocol.messages.committee import Header, header_digest
from protocol.messages.results import LedgerProof


@dataclass(frozen=True, slots=True)
class NameProved:
    """A name's head has come to the chain."""

    name: str
    owner: NodeId
    number: int
    head: bytes
    model: bytes


@dataclass(slots=True)
class ModelModels:
    """See the module."""

    terms: Terms
    checkpoints: ModelCheckpoints
    heads: dict[str, Name] = field(default_factory=dict)
    aliases: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    """What an alias of a name stands for, and by which entry."""

    def copy(self, checkpoints: ModelCheckpoints) -> "ModelModels":
        """One that changes by itself, beside checkpoints."""
        return replace(self, checkpoints=checkpoints, heads=dict(self.heads), aliases=dict(self.aliases))

    def prove(self, call: Call, header: Header, proof: LedgerProof) -> None:
        """Take a name's record from a usable header's ledger."""
        require(self.checkpoints.usable(call, header_digest(self.terms.domain, header)), "not usable")
        value = proof.value
        require(value is not None and proof.section == Section.NAMES and verify_ledger_proof(header, proof), "proof")
        assert value is not None
        name, record = proof.key.decode(), Name.read(value)
        known = self.heads.get(name)
        require(record.number > (0 if known is None else known.number), "old")
        self.heads[name] = record
        for alias in record.aliases:
            self.aliases[name, alias.alias] = (alias.number, alias.model)
        call.emit("models", NameProved(name, NodeId(record.owner), record.number, record.head, record.model))
