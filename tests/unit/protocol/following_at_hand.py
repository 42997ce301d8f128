"""A router in a network with a committee, its streams to the oracles, and a session on its way through it."""

from typing import Any

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, Open, Received
from protocol.core.signing import keccak
from protocol.core.sparse import EMPTY_TREE
from protocol.ledger.records import Section
from protocol.ledger.sessions import Session
from protocol.ledger.state import ledger_root
from protocol.messages.handover import HandOvers, HandOversAsked
from protocol.messages.results import LedgerProof, Neighbour, SessionNews
from protocol.messages.sessions import SessionOpen
from tests.unit.protocol.light_at_hand import EPOCH, certify, header_of, known_book
from tests.unit.protocol.machines import MINERS, ORACLES, id_of, of, sent
from tests.unit.protocol.pool_at_hand import Pool
from tests.unit.protocol.router_at_hand import Route


class Followed(Route):
    """See the module. ``pool`` is what the oracles have; nothing of it is told yet."""

    def __init__(self, miners: int = 3, available: int = 3, **settings: Any) -> None:
        super().__init__(miners, **{"followed": known_book(), **settings})
        self.links: dict[NodeId, Channel] = {}
        self.said: dict[NodeId, list[Message]] = {}
        self.asks: list[tuple[NodeId, HandOversAsked]] = []
        self.answers = True
        """Whether oracles have no more hand-overs as soon as they are asked; else the questions wait in ``asks``."""
        self.pool = Pool([miner.node for miner in MINERS[:available]])
        self.wait(0)

    def tell(self, event: object) -> list[object]:
        effects = super().tell(event)
        for stream in of(effects, Open):
            if stream.protocol == "results":
                self.links[stream.peer] = stream.channel
                self.said[stream.peer] = []
        for oracle, channel in self.links.items():
            said = sent(effects, channel) + [
                effect.message for effect in effects if channel in getattr(effect, "channels", ())
            ]
            self.asks += [(oracle, message) for message in said if isinstance(message, HandOversAsked)]
            self.said[oracle] += [message for message in said if not isinstance(message, HandOversAsked)]
        while self.asks and self.answers:
            oracle, _ = self.asks.pop(0)
            effects += self.tell(Received(self.links[oracle], HandOvers(())))
        return effects

    def oracle(self, place: int) -> NodeId:
        """The oracle at a place."""
        return ORACLES[place].node

    def teller(self) -> int:
        """The place of the oracle that is asked for the pool."""
        asked = self.machine._following._asked
        return [oracle.node for oracle in ORACLES].index(asked)

    def hears(self, place: int, *messages: Message) -> list[object]:
        """An oracle says something."""
        channel = self.links[self.oracle(place)]
        return [effect for message in messages for effect in self.receive(channel, message)]

    def loses(self, place: int) -> list[object]:
        """The stream to an oracle breaks."""
        return self.tell(ChannelClosed(self.links[self.oracle(place)], "gone"))

    def told(self) -> "Followed":
        """The oracle that is asked has told the pool."""
        self.hears(self.teller(), *self.pool.news(all_of_it=True))
        return self


def session_news(
    opening: SessionOpen, *, reserved: bool = True, height: int = 60, spent_wei: int = 0, **certified: Any
) -> SessionNews:
    """What the ledger holds for a session."""
    record = Session(
        opening.client,
        opening.routers,
        opening.model,
        opening.lanes,
        opening.tasks_max,
        opening.price_cap_wei,
        opening.cap_wei,
        opening.audits,
        opening.nonce,
        EPOCH,
        EPOCH + 4,
        spent_wei=spent_wei,
    )
    tree = EMPTY_TREE.set(b"\x01" * 32, record.packed())
    tree = tree.set(id_of(opening), record.packed()) if reserved else tree
    roots = [keccak(bytes([section])) for section in Section]
    roots[Section.SESSIONS] = tree.root
    value, siblings, beside = tree.prove(id_of(opening))
    neighbour = None if beside is None else Neighbour(*beside)
    proof = LedgerProof(Section.SESSIONS, id_of(opening), value, siblings, neighbour, tuple(roots))
    header = header_of(height, ledger_root=ledger_root(tuple(roots)))
    return SessionNews(id_of(opening), proof, certify(header, **certified))
