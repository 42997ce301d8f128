"""What an oracle tells everybody by gossip: finalized headers, evidence, and its own word where a link is broken."""

from collections.abc import Mapping, Sequence

from protocol.core.codec import pack
from protocol.core.errors import EvidenceError
from protocol.core.ids import NodeId
from protocol.core.signing import Domain
from protocol.messages.committee import CertificateKind, Certified, Statement
from protocol.messages.evidence import (
    CommitteeNews,
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    FalseReveal,
)
from protocol.results.evidence import Evidence, convict, evidence_id

EVIDENCE_MAX = 1_024
"""Pieces remembered, so that each is told once, before those of nodes that may be anybody's throwaway keys are not."""
EVIDENCE_OF_NODE_MAX = 4
"""Pieces told of one node. One is enough, and who signs thousands is not to crowd out the others'."""
STATEMENTS_TOLD_MAX = 32
VALUES_BYTES_MAX = 8_000
"""Two batches that are larger do not fit beside the rest: such evidence is kept, and shown to nobody by gossip."""
OF_MINERS = (ConflictingFrames, ConflictingCommits, FalseReveal)
"""What convicts nodes that need be in no list: their keys may be anybody's."""
INTERVAL_MS = 500
"""Between two messages of one member: the topic's budget is the whole network's."""

Slot = tuple[int, int]


class News:
    """Collects what there is to tell until its turn. Spec: [COMMITTEE-NEWS.1]"""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._told: Slot = (0, 0)
        """The latest finalization that went over gossip, from whomever."""
        self._final: Certified | None = None
        self._conflicts: list[Evidence] = []
        self._known: dict[bytes, None] = {}
        self._of_node: dict[NodeId, int] = {}
        self._next_ms = 0

    def heard(self, certified: Certified) -> None:
        """Somebody told of a valid certificate: a finalization need not be told again."""
        certificate = certified.certificate
        if certificate.kind is CertificateKind.FINALIZATION:
            self._told = max(self._told, (certificate.epoch, certificate.height))

    def final(self, certified: Certified) -> None:
        """A finalization to tell."""
        self._final = certified

    def conflict(self, domain: Domain, conflict: Evidence, homes: Mapping[int, tuple[NodeId, ...]]) -> NodeId | None:
        """Whom evidence convicts, if it is new; it will be told. ``homes`` are the oracles by epoch: what anybody else
        stated in their place counted nowhere, and convicts nobody here."""
        try:
            convicted = convict(domain, conflict)
        except EvidenceError:
            return None
        identity, told = evidence_id(domain, convicted, conflict), self._of_node.get(convicted, 0)
        oracle = any(convicted in members for members in homes.values())
        room = oracle or (isinstance(conflict, OF_MINERS) and len(self._known) < EVIDENCE_MAX)
        if identity in self._known or told >= EVIDENCE_OF_NODE_MAX or not room:
            return None
        self._known[identity] = None
        self._of_node[convicted] = told + 1
        if fits_news(conflict):
            self._conflicts.append(conflict)
        return convicted

    @property
    def evidence(self) -> int:
        """How many pieces of evidence are known."""
        return len(self._known)

    def next_deadline(self) -> int | None:
        """When evidence may be told."""
        return self._next_ms if self._conflicts else None

    def message(
        self, now_ms: int, certified: tuple[Certified, ...] = (), statements: tuple[Statement, ...] = ()
    ) -> CommitteeNews | None:
        """All that is to be told, with what a broken link makes necessary; None if it is not the time, or nothing."""
        final = self._final
        if final is not None:
            slot = (final.certificate.epoch, final.certificate.height)
            if slot > self._told and final.header is not None:
                certified = (final, *certified)
        if now_ms < self._next_ms or not (certified or statements or self._conflicts):
            return None
        self._next_ms = now_ms + INTERVAL_MS
        # Two batches with all they hold leave no room for more.
        count = 1 if self._conflicts and isinstance(self._conflicts[0], ConflictingValues) else 2
        told, self._conflicts = self._conflicts[:count], self._conflicts[count:]
        for item in certified[:1]:
            self.heard(item)
        return news_of(self._me, now_ms, told, certified[:2], statements[-STATEMENTS_TOLD_MAX:])


def fits_news(evidence: Evidence) -> bool:
    """Whether evidence can go over gossip."""
    return not isinstance(evidence, ConflictingValues) or len(pack(evidence)) <= VALUES_BYTES_MAX


def news_of(
    author: NodeId,
    now_ms: int,
    evidence: Sequence[Evidence],
    certified: tuple[Certified, ...] = (),
    statements: tuple[Statement, ...] = (),
) -> CommitteeNews:
    """A message that tells all this."""
    return CommitteeNews(
        author,
        now_ms,
        certified,
        statements,
        tuple(item for item in evidence if isinstance(item, ConflictingStatements)),
        tuple(item for item in evidence if isinstance(item, ConflictingBatches)),
        tuple(item for item in evidence if isinstance(item, ConflictingFrames)),
        tuple(item for item in evidence if isinstance(item, ConflictingCommits)),
        tuple(item for item in evidence if isinstance(item, FalseReveal)),
        tuple(item for item in evidence if isinstance(item, ConflictingValues)),
    )


def evidence_in(news: CommitteeNews) -> tuple[Evidence, ...]:
    """All that a message tells, of every kind."""
    return (
        *news.conflicting_statements,
        *news.conflicting_batches,
        *news.conflicting_frames,
        *news.conflicting_commits,
        *news.false_reveals,
        *news.conflicting_values,
    )
