"""S11: what a client is shown is what miners signed for it, token by token, each exactly once, all of it at the end.

Frames are written down as miners make them. Everything that a client's machine hands to its program is held against
that, against the assignments that its routers signed, and against the answer that nobody disturbed. What a Byzantine
miner has a part in is whatever that one signed; then only its place and its order are looked at.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from p2pnode.engine.toy import piece
from p2pnode.sim.checkers import Checker
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from p2pnode.sim.toy_engine import whole_answer
from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Send
from protocol.messages.tasks import EndReason, FrameMessage, SegmentStart
from protocol.roles.client import AskTask, Deliver, SessionAssigned, TaskHead, TaskOver, TaskText
from protocol.roles.miner import Generate, MinerMachine

Place = tuple[bytes, int, int]
"""(session, task, index of the first token)."""


@dataclass(slots=True)
class _Answer:
    """What one client was shown of one order."""

    session_handle: int
    task: tuple[bytes, int] | None = None
    miner: bytes = b""
    ids: list[int] = field(default_factory=list)
    text: bytes = b""


class ShownIsSigned(Checker):
    """S11."""

    invariant = "S11"

    def __init__(self) -> None:
        self.shown = 0
        """Tokens shown to all clients."""
        self._signed: dict[Place, set[tuple[bytes, tuple[int, ...], bytes]]] = defaultdict(set)
        self._whole: dict[tuple[bytes, int], list[int]] = {}
        """The undisturbed answers, by session and task, of lane 0."""
        self._named: dict[bytes, set[tuple[bytes, bytes]]] = defaultdict(set)
        """Miners and leases that assignments named for lane 0, by session."""
        self._lied: set[tuple[bytes, int]] = set()
        """Orders in which a Byzantine miner has a part."""
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._sessions: dict[tuple[str, int], bytes] = {}

    def crashed(self, host: Host) -> None:
        """Whoever read the text is gone."""
        for table in (self._answers, self._sessions):
            for name in [name for name in table if name[0] == host.name]:
                del table[name]

    def handled(self, drive: Drive, event: object, effects: list[object]) -> None:
        """A correct miner signs exactly what its machine asks to send."""
        if isinstance(drive.machine, MinerMachine) and drive.host.correct:
            for effect in effects:
                if isinstance(effect, Send) and isinstance(effect.message, FrameMessage):
                    frame = effect.message
                    place = (frame.session, frame.task, frame.first_index)
                    self._signed[place].add((drive.host.node, frame.ids, b"".join(frame.texts)))
                elif isinstance(effect, Generate) and effect.generation[2] == 0:
                    self._foresee(effect, drive.host)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A miner begins."""
        if isinstance(message, SegmentStart) and not self.world.by_id[NodeId(message.head.miner)].correct:
            self._lied.add((message.head.session, message.head.task))

    def _foresee(self, effect: Generate, host: Host) -> None:
        name, ids = effect.generation[:2], whole_answer(effect)
        emitted = [token for token, _ in effect.emitted]
        continues = ids[: len(emitted)] == emitted or name in self._lied
        if self._whole.setdefault(name, ids) != ids or not continues:
            self.fail(f"a miner takes order {name[1]} over with another noise, prompt or beginning", host)

    def handles(self, drive: Drive, event: object, now_ms: int) -> None:
        """A program orders an answer."""
        if isinstance(event, AskTask):
            self._answers[drive.host.name, event.handle] = _Answer(event.session)

    def effect(self, drive: Drive, effect: object) -> None:
        """A program is told something."""
        if not isinstance(effect, Deliver):
            return
        item, name = effect.item, (drive.host.name, effect.handle)
        if isinstance(item, SessionAssigned):
            self._sessions[name] = item.session
            assignment = item.assignment
            self._named[item.session].add((assignment.miners[0], assignment.generations[0]))
        elif isinstance(item, TaskHead | TaskText | TaskOver):
            answer = self._answers.get(name)
            if answer is None:
                self.fail(f"{type(item).__name__} for an order that is over or never was", drive.host)
            elif isinstance(item, TaskHead):
                self._head(drive.host, answer, item)
            elif isinstance(item, TaskText):
                self._text(drive.host, answer, item)
            else:
                del self._answers[name]
                self._over(drive.host, answer, item)

    def _head(self, host: Host, answer: _Answer, item: TaskHead) -> None:
        head = item.head
        if head.session != self._sessions.get((host.name, answer.session_handle)) or head.lane != 0:
            self.fail("the head of another session or lane is shown", host)
        if answer.task not in (None, (head.session, head.task)):
            self.fail("the heads of two orders are shown for one", host)
        if (head.miner, head.generation) not in self._named[head.session]:
            self.fail("the head of a miner is shown that no assignment names", host)
        if head.start_index != len(answer.ids):
            self.fail(f"a segment from token {head.start_index} follows {len(answer.ids)} tokens", host)
        answer.task, answer.miner = (head.session, head.task), head.miner

    def _text(self, host: Host, answer: _Answer, item: TaskText) -> None:
        if answer.task is None:
            self.fail("text is shown before any head", host)
            return
        if item.first_index != len(answer.ids):
            self.fail(f"tokens from {item.first_index} are shown after {len(answer.ids)} tokens", host)
        signed = self._signed[(*answer.task, item.first_index)]
        if answer.task not in self._lied and (answer.miner, item.ids, item.text) not in signed:
            self.fail(f"tokens from {item.first_index} are shown that the segment's miner did not sign", host)
        answer.ids += item.ids
        answer.text += item.text
        self.shown += len(item.ids)

    def _over(self, host: Host, answer: _Answer, item: TaskOver) -> None:
        whole = self._whole.get(answer.task, []) if answer.task is not None else []
        if answer.task in self._lied:
            return
        if answer.ids != whole[: len(answer.ids)] or answer.text != b"".join(map(piece, answer.ids)):
            self.fail("what was shown is not the beginning of the undisturbed answer", host)
        if item.tokens != len(answer.ids):
            self.fail(f"{item.tokens} tokens are said to have been shown, and {len(answer.ids)} were", host)
        if item.end is None:
            return
        if item.end.completion_tokens != len(answer.ids):
            self.fail(f"an end over {item.end.completion_tokens} tokens follows {len(answer.ids)}", host)
        if item.end.reason is not EndReason.CANCELLED and answer.ids != whole:
            self.fail(f"the answer ends after {len(answer.ids)} of {len(whole)} tokens", host)
