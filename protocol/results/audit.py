"""What a checker makes of an answer that it holds whole: exact checks, margins of the tokens, speed, and the weakest.

In the order of what they are worth:

1. *Exact*: the transcript is what the lane's result root binds; the tokens say the text; the answer ends where an
   honest one ends. One fault is enough.
2. *Margins*: the checker runs the same file over the claimed tokens and says of each what it lacks to be the one that
   the lane's noise would have chosen (``session.sampling.margin``). Honest tokens lack nothing on the same build, and
   next to nothing on another; those of another model or quantisation often lack a lot. A matter of statistics.
3. *Speed*, against what the miner claims.
4. *Embedding distance* between the answer and the checker's own. The weakest by far: it sees neither quantisation nor
   copying nor a fluent smaller model. It never fails anybody; it only asks for a second look.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest
from protocol.messages.audits import Transcript
from protocol.messages.tasks import Continuation, EndReason
from protocol.results.commitment import chain_heads, result_root
from protocol.session.transcript import check_resume, close_chain, prompt_tokens_digest, segment_id

MARGIN_MILLI_MAX = 1_000_000
"""Stands for every margin beyond it, infinite ones included."""
EXCESS_MILLI_MAX = 1_000
"""A single token counts for no more than a logit: one odd token convicts nobody."""
EXCESS_MILLI_PER_TOKEN = 10
"""Mean excess of a challenge's tokens at which its miner failed. Measured with the questions of ``results.challenge``
on the shipped model: honest miners stay below 0.5 whatever build they run, Q4_0 in place of Q8_0 has 70."""
BAD_TOKENS_MIN = 2
SPEED_BP_MIN = 5_000
"""Of the tokens a second that a miner claims: what it must reach while it is tested."""
SIMILARITY_BP_MIN = 8_500
"""Cosine of two embeddings below which an answer is looked at twice."""


class AnswerFault(RemoteProtocolError):
    """An answer that no honest miner gives; ``link`` names the check."""

    code = "remote/answer"

    def __init__(self, link: str, message: str) -> None:
        super().__init__(f"{link}: {message}")
        self.link = link


class Finding(Enum):
    """What the margins of an answer's tokens say of its miner."""

    HONEST = "honest"
    DOUBTFUL = "doubtful"
    """Not what is expected of an honest miner, and not enough to fail it: look again."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Marks:
    """The margins of some tokens, summed up."""

    tokens: int = 0
    different: int = 0
    """Tokens that the checker would not have drawn."""
    bad: int = 0
    """Tokens whose margin is above the tolerance."""
    excess_milli: int = 0
    """The margins' sum, each at most a logit."""

    def __add__(self, other: "Marks") -> "Marks":
        return Marks(
            self.tokens + other.tokens,
            self.different + other.different,
            self.bad + other.bad,
            self.excess_milli + other.excess_milli,
        )


def margin_milli(margin: float) -> int:
    """A margin in thousandths of a logit, rounded up: 0 only for a token that the checker would have drawn."""
    return MARGIN_MILLI_MAX if margin * 1_000 >= MARGIN_MILLI_MAX else math.ceil(margin * 1_000)


def marks_of(params: Params, margins_milli: Iterable[int]) -> Marks:
    """Sum margins up. Spec: [TEST-MARGINS.1]"""
    margins = list(margins_milli)
    return Marks(
        tokens=len(margins),
        different=sum(margin > 0 for margin in margins),
        bad=sum(margin > params.margin_tolerance_milli for margin in margins),
        excess_milli=sum(min(margin, EXCESS_MILLI_MAX) for margin in margins),
    )


def judge(marks: Marks, *, same_build: bool) -> Finding:
    """What margins say. ``same_build``: checker and miner run one build, where honest tokens lack nothing at all.

    Spec: [TEST-MARGINS.1]
    """
    if marks.bad >= BAD_TOKENS_MIN and marks.excess_milli >= EXCESS_MILLI_PER_TOKEN * marks.tokens:
        return Finding.FAILED
    if marks.bad or (same_build and marks.different):
        return Finding.DOUBTFUL
    return Finding.HONEST


# Exact checks


@dataclass(frozen=True, slots=True)
class Said:
    """What the checker's engine says of an answer's tokens."""

    text: bytes
    """All tokens as text."""
    ends: bool
    """Whether nothing follows the last one: it is an end token, or completes a stop sequence."""


def check_answer(
    texts: Sequence[bytes], reason: EndReason, max_tokens: int, said: Said, stops: Sequence[bytes] = ()
) -> None:
    """Whether the tokens say the text, and the answer ends where one does. Raises AnswerFault. Spec: [TEST-EXACT.1]"""
    shown = b"".join(texts)
    if reason is EndReason.CANCELLED:
        if not said.text.startswith(shown):
            raise AnswerFault("text", "it is not what the tokens say")
        return
    if shown != before_stop(said.text, stops):
        raise AnswerFault("text", "it is not what the tokens say")
    if reason is EndReason.STOP and not said.ends:
        raise AnswerFault("end", f"nothing ends it after {len(texts)} tokens")
    if reason is EndReason.LENGTH and len(texts) != max_tokens:
        raise AnswerFault("end", f"{len(texts)} tokens, the limit is {max_tokens}")


def before_stop(text: bytes, stops: Sequence[bytes]) -> bytes:
    """What is shown of a text: all before the stop sequence that is complete first."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else text


def transcript_root(domain: Domain, transcript: Transcript) -> Digest:
    """The result root that binds a transcript. Raises AnswerFault, TranscriptError for one that none binds."""
    order, prompt, heads = transcript.order, transcript.prompt, transcript.heads
    if (order.prompt, order.sampling) != (prompt.commitment(), prompt.sampling.digest()):
        raise AnswerFault("prompt", "the order commits to another one")
    if len(transcript.ids) != len(transcript.texts):
        raise AnswerFault("tokens", "as many texts as tokens")
    chain = close_chain(_chain(domain, transcript), transcript.end)
    segments = chain_heads(ZERO_DIGEST, (typed_digest(domain, head) for head in heads))
    return result_root(domain, order, heads[-1].model, segments, chain, len(transcript.ids))


def check_transcript(domain: Domain, root: bytes, miner: bytes, transcript: Transcript) -> int:
    """Whether a transcript is what a result root binds, to its last byte. Raises AnswerFault, TranscriptError.

    Returns the index of the first token that ``miner`` itself wrote. Spec: [TEST-TRANSCRIPT.1]
    """
    if transcript_root(domain, transcript) != root:
        raise AnswerFault("root", "the committee certified another result")
    last = transcript.heads[-1]
    if last.miner != miner:
        raise AnswerFault("head.miner", "another miner wrote its end")
    return last.start_index


def _chain(domain: Domain, transcript: Transcript) -> Digest:
    """The chain value after the last token; the last segment may hold none."""
    heads, ids, texts = transcript.heads, transcript.ids, transcript.texts
    last = heads[-1]
    empty = last.start_index == len(ids)
    held = heads[:-1] if empty else heads
    if bool(held) != bool(ids):
        raise AnswerFault("head", "each segment but the last holds tokens, and each token is in one")
    chain = ZERO_DIGEST
    if held:
        chain = check_resume(domain, transcript.order, last.lane, Continuation(held, ids, texts))
    if empty:
        if last.previous_head != chain:
            raise AnswerFault("head.previous_head", "the last segment names another chain before it")
        chain = segment_id(domain, last)
    return chain


def check_rendered(transcript: Transcript, prompt_tokens: Sequence[int]) -> None:
    """Whether the miner ran the prompt as the model's template renders it. Raises AnswerFault. Spec: [TEST-EXACT.1]"""
    digest = prompt_tokens_digest(transcript.prompt.nonce, prompt_tokens)
    last = transcript.heads[-1]
    if (last.prompt_tokens, last.prompt_token_count) != (digest, len(prompt_tokens)):
        raise AnswerFault("head.prompt_tokens", "the prompt renders to others")


# Speed and distance


def tokens_per_second(tokens: int, took_ms: int) -> int:
    """Of a whole challenge, from the moment it was given: what was made in advance gains nothing."""
    return tokens * 1_000 // max(1, took_ms)


def check_speed(claimed: int, measured: int) -> None:
    """Whether a miner is as fast as it says, both in tokens a second; 0 claims nothing. Raises AnswerFault.

    Spec: [TEST-SPEED.1]
    """
    if measured * 10_000 < claimed * SPEED_BP_MIN:
        raise AnswerFault("speed", f"{measured} tokens a second, it claims {claimed}")


def similarity_bp(one: Sequence[float], other: Sequence[float]) -> int:
    """The cosine of two embeddings in basis points, 0 where it is negative or there is none. The weakest of all checks.

    Spec: [TEST-EMBEDDING.1]
    """
    if len(one) != len(other):
        return 0
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    cosine = float(first @ second) / length if length > 0 else 0.0
    return round(10_000 * min(1.0, max(0.0, cosine))) if math.isfinite(cosine) else 0
