"""How certain an answer is to the client that read it: streamed, committed, certified, finalized, settled.

A level is reached by signatures over the client's own result, whoever brings them and in whatever order, and none is
lost again. What contradicts it is kept and shown beside it.
"""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

from protocol.committee.certificates import CommitteeError, verify_batch
from protocol.committee.cut import content_bytes_max
from protocol.core.codec import unpack
from protocol.core.ids import Digest, Generation, NodeId, SessionId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.light.headers import HeaderTrust
from protocol.light.news import check_outcome
from protocol.light.proofs import Proofs, with_proofs
from protocol.messages.committee import SignedBatch, header_digest
from protocol.messages.evidence import ConflictingValues
from protocol.messages.receipts import Finality, Receipt, Settlement
from protocol.messages.results import (
    CommittedNews,
    Content,
    Observation,
    Outcome,
    OutcomeNews,
    SettledNews,
    Verdict,
)
from protocol.results.commitment import ResultError, check_commit, check_reveal, commit_of

CLAIMS_MAX = 8
"""Headers of one lane that are looked for on the chain; honest oracles name one."""
CLAIM_BYTES = 6_144
"""What one takes at most, with its certificate and its proof."""


class Level(IntEnum):
    """How certain an answer is; each includes those before it."""

    STREAMED = 0
    """The miner signed every frame of it."""
    COMMITTED = 1
    """The miner bound itself to its result before it could know another lane's."""
    CERTIFIED = 2
    """2f+1 oracles signed that this is the result, committed and opened in time."""
    FINALIZED = 3
    """The verdict stands in the results tree of a final header."""
    SETTLED = 4
    """The contract accepted such a header, in a final block of its chain."""


@dataclass(frozen=True, slots=True)
class Result:
    """A lane as its reader verified it."""

    session: SessionId
    task: int
    lane: int
    sole: bool
    """Whether the session has no other lane: then the commit comes with its opening."""
    home_epoch: int
    generation: Generation
    """Of the last segment, as is ``miner``: whoever ends a lane commits to all of it."""
    miner: NodeId
    root: Digest
    count: int


@dataclass(frozen=True, slots=True)
class Final:
    """Where a verdict stands."""

    epoch: int
    height: int
    index: int
    """Of the leaf in the results tree."""
    paid_wei: int
    """When it was decided."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The header that settles a verdict."""

    epoch: int
    height: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """A batch whose oracle signed it; made by :func:`check_batch` alone."""

    signed: SignedBatch
    observations: tuple[Observation, ...]


def check_batch(domain: Domain, params: Params, trust: HeaderTrust, signed: SignedBatch) -> CheckedBatch:
    """A batch of a member of its home epoch's committee. Raises CommitteeError, SignatureError, DecodeError."""
    if signed.batch.oracle not in trust.committee(signed.batch.home_epoch).places:
        raise CommitteeError("a batch of somebody who is not in its home epoch's committee")
    if len(signed.content) > content_bytes_max(params):
        raise CommitteeError(f"a batch with {len(signed.content)} bytes of content")
    verify_batch(domain, signed)
    content = unpack(Content, signed.content, limit_bytes=content_bytes_max(params))
    return CheckedBatch(signed, content.observations)


class LaneLevels:
    """How far one lane has come. Every method tells whether anything that is shown has changed.

    Spec: [LEVEL-RISES.1] [LEVEL-PROVED.1]
    """

    def __init__(self, domain: Domain, trust: HeaderTrust, result: Result) -> None:
        self._domain = domain
        self._trust = trust
        self._committee = trust.committee(result.home_epoch)
        self.result = result
        self.level = Level.STREAMED
        self.proved: dict[Level, None] = {}
        """The levels of which the proof is here, as they came: one above may come before one below."""
        self.proofs = Proofs()
        """What its receipt holds of all that."""
        self.final: Final | None = None
        self.claims: dict[Digest, Checkpoint] = {}
        """Headers that hold the verdict, and of which an oracle says that the contract accepted them."""
        self.settled: Checkpoint | None = None
        self.evidence: dict[NodeId, tuple[SignedBatch, SignedBatch]] = {}
        """Two batches of one oracle with two values for this lane."""
        self._agreeing: set[NodeId] = set()
        self._values: dict[NodeId, tuple[Observation, SignedBatch]] = {}
        """The first of each oracle, until the lane is final."""
        self._refused: Outcome | None = None
        self._committed_otherwise = False

    @property
    def agreeing(self) -> int:
        """How many oracles signed that this is the result."""
        return len(self._agreeing)

    @property
    def members(self) -> int:
        """Of how many."""
        return len(self._committee.members)

    @property
    def against(self) -> str:
        """Why it is not certain, in a word or two; empty where nothing speaks against it."""
        if self.final is not None:
            return ""
        if self._refused is not None:
            return self._told(self._refused)
        # After f+1 such values there are no 2f+1 others.
        said = Counter(self._told(value) for value, _ in self._values.values() if not self._is_own(value))
        for reason, oracles in said.most_common(1):
            if oracles > self._committee.faulty_max:
                return reason
        return "another result committed" if self._committed_otherwise else ""

    @property
    def size(self) -> int:
        """The bytes of what is large in all that is kept of it."""
        pairs = (signed for pair in self.evidence.values() for signed in pair)
        batches = (*(signed for _, signed in self._values.values()), *pairs)
        return sum(len(signed.content) for signed in batches) + CLAIM_BYTES * len(self.proofs.claims)

    def raised(self, receipt: Receipt) -> Receipt:
        """Its receipt with all that is proved by now."""
        return with_proofs(receipt, self.proofs, self._committee)

    def committed(self, news: CommittedNews) -> bool:
        """Its miner committed. Raises SignatureError, ResultError for what is not this miner's commit to this lane."""
        result, commit = self.result, news.signed.commit
        place = (commit.session, commit.task, commit.lane, commit.generation, commit.miner)
        if place != (result.session, result.task, result.lane, result.generation, result.miner):
            raise ResultError("commit", "it is another lane's, or another miner's")
        check_commit(self._domain, news.signed)
        if result.sole:
            if news.reveal is None:
                raise ResultError("reveal", "a commit to an only lane comes with its opening")
            check_reveal(self._domain, news.reveal)
            reveal = news.reveal.reveal
            if commit_of(self._domain, reveal) != commit:
                raise ResultError("reveal", "it does not open the commit")
            if (reveal.root, reveal.count) != (result.root, result.count):
                before, self._committed_otherwise = self._committed_otherwise, True
                return not before
        self.proofs.commit, self.proofs.reveal = news.signed, news.reveal if result.sole else None
        return self._reach(Level.COMMITTED)

    def observed(self, batch: CheckedBatch) -> bool:
        """An oracle of the lane's home epoch signed a batch; it may speak of this lane."""
        oracle = NodeId(batch.signed.batch.oracle)
        if batch.signed.batch.home_epoch != self.result.home_epoch:
            return False
        before = (self.agreeing, self.against, len(self.evidence))
        for value in batch.observations:
            if (value.session, value.task, value.lane) == (self.result.session, self.result.task, self.result.lane):
                self._take_value(oracle, value, batch.signed)
        risen = self.agreeing >= self._committee.quorum and self._reach(Level.CERTIFIED)
        return risen or before != (self.agreeing, self.against, len(self.evidence))

    def _take_value(self, oracle: NodeId, value: Observation, signed: SignedBatch) -> None:
        if self._is_own(value):
            self._agreeing.add(oracle)
        if self.final is not None:
            return
        if self._is_own(value):
            self.proofs.batches.setdefault(oracle, signed)
        first = self._values.setdefault(oracle, (value, signed))
        if first[0] != value:
            self.evidence.setdefault(oracle, (first[1], signed))

    def convicting(self) -> tuple[ConflictingValues, ...]:
        """What convicts each oracle that signed two values for this lane, for whoever is to be shown it."""
        place = self.result.session, self.result.task, self.result.lane
        return tuple(ConflictingValues(*place, *pair) for pair in self.evidence.values())

    def outcome(self, news: OutcomeNews | SettledNews) -> bool:
        """A verdict in the results tree. Raises RemoteProtocolError for one of another lane, or without its proof."""
        outcome, result = news.outcome, self.result
        place = (outcome.session, outcome.task, outcome.lane, outcome.home_epoch)
        if place != (result.session, result.task, result.lane, result.home_epoch):
            raise ResultError("outcome", "it is another lane's")
        header = check_outcome(self._trust, news)
        if isinstance(news, SettledNews) and self._is_own(outcome) and len(self.claims) < CLAIMS_MAX:
            digest = header_digest(self._domain, header)
            self.claims.setdefault(digest, Checkpoint(header.epoch, header.height, digest))
            self.proofs.claims.setdefault(digest, Settlement(news.proof, news.certified))
        if self.final is not None:
            return False
        if not self._is_own(outcome):
            changed, self._refused = self._refused != outcome, outcome
            return changed
        self.final = Final(header.epoch, header.height, news.proof.index, outcome.paid_wei)
        self._values.clear()
        self.proofs.final = Finality(outcome, news.proof, news.certified)
        self.proofs.batches.clear()
        return self._reach(Level.FINALIZED)

    def accepted(self, digest: Digest) -> bool:
        """The client's own look at the chain: the contract accepted a header. Spec: [LEVEL-SETTLED.1]"""
        if self.settled is not None or digest not in self.claims:
            return False
        self.settled, self.proofs.settled = self.claims[digest], self.proofs.claims[digest]
        self.claims.clear()
        self.proofs.claims.clear()
        return self._reach(Level.SETTLED)

    def _is_own(self, said: Observation | Outcome) -> bool:
        return (said.verdict, said.root, said.count) == (Verdict.OK, self.result.root, self.result.count)

    @staticmethod
    def _told(said: Observation | Outcome) -> str:
        return "another result" if said.verdict is Verdict.OK else said.verdict.name.lower()

    def _reach(self, level: Level) -> bool:
        """Spec: [LEVEL-RISES.1]"""
        new = level not in self.proved
        self.proved[level] = None
        self.level = max(self.level, level)
        return new
