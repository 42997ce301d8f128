"""Evidence against nodes that have something to lose, until the registry has jailed them."""

from collections.abc import Mapping

from protocol.committee.storage import Record
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain
from protocol.ledger.state import State
from protocol.results.convictions import pack_piece, unpack_piece
from protocol.results.evidence import Evidence, convict, evidence_id
from protocol.settlement.duty import ReportEvidence

EVIDENCE = b"evidence/"
"""What the names of its records begin with."""
PIECES_MAX = 256
AT_ONCE_MAX = 8
"""Pieces that are reported at a time: the next ones follow as soon as these nodes are jailed."""

_BYTES_MAX = 1 << 16


class Docket:
    """One piece a node: it is jailed for ever by the first. Durable. Spec: [SETTLE-EVIDENCE.1]"""

    def __init__(self, domain: Domain, stored: Mapping[bytes, bytes], now_ms: int) -> None:
        """With what is on this node's disk. Raises DecodeError, EvidenceError for what it did not write."""
        self._domain = domain
        self._pieces: dict[NodeId, tuple[Evidence, int]] = {}
        """And since when it is known here."""
        for data in stored.values():
            evidence = unpack_piece(data, limit_bytes=_BYTES_MAX)
            self._pieces[convict(domain, evidence)] = (evidence, now_ms)

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, convicted: NodeId, evidence: Evidence, state: State, now_ms: int) -> list[Record]:
        """Evidence that convicts a node; what is to be durable of it. Of who is neither registered nor an oracle
        nothing is kept: its key may be one of thousands."""
        known = state.registered(convicted) is not None or any(convicted in members for members in state.homes.values())
        if not known or convicted in self._pieces or len(self._pieces) >= PIECES_MAX:
            return []
        self._pieces[convicted] = (evidence, now_ms)
        return [(EVIDENCE + convicted, pack_piece(evidence))]

    def settle(self, state: State) -> list[Record]:
        """Blocks are final: what is of no use any more is dropped."""
        jailed = [node for node in self._pieces if (record := state.registered(node)) is not None and record.jailed]
        for node in jailed:
            del self._pieces[node]
        return [(EVIDENCE + node, None) for node in jailed]

    def open(self, state: State) -> list[tuple[Digest, ReportEvidence, int]]:
        """What is to be reported, by its name, and since when it is known here."""
        found = [
            (evidence_id(self._domain, node, evidence), ReportEvidence(node, evidence), since_ms)
            for node, (evidence, since_ms) in self._pieces.items()
            if state.registered(node) is not None
        ]
        return found[:AT_ONCE_MAX]
