"""One test of one miner: what is asked of it, what it answers, what the engine says of that, and the report.

A lane that the miner wrote is scored where it shows the transcript. A challenge is given where there is none, or where
the transcript leaves a doubt; a second one where the first does. Exact faults and margins fail a miner, a doubt alone
does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelNumbers, Close, Note, Open, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.light.handovers import HandOverStore
from protocol.messages.audits import (
    ANSWER_TOKENS_MAX,
    AnswerEnded,
    AnswerTokens,
    AuditRefused,
    Challenge,
    ChallengeGiven,
    ChallengeOffered,
    ChallengeReady,
    Transcript,
    TranscriptAsked,
)
from protocol.messages.handover import HandOversAsked
from protocol.messages.results import TestReport
from protocol.results.audit import (
    SIMILARITY_BP_MIN,
    AnswerFault,
    Finding,
    Marks,
    Said,
    check_answer,
    check_rendered,
    check_speed,
    check_transcript,
    judge,
    marks_of,
)
from protocol.results.challenge import sign_challenge
from protocol.roles.tester.events import Called, Compare, Compared, Score, Scored, ScoringFailed, Tested
from protocol.roles.tester.rounds import Round, speed_of
from protocol.session.sampling import lane_seed

ROUNDS_MAX = 2
RETRY_MS = 2_000


class Stage(Enum):
    """Where a test stands."""

    AWAY = "away"
    """No stream; it is opened again in a while."""
    TRANSCRIPT = "transcript"
    OFFERED = "offered"
    RUNNING = "running"
    SCORING = "scoring"
    OVER = "over"


@dataclass(slots=True)
class Desk:
    """What all tests of an oracle share."""

    me: NodeId
    domain: Domain
    params: Params
    sign: Sign
    numbers: ChannelNumbers
    take_number: Callable[[], int]
    """The next number of a question to an engine."""
    hand_overs: HandOverStore
    """What shows that this is an oracle, to a miner that has not heard of it."""
    oracles: int = 0
    """In the present committee."""

    def patience_ms(self) -> int:
        """How long a miner may take to begin: each oracle has a challenge, and it answers them one by one.

        Spec: [TEST-DEADLINE.1]
        """
        return self.oracles * self.params.test_deadline_ms


class Examination:
    """See the module. What it asks its machine for ends with one Tested, or with ``gave_up``."""

    def __init__(self, desk: Desk, called: Called, now_ms: int) -> None:
        self.called = called
        self.stage = Stage.AWAY
        self.channel: Channel | None = None
        self.number: int | None = None
        """Of the question that an engine has now."""
        self.due_ms = now_ms
        self.gave_up = False
        self._desk = desk
        self._until_ms = now_ms + desk.patience_ms()
        self._asks_transcript = called.lane is not None
        self._transcript: Transcript | None = None
        self._rounds: list[Round] = []
        self._to_score: list[int] = []
        self._marks = Marks()
        self._same_build = True
        self._miner_build = ""
        self._similarity_bp: int | None = None

    # The stream

    def expire(self, now_ms: int) -> list[object]:
        """``due_ms`` has come: open the stream, or what was awaited on it did not come."""
        match self.stage:
            case Stage.AWAY if now_ms < self._until_ms:
                return self._open(now_ms)
            case Stage.TRANSCRIPT:
                return self._without_transcript(now_ms)
            case Stage.SCORING | Stage.OVER:
                return []
        given = bool(self._rounds) and self._rounds[-1].given_ms is not None
        what = "it did not answer in time" if given else "it did not take the challenge"
        return self._fail(AnswerFault("deadline", what))

    def _open(self, now_ms: int) -> list[object]:
        self.channel = self._desk.numbers.take()
        opened: list[object] = [Open(self.channel, self.called.miner, "audit")]
        lane = self.called.lane
        if self._asks_transcript and lane is not None:
            self.stage = Stage.TRANSCRIPT
            self.due_ms = now_ms + self._desk.params.test_deadline_ms
            return [*opened, Send(self.channel, TranscriptAsked(lane.root))]
        if not self._rounds:
            self._new_round()
        self.stage = Stage.OFFERED
        self.due_ms = self._until_ms
        return [*opened, Send(self.channel, ChallengeOffered(self._rounds[-1].challenge))]

    def _new_round(self) -> None:
        called, desk = self.called, self._desk
        place = len(self._rounds)
        challenge = Challenge(called.miner, desk.me, called.model, called.test, place, called.seed)
        self._rounds.append(Round(challenge, sign_challenge(desk.domain, desk.sign, challenge)))

    def closed(self, now_ms: int) -> list[object]:
        """The stream is gone, or never came to be."""
        self.channel = None
        if self.stage is Stage.TRANSCRIPT:
            return self._without_transcript(now_ms)
        if self.stage in (Stage.OFFERED, Stage.RUNNING):
            self._leave(now_ms)
        return []

    def _leave(self, now_ms: int) -> None:
        """Come back later; what was answered so far must come again."""
        self.stage = Stage.AWAY
        given_ms = self._rounds[-1].given_ms
        if given_ms is not None:
            self._until_ms = min(self._until_ms, given_ms + self._desk.params.test_deadline_ms)
        self._rounds[-1].answers.clear()
        self.due_ms = min(now_ms + RETRY_MS, self._until_ms)

    def close(self) -> list[object]:
        """End the stream, if there is one."""
        channel, self.channel = self.channel, None
        return [] if channel is None else [Close(channel)]

    def received(self, message: Message, now_ms: int) -> list[object]:
        """A message of the miner's."""
        try:
            return self._received(message, now_ms)
        except RemoteProtocolError as error:
            return self._fail(error)

    def _received(self, message: Message, now_ms: int) -> list[object]:
        match self.stage, message:
            case _, HandOversAsked() if self.channel is not None:
                return [Send(self.channel, self._desk.hand_overs.page(message.first))]
            case Stage.TRANSCRIPT, Transcript():
                return [*self.close(), *self._read(message, now_ms)]
            case Stage.TRANSCRIPT, AuditRefused():
                return self._without_transcript(now_ms)
            case Stage.OFFERED, ChallengeReady():
                return self._give(message, now_ms)
            case Stage.OFFERED | Stage.RUNNING, AuditRefused():
                self._leave(now_ms)
                return [*self.close(), Note("tester.refused", (*self._fields(), ("code", message.code)))]
            case Stage.RUNNING, AnswerTokens():
                self._rounds[-1].take(message, now_ms)
                return []
            case Stage.RUNNING, AnswerEnded():
                return self._end(message, now_ms)
        raise RemoteProtocolError(f"{type(message).__name__} has no place here")

    # A challenge

    def _give(self, ready: ChallengeReady, now_ms: int) -> list[object]:
        round_ = self._rounds[-1]
        self._miner_build = ready.build
        round_.given_ms = now_ms if round_.given_ms is None else round_.given_ms
        self.stage = Stage.RUNNING
        self.due_ms = round_.given_ms + self._desk.params.test_deadline_ms
        assert self.channel is not None
        return [Send(self.channel, ChallengeGiven(round_.challenge, round_.signature))]

    def _end(self, message: AnswerEnded, now_ms: int) -> list[object]:
        round_ = self._rounds[-1]
        if not round_.end(message, self._desk.params, now_ms):
            return []
        check_speed(self.called.tokens_per_second, speed_of(self._rounds))
        self.stage = Stage.SCORING
        self._to_score = list(range(len(round_.answers)))
        return [*self.close(), *self._next_question(now_ms)]

    def _next_question(self, now_ms: int) -> list[object]:
        """Ask the engine about the next answer, or decide."""
        if not self._to_score and self._similarity_bp is not None:
            return self._decide(now_ms)
        index = self._to_score[0] if self._to_score else 0
        asked, answer = self._rounds[-1].question(index), self._rounds[-1].answers[index]
        self.number = self._desk.take_number()
        asking = (self.number, self.called.model, asked.messages, asked.sampling, asked.lane_seed)
        if self._to_score:
            return [Score(*asking, tuple(answer.ids), tuple(answer.texts), 0, len(answer.ids))]
        return [Compare(*asking, asked.max_tokens, b"".join(answer.texts).decode(errors="replace"))]

    # A transcript

    def _read(self, transcript: Transcript, now_ms: int) -> list[object]:
        lane, called = self.called.lane, self.called
        assert lane is not None
        start = check_transcript(self._desk.domain, lane.root, called.miner, transcript)
        self._miner_build = transcript.build
        own = len(transcript.ids) - start
        if own <= 0:
            return self._without_transcript(now_ms)
        size = min(own, self._desk.params.test_tokens)
        start += int.from_bytes(called.seed[:8], "big") % (own - size + 1)
        self._transcript = transcript
        self.stage = Stage.SCORING
        self.number = self._desk.take_number()
        sampling, seed = transcript.prompt.sampling, transcript.order.seed
        noise = lane_seed(seed, sampling.choice, lane.lane)
        asking = (self.number, called.model, transcript.prompt.messages, sampling, noise)
        tools = transcript.prompt.tools
        return [Score(*asking, transcript.ids, transcript.texts, start, start + size, tools)]

    def _without_transcript(self, now_ms: int) -> list[object]:
        """A challenge stands in. Spec: [TEST-TRANSCRIPT.1]"""
        self._asks_transcript = False
        self._transcript = None
        self._marks = Marks()
        self.stage = Stage.AWAY
        self._until_ms = now_ms + self._desk.patience_ms()
        self.due_ms = now_ms
        return [*self.close(), *self._open(now_ms)]

    def _judge_transcript(self, now_ms: int) -> list[object]:
        finding = judge(self._marks, same_build=self._same_build)
        if finding is Finding.DOUBTFUL:
            note = Note("tester.doubt", (*self._fields(), *_shown(self._marks)))
            return [note, *self._without_transcript(now_ms)]
        return self._conclude(finding)

    # What the engine says

    def scored(self, event: Scored, now_ms: int) -> list[object]:
        """An answer was scored."""
        self.number = None
        said = Said(event.text, event.ends)
        self._same_build = bool(event.build) and event.build == self._miner_build
        self._marks += marks_of(self._desk.params, event.margins_milli)
        try:
            if self._transcript is not None:
                order, end, sampling = self._transcript.order, self._transcript.end, self._transcript.prompt.sampling
                check_answer(self._transcript.texts, end.reason, order.max_tokens, said, sampling.stop)
                check_rendered(self._transcript, event.prompt_tokens)
                return self._judge_transcript(now_ms)
            answer = self._rounds[-1].answers[self._to_score.pop(0)]
            assert answer.reason is not None
            check_answer(answer.texts, answer.reason, ANSWER_TOKENS_MAX, said)
        except RemoteProtocolError as error:
            return self._fail(error)
        return self._next_question(now_ms)

    def compared(self, event: Compared, now_ms: int) -> list[object]:
        """The weakest check is done."""
        self.number = None
        self._similarity_bp = event.similarity_bp
        return self._next_question(now_ms)

    def failed(self, event: ScoringFailed, now_ms: int) -> list[object]:
        """The engine says nothing of an answer: the miner's fault, or a reason to say nothing of it either."""
        self.number = None
        if event.blames_miner:
            return self._fail(AnswerFault("tokens", event.detail))
        if self._transcript is not None:
            return self._without_transcript(now_ms)
        self.gave_up = True
        self.stage = Stage.OVER
        return [*self.close(), Note("tester.gave-up", (*self._fields(), ("why", event.detail)))]

    # The report

    def _decide(self, now_ms: int) -> list[object]:
        finding = judge(self._marks, same_build=self._same_build)
        doubtful = finding is Finding.DOUBTFUL or (self._similarity_bp or 0) < SIMILARITY_BP_MIN
        if finding is not Finding.FAILED and doubtful and len(self._rounds) < ROUNDS_MAX:
            similarity = ("similarity_bp", self._similarity_bp or 0)
            self._new_round()
            self.stage = Stage.AWAY
            self._until_ms = now_ms + self._desk.patience_ms()
            self.due_ms = now_ms
            return [Note("tester.doubt", (*self._fields(), *_shown(self._marks), similarity))]
        return self._conclude(finding)

    def _conclude(self, finding: Finding) -> list[object]:
        marks = self._marks
        if finding is Finding.FAILED:
            what = f"{marks.bad} of {marks.tokens} tokens are not the model's, {marks.different} differ"
            return self._fail(AnswerFault("margins", what))
        return self._over(True, f"{finding.value}: {marks.different} of {marks.tokens} tokens differ, {marks.bad} bad")

    def _fail(self, error: RemoteProtocolError) -> list[object]:
        return self._over(False, str(error))

    def _over(self, passed: bool, why: str) -> list[object]:
        self.stage = Stage.OVER
        self.number = None
        first_token_ms = self._rounds[0].first_token_ms if self._rounds else 0
        report = TestReport(self.called.miner, self.called.test, passed, speed_of(self._rounds), first_token_ms)
        return [*self.close(), Tested(report, why)]

    def _fields(self) -> tuple[tuple[str, str | int], ...]:
        return ("miner", self.called.miner.hex()), ("test", self.called.test)


def _shown(marks: Marks) -> tuple[tuple[str, str | int], ...]:
    return ("tokens", marks.tokens), ("different", marks.different), ("bad", marks.bad)
