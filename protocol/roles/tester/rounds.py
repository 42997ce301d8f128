"""One challenge as it is answered: answers one after the other, each to its end, against the clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.core.params import Params
from protocol.messages.audits import ANSWER_TOKENS_MAX, AnswerEnded, AnswerTokens, Challenge
from protocol.messages.tasks import EndReason
from protocol.results.audit import AnswerFault, tokens_per_second
from protocol.results.challenge import Question, is_complete, question


@dataclass(slots=True)
class Answer:
    """What came of one answer."""

    ids: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    reason: EndReason | None = None
    """Once it is complete."""


@dataclass(slots=True)
class Round:
    """One challenge and its answers."""

    challenge: Challenge
    signature: bytes
    given_ms: int | None = None
    """When it was first given: a miner that breaks off and comes back is none the faster for it."""
    first_ms: int | None = None
    ended_ms: int | None = None
    answers: list[Answer] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """All that came."""
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def first_token_ms(self) -> int:
        """From when it was given to the first token; 0 if none came."""
        return 0 if self.first_ms is None or self.given_ms is None else self.first_ms - self.given_ms

    def question(self, index: int) -> Question:
        """What answer ``index`` is to."""
        return question(self.signature, index)

    def take(self, message: AnswerTokens, now_ms: int) -> None:
        """The next tokens. Raises AnswerFault."""
        answer = self._present(message.answer)
        if len(message.ids) != len(message.texts) or len(answer.ids) + len(message.ids) > ANSWER_TOKENS_MAX:
            raise AnswerFault("tokens", "as many texts as tokens, and no more than asked for")
        self.first_ms = now_ms if self.first_ms is None else self.first_ms
        answer.ids += message.ids
        answer.texts += message.texts

    def end(self, message: AnswerEnded, params: Params, now_ms: int) -> bool:
        """An answer is complete; whether all that is asked was answered. Raises AnswerFault."""
        answer = self._present(message.answer)
        if not answer.ids or message.reason is EndReason.CANCELLED:
            raise AnswerFault("end", "an answer holds tokens, and ends by itself")
        answer.reason = message.reason
        if not is_complete(params.test_tokens, len(self.answers), self.tokens):
            return False
        self.ended_ms = now_ms
        return True

    def _present(self, index: int) -> Answer:
        """The answer that is being given."""
        if not self.answers or self.answers[-1].reason is not None:
            self.answers.append(Answer())
        if index != len(self.answers) - 1:
            raise AnswerFault("answer", f"number {index} comes out of turn")
        return self.answers[-1]


def speed_of(rounds: Sequence[Round]) -> int:
    """Tokens a second over all that were answered to the end; 0 if none was."""
    tokens = took_ms = 0
    for each in rounds:
        if each.given_ms is not None and each.ended_ms is not None:
            tokens, took_ms = tokens + each.tokens, took_ms + each.ended_ms - each.given_ms
    return tokens_per_second(tokens, took_ms) if tokens else 0
