"""Router and miner driven by hand through an auction: what the miner keeps, and what the client's record holds."""

from protocol.core.machine import GossipReceived, Open, Persist, Publish
from protocol.messages.envelope import Envelope, unseal
from protocol.messages.sessions import Announcement, LeaseGrant, SessionOpen, SessionReady
from protocol.session.record import SessionRecord
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    GENESIS,
    MINER,
    MINERS,
    ROUTER,
    id_of,
    of,
    opening_of,
    sent,
)
from tests.unit.protocol.miner_at_hand import Mine
from tests.unit.protocol.router_at_hand import Route

MINER_POSITION = 0


def countersigned(mine: Mine, route: Route, announced: list[object]) -> list[object]:
    """The miner hears the announcement among the router's effects and bids; returns what it does with the receipt."""
    envelope = of(announced, Publish)[-1].message
    assert isinstance(envelope, Envelope)
    announcement, _ = unseal(DOMAIN, envelope, Announcement)
    effects = mine.tell(GossipReceived("sessions", ROUTER.node, announcement, envelope))
    (stream,), (bid,) = of(effects, Open), sent(effects)
    channel = route.opened(MINER.node, "bid")
    (receipt,) = sent(route.receive(channel, bid), channel)
    return mine.receive(stream.channel, receipt)


def record_of(opening: SessionOpen, *assignments: SessionReady) -> SessionRecord:
    """What the client keeps."""
    return SessionRecord(GENESIS.to_json(), opening, CLIENT.sign(id_of(opening)), assignments, ())


def auction(*, honest: bool, opening: SessionOpen | None = None) -> tuple[SessionRecord, Persist]:
    """An auction of three bidders, MINER the first; a dishonest router forgets it as soon as it signed the receipt.

    Returns the client's record and what MINER made durable.
    """
    route, opening = Route(), opening or opening_of()
    client = route.client()
    (persist,) = of(countersigned(Mine(), route, route.open(client, opening)), Persist)
    if not honest:
        session = route.machine._sessions[id_of(opening)]
        assert session.round is not None
        del session.round.bids[MINER.node]
    effects = route.bid(opening, MINERS[1])
    if not of(effects, Open):
        effects = route.bid(opening, MINERS[2])
    channel, _ = route.asked(effects)
    (ready,) = sent(route.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000)), client)
    assert isinstance(ready, SessionReady)
    return record_of(opening, ready), persist
