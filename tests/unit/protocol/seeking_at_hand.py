"""A client whose session names three routers, and what each of them hears and says."""

from typing import Any

from protocol.core.codec import Message
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.machine import Channel, ChannelClosed, Open
from protocol.core.signing import typed_digest, verify
from protocol.messages.envelope import envelope_digest
from protocol.messages.greeting import RouterHello
from protocol.messages.sessions import (
    BidSet,
    OpenSession,
    RouterTerm,
    SessionEnded,
    SessionOpen,
    SessionReady,
    SignedTerm,
)
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentStart, TaskOrder
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.client_at_hand import SESSION_HANDLE, Client
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENESIS,
    MINERS,
    PROMPT_TOKENS,
    ROUTER,
    assignment_of,
    bid_set_of,
    head_of,
    id_of,
    sent,
)

FIRST, SECOND, THIRD = ROUTER, key(4), key(5)
ROUTERS = (FIRST, SECOND, THIRD)
TASK = 3
"""The handle of the answer."""
WORDS = [(index, b"%d " % index) for index in range(12)]


def ready_at(opening: SessionOpen, number: int, by: Key, miner: Key = MINERS[0], **fields: Any) -> SessionReady:
    """An assignment by one of the routers; the lease is as unique as its number."""
    bid_set, signer = bid_set_of(opening, MINERS[:3], router=by), fields.pop("signer", by)
    content = {
        "number": number,
        "router": by.node,
        "miners": (miner.node,),
        "generations": (number.to_bytes(24, "big"),),
        "bid_set": envelope_digest(DOMAIN, bid_set, BidSet),
        **fields,
    }
    assignment = assignment_of(opening, **content)
    return SessionReady(id_of(opening), assignment, signer.sign(typed_digest(DOMAIN, assignment)), bid_set)


def term_of(opening: SessionOpen, router: Key, after: int, signer: Key = CLIENT, **fields: Any) -> SignedTerm:
    """The client's word that a router serves a session from now on."""
    term = RouterTerm(**{"session": id_of(opening), "router": router.node, "after": after, **fields})
    return SignedTerm(term, signer.sign(typed_digest(DOMAIN, term)))


def refusal_of(opening: SessionOpen, code: str = "session_expired") -> SessionEnded:
    """A router does not hold a session, or does not want it."""
    return SessionEnded(id_of(opening), code, "no", 0)


class Seeker(Client):
    """See the module. ``streams`` are the latest to each router."""

    def __init__(self, *routers: Key, **fields: Any) -> None:
        self.streams: dict[NodeId, Channel] = {}
        super().__init__()
        self.greets(FIRST)
        self.opening = self.open(others=tuple(router.node for router in routers or ROUTERS[1:]), **fields)
        self.index, self.chain = 0, ZERO_DIGEST

    @classmethod
    def asking(cls, *routers: Key) -> "Seeker":
        """A client with a session at the first router, and an order under way."""
        client = cls(*routers)
        client.says(ready_at(client.opening, 1, FIRST))
        client.asked: TaskOrder = client.order(client.ask(TASK))  # type: ignore[misc]
        client.begin(1, MINERS[0])
        return client

    def tell(self, event: object) -> list[object]:
        effects = super().tell(event)
        self.streams.update({effect.peer: effect.channel for effect in effects if isinstance(effect, Open)})
        return effects

    # Routers

    def greets(self, router: Key, genesis: Genesis = GENESIS) -> list[object]:
        return self.answers(router, RouterHello(router.node, genesis.to_json(), ()))

    def answers(self, router: Key, *messages: Message) -> list[object]:
        stream = self.streams[router.node]
        return [effect for message in messages for effect in self.receive(stream, message)]

    def lose(self, router: Key) -> list[object]:
        return self.tell(ChannelClosed(self.streams[router.node], "reset"))

    def seek(self, router: Key) -> list[object]:
        """Whatever router the session has, or tries first, is lost; up to the one named."""
        effects: list[object] = []
        tried = self.machine._held.routers
        effects += self.lose(next(other for other in ROUTERS if other.node in tried))
        while router.node not in tried:
            effects += self.lose(next(other for other in ROUTERS if other.node in tried))
        return effects

    def heard(self, effects: list[object], router: Key) -> list[Message]:
        """What a router is told."""
        return sent(effects, self.streams[router.node]) if router.node in self.streams else []

    def term(self, effects: list[object], router: Key) -> int:
        """The term by which a router is given the session anew."""
        (wish,) = [message for message in self.heard(effects, router) if isinstance(message, OpenSession)]
        assert wish.opening == self.opening
        assert wish.term is not None
        verify(typed_digest(DOMAIN, wish.term.term), wish.term.signature, CLIENT.node, "the term")
        assert (wish.term.term.session, wish.term.term.router) == (id_of(self.opening), router.node)
        return wish.term.term.after

    def move_to(self, router: Key, after: int = 1_024) -> list[object]:
        """The session's router is lost and the next one to answer is this one, which leases a miner."""
        self.seek(router)
        effects = self.greets(router)
        assert self.term(effects, router) == after
        return self.answers(router, ready_at(self.opening, after + 1, router))

    # The miner

    def begin(self, number: int, miner: Key, router: Key = FIRST) -> None:
        """The next segment's writer."""
        head = head_of(
            self.asked,
            number.to_bytes(24, "big"),
            miner=miner.node,
            router=router.node,
            start_index=self.index,
            previous_head=self.chain,
        )
        self.writer = SegmentWriter(DOMAIN, miner.sign, head)

    def head(self) -> SegmentStart:
        return SegmentStart(self.writer.head)

    def next_frame(self, count: int, *, end: bool = False) -> FrameMessage:
        part = WORDS[self.index : self.index + count]
        record = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), self.index + len(part), 0) if end else None
        frame = self.writer.frame([i for i, _ in part], [text for _, text in part], record)
        self.index, self.chain = self.writer.index, self.writer.chain
        return frame

    def told(self, kind: type) -> list[Any]:
        """What the session's handle was told."""
        return [item for item in self.items.get(SESSION_HANDLE, []) if isinstance(item, kind)]
