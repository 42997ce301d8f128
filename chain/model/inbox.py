"""The inbox of the model: questions asked on chain, answered by a router, paid for once the answer's lane is proved."""

from dataclasses import dataclass, field, replace
from enum import IntEnum

from chain.api import ANSWER_BYTES_MAX, QUESTION_BYTES_MAX, Answer, AnswerProof, AnswerProved, InboxService, Question
from chain.model.calls import Call, require
from chain.model.checkpoints import ModelCheckpoints
from chain.model.terms import Terms
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import typed_digest
from protocol.messages.committee import header_digest
from protocol.messages.results import Verdict
from protocol.results.mountain import outcome_leaf, verify_proof

DEADLINE_MAX_S = 30 * 86_400


class State(IntEnum):
    """How far a question is."""

    NONE = 0
    ASKED = 1
    ANSWERED = 2
    PROVED = 3
    RECLAIMED = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the lane of its answer once there is one."""

    question: Question
    state: State = State.ASKED
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A router takes questions, or no more."""

    router: NodeId
    service: InboxService


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """A fee went back to its asker."""

    number: int
    asker: NodeId
    fee: int


@dataclass(slots=True)
class ModelInbox:
    """See the module."""

    terms: Terms
    checkpoints: ModelCheckpoints
    services: dict[NodeId, InboxService] = field(default_factory=dict)
    questions: list[Asked] = field(default_factory=list)
    """By number, from 1 on."""

    def copy(self, checkpoints: ModelCheckpoints) -> "ModelInbox":
        """One that changes by itself, beside checkpoints."""
        return replace(self, checkpoints=checkpoints, services=dict(self.services), questions=list(self.questions))

    def serve(self, call: Call, service: InboxService) -> None:
        """A router says to which key questions are sealed (zero: it takes none), and what one costs at least."""
        self.services[call.sender] = service
        call.emit("inbox", Served(call.sender, service))

    def ask(self, call: Call, question: Question) -> int:
        """Ask a router, and leave its fee. Number, asker and fee are those of the call."""
        service = self.services.get(question.router)
        require(len(question.sealed) <= QUESTION_BYTES_MAX, "")
        require(service is not None and any(service.key), "no such router")
        require(service is not None and call.value >= service.fee_min, "fee")
        require(any(question.prompt), "prompt")
        require(any(question.reply_key), "reply key")
        require(question.sealed, "empty")
        require(call.time_s < question.deadline_s <= call.time_s + DEADLINE_MAX_S, "deadline")
        number = len(self.questions) + 1
        asked = replace(question, number=number, asker=call.sender, fee=call.value, answered=False)
        self.questions.append(Asked(asked))
        call.emit("inbox", asked)
        return number

    def answer(self, call: Call, answer: Answer) -> None:
        """The router's one answer."""
        require(len(answer.sealed) <= ANSWER_BYTES_MAX, "")
        asked = self._asked(answer.number)
        require(asked is not None and asked.state is State.ASKED, "not open")
        assert asked is not None
        require(call.sender == asked.question.router, "router")
        require(call.time_s <= asked.question.deadline_s, "late")
        require(answer.sealed, "empty")
        self.questions[answer.number - 1] = replace(asked, state=State.ANSWERED, answer=answer)
        call.emit("inbox", answer)

    def prove(self, call: Call, shown: AnswerProof) -> None:
        """Show that a usable header's results hold the answer's lane, done as asked: the router is paid."""
        asked, header, proof = self._asked(shown.number), shown.header, shown.proof
        require(asked is not None and asked.state is State.ANSWERED, "not answered")
        assert asked is not None
        self._check_lane(asked, shown)
        require(self.checkpoints.usable(call, header_digest(self.terms.domain, header)), "not usable")
        leaf = outcome_leaf(shown.outcome)
        require(proof.count == header.results_count and verify_proof(header.results_root, leaf, proof), "proof")
        self.questions[shown.number - 1] = replace(asked, state=State.PROVED)
        asked_of = asked.question
        root = Digest(shown.outcome.root)
        call.emit("inbox", AnswerProved(shown.number, asked_of.router, asked_of.fee, root))
        call.pay(self.terms.addresses.inbox, asked_of.router, asked_of.fee)

    def reclaim(self, call: Call, number: int) -> None:
        """Give a fee back to its asker, if nobody answered in time, or proved the answer in time."""
        asked = self._asked(number)
        answered = asked is not None and asked.state is State.ANSWERED
        require(asked is not None and (answered or asked.state is State.ASKED), "not open")
        assert asked is not None
        until_s = asked.question.deadline_s + (self.terms.proving_s if answered else 0)
        require(call.time_s > until_s, "too soon")
        self.questions[number - 1] = replace(asked, state=State.RECLAIMED)
        call.emit("inbox", Reclaimed(number, asked.question.asker, asked.question.fee))
        call.pay(self.terms.addresses.inbox, asked.question.asker, asked.question.fee)

    # How

    def _asked(self, number: int) -> Asked | None:
        return self.questions[number - 1] if 0 < number <= len(self.questions) else None

    def _check_lane(self, asked: Asked, shown: AnswerProof) -> None:
        question, answer, domain = asked.question, asked.answer, self.terms.domain
        outcome, order, result = shown.outcome, shown.order, shown.result
        assert answer is not None
        require(outcome.verdict == Verdict.OK, "verdict")
        lane = (answer.session, answer.task, answer.lane)
        require((outcome.session, outcome.task, outcome.lane) == lane, "lane")
        require((order.session, order.task) == (answer.session, answer.task), "order")
        require(order.prompt == question.prompt, "prompt")
        require(result.order == typed_digest(domain, order), "order")
        require(outcome.root == typed_digest(domain, result), "result")
        require(question.model == ZERO_DIGEST or result.model == question.model, "model")
