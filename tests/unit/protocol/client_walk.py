"""A client's walk, and what it was promised."""

from typing import Any

from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import (
    ChannelClosed,
    Send,
)
from protocol.messages.greeting import RouterHello
from protocol.messages.sessions import (
    OpenSession,
    SessionEnded,
    SessionOpen,
    SessionResumed,
)
from protocol.roles.client import (
    AskTask,
    CancelAsk,
    ClientMachine,
    CloseAsked,
    ConnectRouter,
    Deliver,
    OpenAsked,
    RouterGone,
    SessionOver,
    TaskLevel,
    TaskOver,
    TaskReceipt,
    TaskText,
)
from protocol.session.transcript import replay
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENESIS,
    MODEL,
    PROMPT,
    ROUTER,
    Hand,
    id_of,
    order_of,
    ready_of,
    stream_of,
)
from tests.unit.protocol.seeking_at_hand import ROUTERS, ready_at
from tests.unit.protocol.walk import Walk


class ClientWalk(Walk):
    """A client and the router it cannot trust."""

    def __init__(self) -> None:
        super().__init__(Hand(ClientMachine(CLIENT.node, CLIENT.sign)))
        self.handles = 0
        self.promised: dict[int, type] = {}
        self.items: dict[int, list[Any]] = {}
        self.openings: list[SessionOpen] = []
        self.signed = b""

    def proper(self, data: st.DataObject) -> None:
        machine = self.hand.machine
        if not machine._held.routers:
            self.wish(ConnectRouter(self.handles + 1, ROUTER.node, GENESIS.network_id()), RouterGone)
            return
        router = data.draw(st.sampled_from(list(machine._held.routers.values())))
        if router.genesis is None:
            self.say(router.channel, RouterHello(router.node, GENESIS.to_json(), ()))
        elif len(router.sessions) < 2:
            self.open()
        else:
            self.go_on(data, router, data.draw(st.sampled_from(list(router.sessions.values()))))

    def go_on(self, data: st.DataObject, router: Any, session: Any) -> None:
        """The router does its part for a session."""
        by = next(key for key in ROUTERS if key.node == router.node)
        after = session.term.term.after if session.term is not None else 0
        if session.seek is not None and session.seek.resumable and session.assignment is not None:
            answers = [SessionResumed(session.id, session.orders), SessionEnded(session.id, "session_expired", "", 0)]
            self.say(router.channel, data.draw(st.sampled_from(answers)))
        elif session.assignment is None or session.seek is not None:
            self.say(router.channel, ready_at(session.opening, after + 1, by))
        elif data.draw(st.integers(0, 9)) == 0:
            self.dead.add(router.channel)
            self.did(self.hand.tell(ChannelClosed(router.channel, "reset")))
        elif not session.tasks:
            self.ask(session.handle)
        else:
            self.say(router.channel, self.streamed(data.draw(st.sampled_from(list(session.tasks.values())))))

    @staticmethod
    def streamed(task: Any) -> Message:
        """The next message of the miner that works on a task, which may go on with what another began."""
        resume, verifier, assignment = task.continuation(), task.verifier, task.session.assignment
        if verifier._segment is not None:
            names = {"start_index": verifier.head.start_index, "previous_head": verifier.head.previous_head}
        else:
            names = {"start_index": verifier.index, "previous_head": replay(DOMAIN, resume) if resume else ZERO_DIGEST}
        sizes = [1] * (8 - names["start_index"]) or [0]
        head, *frames = stream_of(task.order, sizes=sizes, generation=assignment.generations[0], **names)
        if verifier._segment is None:
            return head
        return next(frame for frame in frames if frame.first_index == verifier.index)  # type: ignore[attr-defined]

    def open(self) -> None:
        """Wish for a session."""
        handle = self.handles + 1
        nonce = handle.to_bytes(32, "big")
        others = tuple(router.node for router in ROUTERS[1:]) if handle % 2 else ()
        wish = OpenAsked(handle, ROUTER.node, MODEL, nonce, 1_000, 9, 5_000, 10**6, others=others)
        self.wish(wish, SessionOver)

    def ask(self, session: int) -> None:
        """Wish for an answer."""
        content = (PROMPT.messages, PROMPT.sampling, PROMPT.nonce, bytes(32), 400, 5_000)
        self.wish(AskTask(self.handles + 1, session, *content), TaskOver)

    def wish(self, event: Any, end: type) -> None:
        self.handles += 1
        self.promised[event.handle] = end
        self.did(self.hand.tell(event))

    def local(self, data: st.DataObject) -> None:
        handle = self.handles + 1
        known = st.integers(0, self.handles)
        what = data.draw(st.sampled_from(("connect", "open", "open", "ask", "ask", "cancel", "close")))
        if what == "connect":
            self.wish(ConnectRouter(handle, ROUTER.node, None), RouterGone)
        elif what == "open":
            self.open()
        elif what == "ask":
            self.ask(data.draw(known))
        elif what == "cancel":
            self.did(self.hand.tell(CancelAsk(data.draw(known))))
        else:
            self.did(self.hand.tell(CloseAsked(data.draw(known))))

    def likely(self, data: st.DataObject) -> st.SearchStrategy[Message]:
        hello = RouterHello(ROUTER.node, GENESIS.to_json(), ())
        if not self.openings:
            return st.just(hello)
        opening = data.draw(st.sampled_from(self.openings))
        orders = [task.order for task in self.hand.machine._held.tasks.values()] or [order_of(opening)]
        stream = stream_of(data.draw(st.sampled_from(orders)))
        ended = SessionEnded(id_of(opening), "no_capacity", "", 1)
        resumed = SessionResumed(id_of(opening), data.draw(st.integers(0, 2)))
        late = [ready_at(opening, number, by) for number, by in ((1, ROUTERS[1]), (1_025, ROUTERS[1]), (2_049, ROUTER))]
        return st.sampled_from([hello, *([ready_of(opening)] * 4), ended, resumed, *late, *stream, *stream[:2]])

    def did(self, effects: list[object]) -> None:
        super().did(effects)
        for effect in effects:
            match effect:
                case Deliver():
                    self.items.setdefault(effect.handle, []).append(effect.item)
                case Send(message=OpenSession() as wish):
                    self.openings.append(wish.opening)

    def finish(self) -> None:
        self.did(self.hand.wait(4_000_000))
        for handle in list(self.hand.machine._held.sessions):
            self.did(self.hand.tell(CloseAsked(handle)))
        for handle, end in self.promised.items():
            ends = [item for item in self.items.get(handle, []) if isinstance(item, end)]
            assert len(ends) == 1 or (end is RouterGone and not ends)
            # What an answer comes to after its end is told still.
            told = [item for item in self.items.get(handle, []) if not isinstance(item, TaskLevel | TaskReceipt)]
            assert not ends or told[-1] is ends[0]
        machine = self.hand.machine
        assert (len(machine._held.sessions), len(machine._held.tasks), machine.next_deadline()) == (0, 0, None)
        assert all(router.handle > 0 for router in machine._held.by_channel.values()), "whom nobody needs is left"

    def bounded(self) -> None:
        held = self.hand.machine._held
        assert len(held.by_channel) <= len([h for h, end in self.promised.items() if end is RouterGone]) + len(ROUTERS)
        for items in self.items.values():
            texts = [item for item in items if isinstance(item, TaskText)]
            starts = [sum(len(text.ids) for text in texts[:number]) for number in range(len(texts))]
            assert [text.first_index for text in texts] == starts
