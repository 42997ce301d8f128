"""The ledger: what the blocks decide. Money, sessions, outcomes, the node pool and the registry of models."""

from protocol.ledger.ledger import Ledger as Ledger
from protocol.ledger.records import Section as Section
from protocol.ledger.state import State as LedgerState

__all__ = ["Ledger", "LedgerState", "Section"]
