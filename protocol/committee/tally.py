"""What members said of one height: the first statement of each kind and member, and where they contradict."""

from protocol.core.ids import Signature
from protocol.messages.committee import CertificateKind, Propose, Statement, StatementKind
from protocol.messages.evidence import ConflictingStatements

_CONTRADICTS = {
    StatementKind.PROPOSAL: (StatementKind.PROPOSAL,),
    StatementKind.VOTE: (StatementKind.VOTE,),
    StatementKind.NULLIFY: (StatementKind.FINALIZE,),
    StatementKind.FINALIZE: (StatementKind.FINALIZE, StatementKind.NULLIFY),
}


class Tally:
    """Of one height: at most one statement a kind and member."""

    def __init__(self) -> None:
        self.proposal: Propose | None = None
        """The leader's first."""
        self._said: dict[StatementKind, dict[int, Statement]] = {kind: {} for kind in StatementKind}
        self._signatures: set[bytes] = set()
        self._agreed: dict[tuple[StatementKind, bytes], dict[int, Signature]] = {}

    def knows(self, statement: Statement) -> bool:
        """Whether this very statement was counted, so that nothing of it need be checked again."""
        return statement.signature in self._signatures and any(
            statement == known for known in self._said[statement.kind].values()
        )

    def said(self, kind: StatementKind, place: int) -> Statement | None:
        """What a member said."""
        return self._said[kind].get(place)

    def add(self, statement: Statement, place: int) -> ConflictingStatements | None:
        """Count a statement whose signature holds; gives the evidence where it contradicts an earlier one."""
        conflict = self.contradicted(statement, place)
        if place not in self._said[statement.kind]:
            self._said[statement.kind][place] = statement
            self._signatures.add(statement.signature)
            signatures = self._agreed.setdefault((statement.kind, statement.header), {})
            signatures[place] = Signature(statement.signature)
        return conflict

    def contradicted(self, statement: Statement, place: int) -> ConflictingStatements | None:
        """The evidence that a statement makes with what its signer said before."""
        for kind in _CONTRADICTS[statement.kind]:
            earlier = self._said[kind].get(place)
            if earlier is not None and (earlier.kind, earlier.header) != (statement.kind, statement.header):
                return ConflictingStatements(earlier, statement)
        return None

    def agreed(self, kind: CertificateKind, header: bytes, quorum: int) -> dict[int, Signature] | None:
        """The signatures by place, if a quorum says the same (``header`` is zero for nullifies)."""
        signatures = self._agreed.get((StatementKind(kind), header), {})
        return signatures if len(signatures) >= quorum else None

    def about(self, place: int) -> list[Statement]:
        """All that one member said."""
        return [said[place] for said in self._said.values() if place in said]
