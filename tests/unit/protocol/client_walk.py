"""A client's walk, and what it was promised."""

from typing import Any

from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.machine import (
    Send,
)
from protocol.messages.sessions import (
    OpenSession,
    RouterHello,
    SessionEnded,
    SessionOpen,
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
    SessionAssigned,
    SessionOver,
    TaskOver,
    TaskText,
)
from tests.unit.protocol.machines import (
    CLIENT,
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
        (router,) = machine._held.routers.values()
        if router.genesis is None:
            self.say(router.channel, RouterHello(ROUTER.node, GENESIS.to_json(), ()))
        elif len(router.sessions) < 2:
            self.open()
        else:
            self.go_on(data, router, data.draw(st.sampled_from(list(router.sessions.values()))))

    def go_on(self, data: st.DataObject, router: Any, session: Any) -> None:
        """The router does its part for a session."""
        if session.assignment is None:
            self.say(router.channel, ready_of(session.opening))
        elif not session.tasks:
            self.ask(session.handle)
        else:
            task = data.draw(st.sampled_from(list(session.tasks.values())))
            head, *frames = stream_of(task.order)
            following = next((f for f in frames if f.first_index == task.verifier.index), None)  # type: ignore
            assert following is not None
            self.say(router.channel, head if task.verifier.head is None else following)

    def open(self) -> None:
        """Wish for a session."""
        handle = self.handles + 1
        nonce = handle.to_bytes(32, "big")
        self.wish(OpenAsked(handle, ROUTER.node, MODEL, nonce, 1_000, 9, 5_000, 10**6), SessionOver)

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
        return st.sampled_from([hello, *([ready_of(opening)] * 4), ended, *stream, *stream[:2]])

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
        for handle in [h for h, items in self.items.items() if isinstance(items[-1], SessionAssigned)]:
            self.did(self.hand.tell(CloseAsked(handle)))
        for handle, end in self.promised.items():
            ends = [item for item in self.items.get(handle, []) if isinstance(item, end)]
            assert len(ends) == 1 or (end is RouterGone and not ends)
            assert not ends or self.items[handle][-1] is ends[0]
        machine = self.hand.machine
        assert (len(machine._held.sessions), len(machine._held.tasks), machine.next_deadline()) == (0, 0, None)

    def bounded(self) -> None:
        for items in self.items.values():
            texts = [item for item in items if isinstance(item, TaskText)]
            starts = [sum(len(text.ids) for text in texts[:number]) for number in range(len(texts))]
            assert [text.first_index for text in texts] == starts
