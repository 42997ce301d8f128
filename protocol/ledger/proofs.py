"""What anybody can check of the ledger with a header alone: that a key of a section has a value, or none."""

from protocol.core.errors import DecodeError
from protocol.core.sparse import verify_sparse
from protocol.ledger.accounts import Account
from protocol.ledger.lanes import Lane
from protocol.ledger.miners import Miner
from protocol.ledger.names import Name
from protocol.ledger.nodes import Node
from protocol.ledger.records import TREES, Record, Section
from protocol.ledger.sessions import Session
from protocol.ledger.state import ledger_root
from protocol.messages.committee import Header
from protocol.messages.results import LedgerProof

_RECORDS: dict[Section, type[Record]] = {
    Section.ACCOUNTS: Account,
    Section.SESSIONS: Session,
    Section.MINERS: Miner,
    Section.NAMES: Name,
    Section.OPEN: Lane,
    Section.LANES_0: Lane,
    Section.LANES_1: Lane,
    Section.LANES_2: Lane,
    Section.NODES: Node,
}


def verify_ledger_proof(header: Header, proof: LedgerProof) -> bool:
    """Whether the state after a header's block holds what a proof says. Spec: [LEDGER-PROOF.1]"""
    if proof.section >= TREES or len(proof.sections) != len(Section):
        return False
    if ledger_root(proof.sections) != header.ledger_root:
        return False
    beside = None if proof.neighbour is None else (proof.neighbour.key, proof.neighbour.value)
    return verify_sparse(proof.sections[proof.section], proof.key, proof.value, proof.siblings, beside)


def read_record(section: Section, value: bytes) -> Record:
    """What a section's value says. Raises DecodeError."""
    record = _RECORDS.get(section)
    if record is None:
        raise DecodeError(f"section {section.name} holds no records")
    return record.read(value)
