"""A router driven by hand past which orders are streamed, and the client that says how far it came."""

from typing import Any

import msgspec

from protocol.core.codec import Message
from protocol.messages.tasks import (
    Continuation,
    EndReason,
    EndRecord,
    FrameMessage,
    LaneEnded,
    RelayTask,
    SegmentStart,
    StartTask,
    SubmitTask,
    TaskFailed,
)
from protocol.roles.router.rounds import WAKE_MS
from protocol.session.transcript import LaneVerifier, SegmentWriter, close_chain, expect_segment
from tests.unit.protocol.failover_at_hand import TOTAL, Story, answer_to
from tests.unit.protocol.machines import (
    DOMAIN,
    MODEL,
    PROMPT_TOKENS,
    head_of,
    id_of,
    order_of,
    sent,
    submit_of,
)


class Past(Story):
    """A session whose orders are streamed past the router, to a client that says how far it came."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.submits: dict[int, SubmitTask] = {}
        self.begun: dict[int, StartTask] = {}

    def did(self, effects: list[object]) -> list[object]:
        done = super().did(effects)
        for start in [message for message in sent(effects) if isinstance(message, StartTask)]:
            self.begun[start.order.task] = start
        return done

    def order_directly(self, task: int = 1, **fields: Any) -> list[object]:
        submit = msgspec.structs.replace(submit_of(self.opening, task, **fields), direct=True)
        self.submits[task] = submit
        return self.did(self.route.receive(self.client, submit))

    def streamed(self, task: int = 1) -> list[Message]:
        """All that the leased miner streams for it, to whomever."""
        assert self.lease is not None
        return answer_to(self.begun[task], self.lease[1])

    def resume(self, got: int, task: int = 1, **fields: Any) -> Continuation | None:
        """What a client has that verified so many messages of the stream."""
        messages = self.streamed(task)[:got]
        frames = [message for message in messages if isinstance(message, FrameMessage)]
        if not frames:
            return None
        ids = tuple(token for frame in frames for token in frame.ids)
        texts = tuple(text for frame in frames for text in frame.texts)
        head = messages[0]
        assert isinstance(head, SegmentStart)
        return msgspec.structs.replace(Continuation((head.head,), ids, texts), **fields)

    def fall_back(self, got: int, task: int = 1, resume: Continuation | None = None) -> list[object]:
        """The client orders the rest by relay."""
        assert self.lease is not None
        resume = resume or self.resume(got, task)
        reader = self.read_by(task)
        if resume is not None:
            self.text += b"".join(resume.texts)
            reader.adopt(reader._expected, resume)
        submit = msgspec.structs.replace(self.submits[task], direct=False, resume=resume)
        return self.did(self.route.receive(self.client, submit))

    def read_by(self, task: int) -> LaneVerifier:
        """A reader of what the present miner, or the last one, relays."""
        assert self.lease is not None
        lease, order = self.session.lease, order_of(self.opening, task)
        generation = lease.generation if lease is not None else self.begun[task].assignment.generations[0]
        miner = lease.miner if lease is not None else self.lease[1].node
        self.readers[task] = LaneVerifier(DOMAIN, expect_segment(DOMAIN, order, 0, generation, miner, MODEL))
        return self.readers[task]

    def replace_quietly(self) -> list[object]:
        """Another miner is leased; what it is handed is seen in the effects."""
        if self.asked is None:
            self.wait(WAKE_MS)
            self.bid()
        return self.grant()

    def ended(self, task: int = 1, reason: EndReason = EndReason.STOP, **fields: Any) -> LaneEnded:
        """The miner's report."""
        assert self.lease is not None
        start, (_, miner) = self.begun[task], self.lease
        head = head_of(start.order, start.assignment.generations[0], miner=miner.node)
        writer = SegmentWriter(DOMAIN, miner.sign, head)
        content = [(100 + index, b"x") for index in range(TOTAL)]
        end = EndRecord(reason, len(PROMPT_TOKENS), TOTAL, 0)
        frame = writer.frame([token for token, _ in content], [text for _, text in content], end)
        made = LaneEnded(head, end, close_chain(writer.chain, end), frame.signature)
        return msgspec.structs.replace(made, **fields)

    @property
    def session(self) -> Any:
        return self.route.machine._sessions[id_of(self.opening)]

    def measured(self) -> tuple[int, int]:
        assert self.lease is not None
        seen = self.route.machine._measured.of(self.lease[1].node)
        return seen.tasks, seen.success_bp


def failed_of(story: Story, code: str = "engine_failed") -> TaskFailed:
    return TaskFailed(id_of(story.opening), 1, code, "", 0)


def relay_of(effects: list[object]) -> RelayTask:
    (message,) = sent(effects)
    assert isinstance(message, RelayTask)
    return message
