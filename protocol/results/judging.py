"""What an opening shows of the commit that counts."""

from protocol.core.signing import Domain
from protocol.messages.evidence import FalseReveal
from protocol.messages.results import Commit, Observation, Opening, Papers, Reveal, SignedCommit, SignedReveal, Verdict
from protocol.results.commitment import (
    ResultError,
    check_opening,
    check_opens,
    check_reveal,
    commit_of,
    opening_root,
)


def judge(
    domain: Domain, papers: Papers, commit: SignedCommit, signed: SignedReveal, opening: Opening
) -> Observation | FalseReveal:
    """The value of a lane whose commit is opened, or the proof that its miner opened it falsely. Raises ResultError,
    SignatureError for what shows neither.

    Only the reveal is signed by the miner, so only that can speak against it: with another opening beside it anybody
    could. Spec: [OBSERVE-OK.1] [OBSERVE-MISMATCH.1]
    """
    reveal = signed.reveal
    if place_of(commit.commit) != place_of(reveal):
        raise ResultError("reveal", "it is of another lane, miner or generation than the commit that counts")
    if commit_of(domain, reveal) != commit.commit:
        check_reveal(domain, signed)
        return FalseReveal(commit, signed)
    check_opens(domain, commit.commit, reveal, opening)
    _check_papers(domain, papers, opening)
    return Observation(reveal.session, reveal.task, reveal.lane, Verdict.OK, reveal.root, reveal.count)


def check_later(domain: Domain, papers: Papers, value: Observation, commit: Commit, opening: Opening) -> None:
    """Whether an opening leads to the value that a lane has. Raises ResultError, SignatureError."""
    last = opening.segments[-1]
    if (opening.lane, last.generation, last.miner) != (commit.lane, commit.generation, commit.miner):
        raise ResultError("opening", "it is another lane's")
    if (opening_root(domain, opening), opening.count) != (value.root, value.count):
        raise ResultError("opening", "it leads to another result than the lane's")
    _check_papers(domain, papers, opening)


def _check_papers(domain: Domain, papers: Papers, opening: Opening) -> None:
    session = papers.session.opening
    if opening.order != papers.order or opening.model != session.model:
        raise ResultError("opening", "it is of another order or model than the papers")
    check_opening(domain, session.client, opening)


def acked(opening: Opening) -> int:
    """Tokens that the client has acknowledged in all segments."""
    return sum(segment.ack.index - segment.start_index for segment in opening.segments if segment.ack is not None)


def place_of(of: Commit | Reveal) -> tuple[bytes, int, int, bytes, bytes]:
    """What a commit and its reveal have in common."""
    return of.session, of.task, of.lane, of.generation, of.miner
