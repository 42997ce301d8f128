"""Requests for vectors through client, router and miner, driven by hand: signed, relayed, bounded, each ended once."""

import struct
from collections.abc import Callable

import msgspec
import pytest

from protocol.core.machine import ChannelClosed, Close, Received
from protocol.core.signing import typed_digest
from protocol.messages.embeddings import EMBED_TEXTS_MAX, EmbedAsked, Embedded, EmbedFailed, EmbedOrder, EmbedTexts
from protocol.messages.sessions import LeaseGrant, LeaseRelease, SessionEnded
from protocol.roles.client import CloseAsked, EmbedOver, EmbedWanted
from protocol.roles.miner import Embed, EmbeddingFailed, TextsEmbedded
from protocol.roles.router.embeds import EMBEDS_MAX, SENDS_MAX
from protocol.session.embeddings import result_of, sign_embedded
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MALLORY,
    MINER,
    MODEL,
    id_of,
    of,
    opening_of,
    sent,
)
from tests.unit.protocol.miner_at_hand import Mine
from tests.unit.protocol.router_at_hand import Route

TEXTS = EmbedTexts(bytes(32), ("one", "two"))
VECTORS = (struct.pack("<2f", 1.0, 0.0), struct.pack("<2f", 0.0, 1.0))
ASK = 9


def asked(session: bytes, number: int = 1, signer: Key = CLIENT, texts: EmbedTexts = TEXTS) -> EmbedAsked:
    """A client's request."""
    order = EmbedOrder(session, number, texts.commitment())
    return EmbedAsked(order, signer.sign(typed_digest(DOMAIN, order)), texts, 60_000)


def answered(
    request: EmbedAsked,
    vectors: tuple[bytes, ...] = VECTORS,
    signer: Key = MINER,
    generation: bytes = GENERATION,
    tokens: int = 4,
) -> Embedded:
    """What a miner makes of it."""
    result = result_of(DOMAIN, request.order, generation, MINER.node, MODEL, tokens, vectors)
    return sign_embedded(DOMAIN, signer.sign, request.order, result, vectors)


BAD: dict[str, Callable[[EmbedAsked], Embedded]] = {
    "too few": lambda request: answered(request, VECTORS[:1]),
    "not alike": lambda request: answered(request, (VECTORS[0], VECTORS[1][:4])),
    "no numbers": lambda request: answered(request, (b"12345", b"54321")),
    "another's": lambda request: answered(request, signer=MALLORY),
    "of another lease": lambda request: answered(request, generation=bytes(24)),
    "for another request": lambda request: msgspec.structs.replace(answered(asked(request.order.session, 2)), number=1),
    "altered": lambda request: msgspec.structs.replace(answered(request), vectors=VECTORS[::-1]),
    "of other usage": lambda request: msgspec.structs.replace(answered(request), tokens=1),
}


# The client


def client_that_asks() -> tuple[Client, EmbedAsked]:
    """A client with a session and a request in it."""
    client = Client()
    client.says(HELLO)
    client.ready()
    (request,) = sent(client.tell(wanted()), client.channel)
    assert isinstance(request, EmbedAsked)
    return client, request


def wanted(handle: int = ASK, texts: tuple[str, ...] = TEXTS.texts) -> EmbedWanted:
    """What its program asks for."""
    return EmbedWanted(handle, SESSION_HANDLE, texts, bytes(32), 60_000)


def over(client: Client, handle: int = ASK) -> EmbedOver:
    """The one terminal item."""
    (item,) = client.items[handle]
    assert isinstance(item, EmbedOver)
    return item


@pytest.mark.spec("EMBED-SIGNED.1")
def test_a_client_signs_what_it_asks_and_takes_what_its_miner_signed() -> None:
    client, request = client_that_asks()
    assert request == asked(request.order.session)
    client.says(answered(request))
    said = over(client)
    assert said.embedded is not None
    assert (said.embedded.vectors, said.miner, said.code) == (VECTORS, MINER.node, "")
    client.says(answered(request))
    assert len(client.items[ASK]) == 1
    client.wait(10**9)
    assert len(client.items[ASK]) == 1


@pytest.mark.spec("EMBED-SIGNED.1")
@pytest.mark.parametrize("how", BAD)
def test_a_client_takes_no_vectors_that_its_miner_did_not_sign_for_it(how: str) -> None:
    client, request = client_that_asks()
    effects = client.says(BAD[how](request))
    assert Close(client.channel) in effects
    assert (over(client).embedded, over(client).code) == (None, "router_lost")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda client: client.says(EmbedFailed(id_of_session(client), 1, "no_capacity", "busy", 5)), "no_capacity"),
        (lambda client: client.says(EmbedFailed(id_of_session(client), 1, "gibberish", "", 0)), "router_lost"),
        (lambda client: client.wait(70_000), "deadline_exceeded"),
        (lambda client: client.tell(CloseAsked(SESSION_HANDLE)), "session_closed"),
        (lambda client: client.tell(ChannelClosed(client.channel, "gone")), "router_lost"),
    ],
)
def test_a_request_ends_once_whatever_becomes_of_it(end: Callable[[Client], object], code: str) -> None:
    client, _ = client_that_asks()
    end(client)
    assert (over(client).embedded, over(client).code) == (None, code)


def id_of_session(client: Client) -> bytes:
    """Of the only one."""
    (session,) = client.machine._held.sessions.values()
    return bytes(session.id)


def test_what_cannot_be_asked_ends_at_once() -> None:
    client, _ = client_that_asks()
    for handle, texts in enumerate([(), ("",), ("a",) * (EMBED_TEXTS_MAX + 1), ("\ud800",), ("x" * 262_145,)], 20):
        assert sent(client.tell(wanted(handle, texts)), client.channel) == []
        assert over(client, handle).code == "bad_request"
    for handle in range(30, 34):
        client.tell(wanted(handle))
    assert over(client, 33).code == "queue_full"
    client.tell(EmbedWanted(40, 77, TEXTS.texts, bytes(32), 60_000))
    assert over(client, 40).code == "session_expired"


# The router


class Scene:
    """A router with a session that stands."""

    def __init__(self) -> None:
        self.route, self.opening = Route(), opening_of()
        self.client = self.route.client()
        self.miner, _ = self.route.leased(self.opening, self.client)
        self.id = bytes(id_of(self.opening))

    def ask(self, number: int = 1, **fields: object) -> list[object]:
        """The client asks."""
        return self.route.receive(self.client, asked(self.id, number, **fields))  # type: ignore[arg-type]


@pytest.mark.spec("EMBED-RELAYED.1")
def test_a_router_hands_on_request_and_answer_as_they_are() -> None:
    scene = Scene()
    request = asked(scene.id)
    assert sent(scene.ask(), scene.miner) == [request]
    answer = answered(request)
    assert sent(scene.route.receive(scene.miner, answer), scene.client) == [answer]
    assert scene.route.receive(scene.miner, answer) == []


@pytest.mark.spec("EMBED-SIGNED.1", "EMBED-RELAYED.1")
@pytest.mark.parametrize("how", BAD)
def test_a_router_leaves_a_miner_whose_vectors_do_not_hold(how: str) -> None:
    scene = Scene()
    scene.ask()
    effects = scene.route.receive(scene.miner, BAD[how](asked(scene.id)))
    assert Close(scene.miner) in effects
    assert not any(isinstance(message, Embedded) for message in sent(effects, scene.client))


@pytest.mark.spec("EMBED-SIGNED.1")
@pytest.mark.parametrize("how", ["signer", "texts", "size"])
def test_a_router_takes_no_request_that_its_client_did_not_sign(how: str) -> None:
    scene, request = Scene(), asked(Scene().id)
    if how == "signer":
        request = asked(scene.id, signer=MALLORY)
    if how == "texts":
        request = msgspec.structs.replace(request, asked=EmbedTexts(bytes(32), ("three",)))
    if how == "size":
        request = asked(scene.id, texts=EmbedTexts(bytes(32), ("ö" * 131_073,)))
    effects = scene.route.receive(scene.client, request)
    assert Close(scene.client) in effects
    assert not any(isinstance(message, EmbedAsked) for message in sent(effects, scene.miner))


@pytest.mark.spec("EMBED-RELAYED.1")
def test_requests_under_way_are_bounded_and_each_ends_by_its_deadline() -> None:
    scene = Scene()
    for number in range(1, EMBEDS_MAX + 1):
        assert sent(scene.ask(number), scene.miner)
    (failed,) = sent(scene.ask(9), scene.client)
    assert isinstance(failed, EmbedFailed)
    assert (failed.number, failed.code) == (9, "queue_full")
    effects = scene.route.wait(60_000)
    ends = [message for message in sent(effects, scene.client) if isinstance(message, EmbedFailed)]
    assert [(end.number, end.code) for end in ends] == [(n, "deadline_exceeded") for n in range(1, EMBEDS_MAX + 1)]
    assert scene.route.machine._embeds.under_way == {}


@pytest.mark.spec("EMBED-RELAYED.1")
def test_a_miners_refusal_is_passed_on_and_of_an_unknown_session_the_client_hears_so() -> None:
    scene = Scene()
    scene.ask()
    (failed,) = sent(scene.route.receive(scene.miner, EmbedFailed(scene.id, 1, "prompt_too_long", "long", 0)))
    assert isinstance(failed, EmbedFailed)
    assert failed.code == "prompt_too_long"
    (failed,) = sent(scene.route.receive(scene.client, asked(bytes(32))), scene.client)
    assert isinstance(failed, EmbedFailed)
    assert failed.code == "session_expired"


@pytest.mark.spec("EMBED-RELAYED.1", "LEASE-RENEWAL.1")
def test_a_request_goes_to_each_next_miner_a_few_times() -> None:
    scene, codes, sends = Scene(), list[str](), 1
    scene.ask()
    while not codes:
        scene.route.receive(scene.miner, LeaseRelease(scene.id))
        effects = scene.route.tell(ChannelClosed(scene.miner, "gone"))
        for _ in range(40):
            if any(isinstance(message, EmbedFailed | SessionEnded) for message in sent(effects, scene.client)):
                break
            asks = [each for each in effects if getattr(each, "protocol", "") == "task"]
            if asks:
                scene.miner = asks[0].channel  # type: ignore[attr-defined]
                grant = LeaseGrant(scene.id, GENERATION[:16] + (100 + sends).to_bytes(8, "big"), 1_000)
                effects = scene.route.receive(scene.miner, grant)
                sends += asked(scene.id) in sent(effects, scene.miner)
                if asked(scene.id) in sent(effects, scene.miner):
                    break
                continue
            effects = scene.route.wait(500)
            if not [each for each in effects if getattr(each, "protocol", "") == "task"]:
                effects += scene.route.bid(scene.opening)
        codes += [message.code for message in sent(effects, scene.client) if isinstance(message, EmbedFailed)]
        assert sends <= SENDS_MAX
    assert (codes, sends) == (["miner_lost"], SENDS_MAX)


# The miner


@pytest.mark.spec("EMBED-SERVED.1", "EMBED-SIGNED.1")
def test_a_miner_embeds_what_its_leases_client_signed_beside_what_runs() -> None:
    mine, opening = Mine(), opening_of()
    channel, generation = mine.lease(opening)
    request = asked(id_of(opening))
    (embed,) = of(mine.receive(channel, request), Embed)
    assert embed.texts == TEXTS.texts
    assert mine.machine.slots() == (1, 2), "it needs no slot"
    (answer,) = sent(mine.tell(TextsEmbedded(embed.name, VECTORS, 4)), channel)
    assert answer == answered(request, generation=generation)
    assert mine.tell(TextsEmbedded(embed.name, VECTORS, 4)) == []


@pytest.mark.spec("EMBED-SERVED.1")
def test_what_a_miner_embeds_at_once_is_bounded_and_failures_are_told() -> None:
    mine, opening = Mine(), opening_of()
    channel, _ = mine.lease(opening)
    name = of(mine.receive(channel, asked(id_of(opening), 1)), Embed)[0].name
    for number in range(2, 5):
        mine.receive(channel, asked(id_of(opening), number))
    for number in (4, 5):
        (failed,) = sent(mine.receive(channel, asked(id_of(opening), number)), channel)
        assert isinstance(failed, EmbedFailed)
        assert failed.code == "queue_full"
    (failed,) = sent(mine.tell(EmbeddingFailed(name, "engine_failed", "no")), channel)
    assert failed == EmbedFailed(id_of(opening), 1, "engine_failed", "no", 0)
    mine.tell(ChannelClosed(channel, "gone"))
    assert mine.tell(EmbeddingFailed((name[0], 2), "engine_failed", "no")) == []


@pytest.mark.spec("EMBED-SERVED.1", "EMBED-SIGNED.1")
def test_a_miner_leaves_a_router_that_hands_on_what_no_client_signed() -> None:
    for request in (
        asked(id_of(opening_of()), signer=MALLORY),
        asked(bytes(32)),
        msgspec.structs.replace(asked(id_of(opening_of())), asked=EmbedTexts(bytes(32), ("three",))),
    ):
        mine = Mine()
        channel, _ = mine.lease(opening_of())
        effects = mine.tell(Received(channel, request))
        assert Close(channel) in effects
        assert of(effects, Embed) == []
