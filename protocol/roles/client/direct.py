"""Frames straight from the miner, where it can be dialed: the router is asked only when something goes wrong."""

from dataclasses import dataclass

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError, TranscriptError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Close, Learn, Open, Send
from protocol.messages.sessions import SessionReady
from protocol.messages.tasks import AttachDirect, DirectReady, FrameMessage, SegmentStart
from protocol.roles.client.state import Direct, Held, Session, Task
from protocol.roles.client.tasks import Tasks


@dataclass(frozen=True, slots=True)
class DirectStreams:
    """The rules of the client's own streams, over what the machine holds."""

    held: Held
    tasks: Tasks

    def attach(self, session: Session, ready: SessionReady) -> list[object]:
        """Lane 0 has a new lease: show its miner the assignment, which is the token for it. Spec: [DIRECT-TOKEN.1]"""
        effects = self.close(session)
        if not session.wants_direct or not ready.addresses:
            return effects
        channel, miner = self.held.numbers.take(), NodeId(ready.assignment.miners[0])
        session.direct = Direct(channel)
        self.held.direct[channel] = session
        token = AttachDirect(ready.assignment, ready.signature)
        return [*effects, Learn(miner, ready.addresses), Open(channel, miner, "task"), Send(channel, token)]

    def close(self, session: Session) -> list[object]:
        """The stream is of no use any more."""
        direct, session.direct = session.direct, None
        if direct is None:
            return []
        self.held.direct.pop(direct.channel, None)
        return [Close(direct.channel)]

    def received(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        """The miner says something. A stream that breaks a rule is closed, and the router is asked to go on."""
        session = self.held.direct[channel]
        assert session.direct is not None
        try:
            match message:
                case DirectReady() if message.session == session.id:
                    session.direct.ready = True
                    return []
                case SegmentStart():
                    task = self._of(session, message.head.task)
                    return self.tasks.head(task, message) if task is not None else []
                case FrameMessage():
                    task = self._of(session, message.task)
                    return self.tasks.frame(task, message, channel, now_ms) if task is not None else []
            raise RemoteProtocolError(f"{type(message).__name__} is out of place")
        except TranscriptError:
            # What broke was not taken: the router's miners go on from what held.
            return self.lost(session, now_ms, broken=True)
        except RemoteProtocolError:
            return self.lost(session, now_ms)

    @staticmethod
    def _of(session: Session, number: int) -> Task | None:
        task = session.tasks.get(number)
        return task if task is not None and task.direct else None

    def stalled(self, task: Task, now_ms: int) -> list[object]:
        """Nothing came for too long, unless the order was waiting its turn: who is to blame the router finds out."""
        if any(number < task.order.task for number in task.session.tasks):
            self.tasks.await_direct(task, now_ms)
            return []
        return self.lost(task.session, now_ms)

    def lost(self, session: Session, now_ms: int, *, broken: bool = False) -> list[object]:
        """The stream is gone: what is under way comes through the router. Spec: [DIRECT-FALLBACK.1]"""
        effects = self.close(session)
        for task in list(session.tasks.values()):
            if task.direct:
                if broken:
                    task.verifier.mend()
                effects += self.tasks.relay(task, now_ms)
        return effects
