"""A client driven by hand, and what it delivered."""

from typing import Any

from protocol.core.codec import Message
from protocol.core.machine import Channel, Open, Received, Send
from protocol.core.signing import typed_digest, verify
from protocol.light.handovers import HandOverStore
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.handover import HandOversAsked
from protocol.messages.sessions import (
    OpenSession,
    SessionOpen,
    session_id,
)
from protocol.messages.tasks import (
    SubmitTask,
    TaskOrder,
)
from protocol.roles.client import (
    AskTask,
    ClientMachine,
    ConnectRouter,
    Deliver,
    Item,
    OpenAsked,
    RouterGone,
    SessionAssigned,
    SessionOver,
    TaskLevel,
    TaskOver,
    TaskText,
)
from tests.unit.protocol.light_at_hand import known_book
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENESIS,
    MODEL,
    PROMPT,
    ROUTER,
    Hand,
    of,
    ready_of,
    sent,
)

ROUTER_HANDLE, SESSION_HANDLE = 1, 2
TIMEOUT_MS = 30_000
HELLO = RouterHello(ROUTER.node, GENESIS.to_json(), ())


class Client(Hand):
    """A client, its channel to a router, and what it delivered by handle."""

    def __init__(self, network: bytes | None = GENESIS.network_id()) -> None:
        super().__init__(ClientMachine(CLIENT.node, CLIENT.sign))
        self.items: dict[int, list[Item]] = {}
        self.asks: list[tuple[Channel, HandOversAsked]] = []
        self.committees: HandOverStore | None = known_book().store
        """What routers have of hand-overs; None: the questions wait in ``asks``."""
        effects = self.tell(ConnectRouter(ROUTER_HANDLE, ROUTER.node, network))
        (stream,) = of(effects, Open)
        self.channel: Channel = stream.channel
        assert sent(effects, self.channel) == [ClientHello()]

    def tell(self, event: object) -> list[object]:
        effects = super().tell(event)
        for effect in of(effects, Deliver):
            self.items.setdefault(effect.handle, []).append(effect.item)
        asks = [effect for effect in of(effects, Send) if isinstance(effect.message, HandOversAsked)]
        self.asks += [(effect.channel, effect.message) for effect in asks]  # type: ignore[misc]
        effects = [effect for effect in effects if effect not in asks]
        while self.asks and self.committees is not None:
            channel, asked = self.asks.pop(0)
            effects += self.tell(Received(channel, self.committees.page(asked.first)))
        return effects

    def says(self, *messages: Message) -> list[object]:
        """The router says something."""
        return [effect for message in messages for effect in self.receive(self.channel, message)]

    def open(self, handle: int = SESSION_HANDLE, **fields: Any) -> SessionOpen:
        """Ask for a session; returns what was signed for it."""
        content: dict[str, Any] = {
            "handle": handle,
            "router": ROUTER.node,
            "model": MODEL,
            "nonce": bytes([handle]) * 32,
            "price_cap_wei": 1_000,
            "tokens": 100,
            "timeout_ms": TIMEOUT_MS,
            "lifetime_ms": 3_600_000,
        }
        (wish,) = sent(self.tell(OpenAsked(**{**content, **fields})), self.channel)
        assert isinstance(wish, OpenSession)
        verify(session_id(DOMAIN, wish.opening), wish.signature, CLIENT.node, "the session")
        return wish.opening

    def ready(self, handle: int = SESSION_HANDLE) -> SessionOpen:
        """A session that stands."""
        opening = self.open(handle)
        self.says(ready_of(opening))
        assert isinstance(self.items[handle][-1], SessionAssigned)
        return opening

    def ask(self, handle: int = 3, session: int = SESSION_HANDLE, **fields: Any) -> list[object]:
        """Order an answer."""
        content: dict[str, Any] = {
            "handle": handle,
            "session": session,
            "messages": PROMPT.messages,
            "sampling": PROMPT.sampling,
            "nonce": PROMPT.nonce,
            "seed": b"\x06" * 32,
            "max_tokens": 400,
            "timeout_ms": TIMEOUT_MS,
        }
        return self.tell(AskTask(**{**content, **fields}))

    def order(self, effects: list[object]) -> TaskOrder:
        """The order that was sent."""
        (submit,) = sent(effects, self.channel)
        assert isinstance(submit, SubmitTask)
        verify(typed_digest(DOMAIN, submit.order), submit.signature, CLIENT.node, "the order")
        return submit.order

    def text(self, handle: int) -> bytes:
        """What was shown."""
        return b"".join(item.text for item in self.items.get(handle, []) if isinstance(item, TaskText))

    def over(self, handle: int) -> Any:
        """The one terminal item; after it nothing but levels."""
        *others, last = [item for item in self.items[handle] if not isinstance(item, TaskLevel)]
        assert isinstance(last, TaskOver | SessionOver | RouterGone)
        assert not any(isinstance(item, type(last)) for item in others)
        return last
