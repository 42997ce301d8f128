"""What a lane's observations come to: a pure function of the values that a cut holds, so no leader can pick."""

from collections import Counter
from collections.abc import Sequence

from protocol.core.ids import NOBODY, ZERO_DIGEST, Digest, NodeId
from protocol.messages.results import Observation, Verdict

Result = tuple[Verdict, Digest, int]
"""Verdict, result root and tokens; zero and zero unless OK."""

_FAILURES = (Verdict.LATE, Verdict.UNREVEALED, Verdict.MISMATCH)


def decide(values: Sequence[Observation], f: int) -> Result:
    """The verdict on a lane of which ``values`` are known, one an oracle, at least 2f+1 of them.

    OK if f+1 say the same of root and count, as one of them is correct; else another verdict of f+1; else nobody's.
    Spec: [OUTCOME-DECIDE.1]
    """
    results = Counter((value.root, value.count) for value in values if value.verdict is Verdict.OK)
    agreed = [(-votes, root, count) for (root, count), votes in results.items() if votes > f]
    if agreed:
        _, root, count = min(agreed)
        return Verdict.OK, Digest(root), count
    verdicts = Counter(value.verdict for value in values if value.verdict in _FAILURES)
    said = [(-votes, verdict) for verdict, votes in verdicts.items() if votes > f]
    return (min(said)[1] if said else Verdict.UNDECIDED), ZERO_DIGEST, 0


def blamed(values: Sequence[Observation], verdict: Verdict, f: int) -> NodeId | None:
    """Whose failure a verdict is: the miner that f+1 of those who gave it name. Spec: [OUTCOME-BLAME.1]"""
    if verdict not in _FAILURES:
        return None
    named = Counter(named_miner(value) for value in values if value.verdict is verdict)
    said = [(-votes, miner) for miner, votes in named.items() if votes > f and miner not in (None, NOBODY)]
    return min(said)[1] if said else None


def named_miner(value: Observation) -> NodeId | None:
    """The miner that an observation of a failure names in the place of a root; None where it names none."""
    return NodeId(value.root[12:]) if value.verdict in _FAILURES and value.root != ZERO_DIGEST else None


def failure_root(miner: bytes) -> Digest:
    """What stands for a root in the observation of a failure: the miner that the oracle holds assigned."""
    return Digest(bytes(12) + miner)


def is_sound(value: Observation) -> bool:
    """Whether an observation says what one may: a root and tokens if OK, else no tokens and a miner or nobody."""
    if value.verdict is Verdict.OK:
        return True
    return value.verdict in _FAILURES and not value.count and not any(value.root[:12])
