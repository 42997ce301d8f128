"""A client driven by hand with a stream of its own to the miner."""

from typing import Any

import msgspec

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import Channel, ChannelClosed, Open
from protocol.messages.tasks import (
    DirectReady,
    EndReason,
    EndRecord,
    FrameMessage,
    SegmentStart,
    SubmitTask,
    TaskOrder,
)
from protocol.roles.client import CloseAsked
from protocol.session.transcript import SegmentWriter, check_resume
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    DOMAIN,
    MINERS,
    PROMPT_TOKENS,
    head_of,
    id_of,
    of,
    sent,
)
from tests.unit.protocol.test_machine_client_takeover import generation_of, ready_of

CONTENT = [(index, b"%d " % index) for index in range(400)]
TASK = 3
ADDRESSES = ("/memory/7",)


class Straight(Client):
    """A client with a stream to its miner, and an order under way on it."""

    def __init__(self, *, ready: bool = True, ask: bool = True, addresses: tuple[str, ...] = ADDRESSES) -> None:
        super().__init__()
        self.says(HELLO)
        self.opening = self.open(direct=True)
        self.number, self.index, self.chain = 1, 0, ZERO_DIGEST
        self.direct: Channel | None = None
        self.writers: dict[int, SegmentWriter] = {}
        self.orders: dict[int, TaskOrder] = {}
        self.miner = MINERS[0]
        self.attached = self.assign(MINERS[0], addresses=addresses)
        if ready and addresses:
            self.tells(DirectReady(id_of(self.opening)))
        if ask:
            self.asked = self.ask_for()

    def assign(self, miner: Key, addresses: tuple[str, ...] = ADDRESSES, number: int | None = None) -> list[object]:
        """The router names a miner and where to dial it."""
        self.number, self.miner = number or self.number, miner
        ready = msgspec.structs.replace(ready_of(self.opening, self.number, miner), addresses=addresses)
        effects = self.says(ready)
        for stream in [stream for stream in of(effects, Open) if stream.protocol == "task"]:
            self.direct = stream.channel
        return effects

    def take_over(self, miner: Key, handle: int = TASK) -> list[object]:
        """Another miner has the lane."""
        effects = self.assign(miner, number=self.number + 1)
        self.begin(handle)
        return effects

    def ask_for(self, handle: int = TASK) -> list[object]:
        effects = self.ask(handle)
        self.orders[handle] = self.order(effects)
        self.begin(handle)
        return effects

    def begin(self, handle: int = TASK) -> None:
        """The segment that the present miner writes, from where the client stands."""
        task = self.task(handle)
        chain = task.verifier.chain if task.verifier.index else ZERO_DIGEST
        head = head_of(
            self.orders[handle],
            generation_of(self.number),
            miner=self.miner.node,
            start_index=task.verifier.index,
            previous_head=chain,
        )
        self.writers[handle] = SegmentWriter(DOMAIN, self.miner.sign, head)

    def task(self, handle: int = TASK) -> Any:
        return self.machine._held.tasks[handle]

    def head(self, handle: int = TASK) -> SegmentStart:
        return SegmentStart(self.writers[handle].head)

    def frame(self, count: int, handle: int = TASK, reason: EndReason | None = None) -> FrameMessage:
        """The miner's next frame."""
        writer = self.writers[handle]
        part = CONTENT[writer.index : writer.index + count]
        end = EndRecord(reason, len(PROMPT_TOKENS), writer.index + len(part), 0) if reason is not None else None
        return writer.frame([token for token, _ in part], [text for _, text in part], end)

    def tells(self, *messages: Message) -> list[object]:
        """The miner says something, on the client's own stream."""
        assert self.direct is not None
        return [effect for message in messages for effect in self.receive(self.direct, message)]

    def lose(self) -> list[object]:
        assert self.direct is not None
        return self.tell(ChannelClosed(self.direct, "reset"))

    def again(self, effects: list[object]) -> SubmitTask:
        """The order as it was sent again."""
        (submit,) = [message for message in sent(effects, self.channel) if isinstance(message, SubmitTask)]
        assert not submit.direct
        assert submit.order == self.orders[TASK]
        if submit.resume is not None:
            assert check_resume(DOMAIN, submit.order, 0, submit.resume) == self.task().verifier.chain
            assert b"".join(submit.resume.texts) == self.text(TASK)
        return submit

    def shown(self, count: int, handle: int = TASK) -> bool:
        return self.text(handle) == b"".join(text for _, text in CONTENT[:count])

    def empty(self) -> None:
        """The session is closed; nothing of it is left."""
        self.tell(CloseAsked(SESSION_HANDLE))
        held = self.machine._held
        tables = (held.direct, held.sessions, held.tasks, held.deadlines, *(r.sessions for r in held.routers.values()))
        assert [len(table) for table in tables] == [0] * len(tables)
