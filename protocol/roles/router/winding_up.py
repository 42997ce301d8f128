"""A router that is being stopped: it takes on nothing new, lets answers end, and hands sessions on to other routers.

Whoever serves a session after it goes on where it stopped; a session that named no other router waits a while for this
one to be back.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.core.ids import SessionId
from protocol.core.machine import Send
from protocol.messages.sessions import SessionEnded
from protocol.messages.tasks import FrameMessage, SubmitTask, TaskFailed
from protocol.roles.router.admission import RETRY_AFTER_MS, Refusal
from protocol.roles.router.state import Session
from protocol.session.queue import FairQueue

REFUSAL: Refusal = ("shutting_down", "the router is being stopped", RETRY_AFTER_MS)

End = Callable[[Session, str, str, int], list[object]]
"""Ends a session without a word to its client."""


@dataclass(slots=True)
class WindingUp:
    """The rules of it, over sessions that the machine owns."""

    sessions: dict[SessionId, Session]
    queue: FairQueue
    embeds: Callable[[Session], bool]
    """Whether vectors are awaited."""
    end: End
    begun: bool = False

    def refusal(self) -> Refusal | None:
        """Why no session is taken."""
        return REFUSAL if self.begun else None

    def order(self, session: Session, message: SubmitTask, now_ms: int) -> list[object] | None:
        """What becomes of an order instead of being run; None: it is run. Spec: [STOP-ROUTER.1]"""
        if not self.begun or message.order.task <= session.last_task:
            return None
        if len(session.opening.routers) > 1:
            # Where it goes on its client brings all its open orders, this one too.
            return self._hand_on(session, now_ms)
        failed = TaskFailed(session.id, message.order.task, *REFUSAL)
        return [Send(session.client, failed, key=session.id)] if session.client is not None else []

    def go_on(self, now_ms: int) -> list[object]:
        """Hand on what nobody waits for here any more. To be asked after every event. Spec: [STOP-ROUTER.1]"""
        if not self.begun:
            return []
        idle = [each for each in self.sessions.values() if not (_waited_for(each) or self.embeds(each))]
        for session in idle:
            # All leave the queue before the first one's end starts a round for another.
            self.queue.remove(session.id)
        return [effect for session in idle for effect in self._hand_on(session, now_ms)]

    def _hand_on(self, session: Session, now_ms: int) -> list[object]:
        ended = session.tell(SessionEnded(session.id, *REFUSAL))
        return [*ended, *self.end(session, *REFUSAL[:2], now_ms)]


def _waited_for(session: Session) -> bool:
    """Whether an order runs, or tokens were sent that the client has not acknowledged. An end without tokens has no ack
    of its own: it leaves before the word that the session is over."""
    failed = {message.task for message in session.kept if isinstance(message, TaskFailed)}
    frames = (message for message in session.kept if isinstance(message, FrameMessage) and message.task not in failed)
    return session.was_ready and (bool(session.tasks) or any(frame.ids for frame in frames))
