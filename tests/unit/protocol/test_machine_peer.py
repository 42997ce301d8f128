"""The peer's machine, driven by hand: adverts out on time, others' in by pages, whatever they send."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    GossipReceived,
    Learn,
    Note,
    Open,
    PeerConnected,
    PeerLost,
    Publish,
    Received,
)
from protocol.messages.adverts import PROBE_ADVERTS_MAX, Advert, ProbeRequest, ProbeResponse
from protocol.messages.envelope import Envelope, seal, unseal
from protocol.messages.greeting import ClientHello
from protocol.roles.peer import PROBE_AGAIN_MS, PROBE_TIMEOUT_MS, PROBES_MAX, SETTLE_MS, PeerMachine, PeerSettings
from protocol.session.adverts import AdvertBook
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.machines import DOMAIN, MALLORY, MINERS, NOW_MS, OFFER, PARAMS, Hand, advert_of, of, sent

NETWORK = DOMAIN.network_id
CROWD = sorted((key(1_000 + number) for number in range(150)), key=lambda one: one.node)


class Peer(Hand):
    """A node among others."""

    def __init__(self, me: Key = MINERS[0], known: Sequence[Key] = ()) -> None:
        self.me = me
        self.book = AdvertBook(PARAMS, bytes(16))
        for other in known:
            self.book.add(*advert_of(other), NOW_MS)
        settings = PeerSettings(me.node, ("miner",), (f"/memory/{me.node.hex()}",), (OFFER,), "build")
        super().__init__(PeerMachine(settings, DOMAIN, PARAMS, me.sign, self.book))

    def met(self, peer: NodeId) -> tuple[Channel, ProbeRequest]:
        """A connection stands; returns the probe that follows."""
        return self.probe(self.tell(PeerConnected(peer)))

    def probe(self, effects: list[object]) -> tuple[Channel, ProbeRequest]:
        """The probe among the effects."""
        (stream,) = of(effects, Open)
        (request,) = sent(effects, stream.channel)
        assert stream.protocol == "probe"
        assert isinstance(request, ProbeRequest)
        return stream.channel, request

    def answer(self, request: ProbeRequest, peer: NodeId = MALLORY.node) -> ProbeResponse:
        """What it answers to a probe."""
        effects = self.receive(self.opened(peer, "probe"), request)
        (response,) = sent(effects)
        assert isinstance(response, ProbeResponse)
        assert of(effects, Close)
        return response


def test_an_advert_goes_out_at_once_and_then_every_interval_give_or_take_a_fifth() -> None:
    peer = Peer()
    times: list[int] = []
    for _ in range(20):
        at = peer.machine.next_deadline()
        effects = peer.wait(max(0, at - peer.now_ms))
        for published in of(effects, Publish):
            assert isinstance(published.message, Envelope)
            advert, signer = unseal(DOMAIN, published.message, Advert)
            assert (published.topic, signer, advert.issued_ms) == ("nodes", peer.me.node, peer.now_ms)
            times.append(peer.now_ms)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == NOW_MS
    assert all(0.8 * PARAMS.advert_interval_ms <= gap <= 1.2 * PARAMS.advert_interval_ms for gap in gaps)
    assert len(set(gaps)) > 10


def test_nodes_started_together_do_not_stay_together() -> None:
    seconds = set()
    for me in MINERS:
        peer = Peer(me)
        peer.wait(0)
        seconds.add(peer.machine.next_deadline())
    assert len(seconds) == len(MINERS)


def test_the_first_connection_brings_the_advert_forward() -> None:
    peer = Peer()
    peer.wait(1)
    peer.met(MALLORY.node)
    assert of(peer.wait(SETTLE_MS), Publish)


def test_two_who_meet_tell_each_other_all_they_know() -> None:
    asker, asked = Peer(MINERS[0], CROWD[:3]), Peer(MINERS[1], CROWD)
    channel, request = asker.met(asked.me.node)
    assert request.mine is not None
    pages, seen = 0, []
    while True:
        response = asked.answer(request, asker.me.node)
        effects = asker.receive(channel, response)
        pages += 1
        assert of(effects, Close) == [Close(channel)]
        seen += of(effects, Learn)
        if not of(effects, Open):
            break
        channel, request = asker.probe(effects)
        assert request.mine is None
    assert pages == 3
    assert {one.node for one in CROWD} <= set(asker.book._known)
    assert asked.book.get(asker.me.node) is not None
    assert len(seen) == len(CROWD) - 3
    assert not asker.machine._asked
    assert not asked.machine._asking


def walk(asker: Peer, asked: Peer) -> int:
    """Let one ask the other to the end; returns the pages that came."""
    channel, request = asker.met(asked.me.node)
    for pages in range(1, 100):
        effects = asker.receive(channel, asked.answer(request, asker.me.node))
        if not of(effects, Open):
            return pages
        channel, request = asker.probe(effects)
    raise AssertionError("it never ends")


def test_who_knows_everything_already_asks_for_one_page() -> None:
    asker, asked = Peer(MINERS[0], CROWD), Peer(MINERS[1], CROWD)
    asker.book.add(*advert_of(asked.me), NOW_MS)
    assert walk(asker, asked) <= 2, "two where the page is the last, and empty"


def test_who_knows_many_looks_for_more_once_an_advert_interval_and_tells_everybody_its_own() -> None:
    asker = Peer(MINERS[0], CROWD)
    first, second, third = (Peer(MINERS[number], CROWD) for number in (1, 2, 3))
    walk(asker, first)
    for asked in (second, third):
        _, request = asker.met(asked.me.node)
        assert asked.answer(request, asker.me.node).adverts == ()
        assert asked.book.get(asker.me.node) is not None
    asker.wait(PARAMS.advert_interval_ms)
    _, request = asker.met(first.me.node)
    assert first.answer(request, asker.me.node).adverts


def test_who_knows_many_begins_anywhere_and_goes_once_round() -> None:
    begun = set()
    for now in range(10):
        asker, asked = Peer(MINERS[0], CROWD[:70]), Peer(MINERS[1], CROWD[70:])
        asker.now_ms += now
        channel, request = asker.met(asked.me.node)
        begun.add(request.after)
        effects = asker.receive(channel, asked.answer(request, asker.me.node))
        while of(effects, Open):
            channel, request = asker.probe(effects)
            effects = asker.receive(channel, asked.answer(request, asker.me.node))
        assert {one.node for one in CROWD} <= set(asker.book._known)
        assert not asker.machine._asked
    assert len(begun) == 10
    assert b"" not in begun


def test_a_page_without_news_ends_the_walk() -> None:
    asker, asked = Peer(MINERS[0], CROWD[: PROBE_ADVERTS_MAX - 1]), Peer(MINERS[1], CROWD)
    channel, request = asker.met(asked.me.node)
    assert request.after == b"", "who knows few begins at the beginning"
    assert of(asker.receive(channel, page_of(CROWD[:PROBE_ADVERTS_MAX])), Open), "one of them was new"
    asker = Peer(MINERS[0], CROWD[: PROBE_ADVERTS_MAX - 1])
    channel, _ = asker.met(asked.me.node)
    assert of(asker.receive(channel, page_of(CROWD[: PROBE_ADVERTS_MAX - 1])), Open) == []


def test_a_peer_is_asked_once_a_while() -> None:
    peer = Peer()
    channel, _ = peer.met(MALLORY.node)
    peer.tell(ChannelClosed(channel, "gone"))
    peer.tell(PeerLost(MALLORY.node))
    assert of(peer.tell(PeerConnected(MALLORY.node)), Open) == []
    peer.wait(PROBE_AGAIN_MS)
    assert of(peer.tell(PeerConnected(MALLORY.node)), Open)


def test_probes_are_bounded_and_silent_ones_end() -> None:
    peer = Peer()
    asked = [of(peer.tell(PeerConnected(one.node)), Open) for one in CROWD]
    assert sum(map(len, asked)) == PROBES_MAX
    inbound = [peer.opened(MALLORY.node, "probe") for _ in range(PROBES_MAX)]
    late = ChannelOpened(Channel(999), MALLORY.node, "probe")
    assert peer.tell(late) == [Close(Channel(999))]
    closed = {effect.channel for effect in of(peer.wait(PROBE_TIMEOUT_MS), Close)}
    assert closed == set(inbound) | {stream.channel for (stream,) in filter(None, asked)}
    assert peer.tell(late) == []


def page_of(crowd: Sequence[Key]) -> ProbeResponse:
    return ProbeResponse(NETWORK, tuple(advert_of(one)[1] for one in crowd))


def others() -> Envelope:
    """Somebody else's advert, as it was signed."""
    return advert_of(MINERS[2])[1]


def forged() -> Envelope:
    """An advert of one node, signed by another."""
    return seal(DOMAIN, MALLORY.sign, advert_of(MINERS[3])[0])


HOSTILE: dict[str, Message] = {
    "another network": ProbeResponse(bytes(32), ()),
    "falling": page_of(CROWD[:PROBE_ADVERTS_MAX][::-1]),
    "the same again": page_of([CROWD[0]] * PROBE_ADVERTS_MAX),
    "forged": ProbeResponse(NETWORK, (forged(),)),
    "no advert": ProbeResponse(NETWORK, (seal(DOMAIN, MALLORY.sign, ClientHello()),)),
    "garbage": ProbeResponse(NETWORK, (Envelope(b"\xc1", bytes(65)),)),
    "a question": ProbeRequest(NETWORK, b""),
    "something else": ClientHello(),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_page_is_dropped_and_no_more_are_asked_for(answer: Message) -> None:
    peer = Peer()
    channel, _ = peer.met(MALLORY.node)
    effects = peer.receive(channel, answer)
    assert of(effects, Close) == [Close(channel)]
    assert (of(effects, Open), of(effects, Learn)) == ([], [])
    assert len(peer.book) == 1
    assert not peer.machine._asked


def test_pages_that_do_not_move_on_end_the_exchange() -> None:
    peer = Peer()
    channel, _ = peer.met(MALLORY.node)
    channel, request = peer.probe(peer.receive(channel, page_of(CROWD[:PROBE_ADVERTS_MAX])))
    assert request.after == CROWD[PROBE_ADVERTS_MAX - 1].node
    effects = peer.receive(channel, page_of(CROWD[:PROBE_ADVERTS_MAX]))
    assert of(effects, Open) == []
    assert of(effects, Note)[0].what == "peer.broke-rule"


@pytest.mark.parametrize(
    "request_",
    [
        ProbeRequest(bytes(32), b""),
        ProbeRequest(NETWORK, b"", forged()),
        ClientHello(),
        ProbeRequest(NETWORK, b"", others()),
    ],
)
def test_a_hostile_question_is_not_answered(request_: Message) -> None:
    peer = Peer()
    channel = peer.opened(MALLORY.node, "probe")
    effects = peer.receive(channel, request_)
    assert (sent(effects), of(effects, Close)) == ([], [Close(channel)])
    assert not peer.machine._asking


def test_adverts_by_gossip_are_learned_and_forgotten_when_they_age() -> None:
    peer = Peer()
    peer.wait(0)
    for _ in range(2):
        told = peer.tell(GossipReceived("nodes", MINERS[1].node, *advert_of(MINERS[1])))
    assert told == []
    mine, envelope = advert_of(peer.me, NOW_MS + 1)
    assert peer.tell(GossipReceived("nodes", peer.me.node, mine, envelope)) == [], "nobody else speaks for this node"
    assert MINERS[1].node in peer.book
    peer.wait(PARAMS.advert_lifetime_ms)
    assert MINERS[1].node not in peer.book
    assert peer.me.node in peer.book


def test_a_stray_message_is_not_answered() -> None:
    peer = Peer()
    assert sent(peer.tell(Received(Channel(5), ClientHello()))) == []
