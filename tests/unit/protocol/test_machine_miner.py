"""The miner's machine, driven by hand: what it bids on, leases and runs."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Open
from protocol.core.signing import typed_digest
from protocol.messages.adverts import ModelManifest, ModelOffer
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.sessions import (
    Bid,
    BidReceipt,
    CloseSession,
    CountersignedBid,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    LeaseRequest,
)
from protocol.messages.tasks import (
    Ack,
    AckMessage,
    CancelTask,
    Prompt,
    PromptMessage,
    StartTask,
)
from protocol.roles.miner import (
    Generate,
)
from protocol.roles.miner.bidding import BIDS_OPEN_MAX, RECEIPT_TIMEOUT_MS
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MALLORY,
    MINER,
    MODEL,
    NOW_MS,
    OFFER,
    PARAMS,
    PROMPT,
    ROUTER,
    assignment_of,
    id_of,
    of,
    opening_of,
    order_of,
    other_model,
    receipt_of,
    sent,
    start_of,
)
from tests.unit.protocol.miner_at_hand import BOOT, Mine, Run

# Bids


def test_it_bids_once_an_announcement_and_keeps_the_receipt() -> None:
    mine, opening = Mine(), opening_of()
    effects = mine.announce(opening, addresses=("/memory/1",))
    (stream,) = of(effects, Open)
    assert (stream.peer, stream.protocol) == (ROUTER.node, "bid")
    (envelope,) = sent(effects, stream.channel)
    assert isinstance(envelope, Envelope)
    receipt = receipt_of(envelope, opening, envelope)
    assert of(mine.receive(stream.channel, receipt), Close) == [Close(stream.channel)]
    assert list(mine.machine._bids.kept.values()) == [CountersignedBid(envelope, receipt)]
    assert mine.machine.next_deadline() is None


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("another model", {"model": other_model()}),
        ("too cheap", {"price_cap_wei": 6}),
        ("stale", {"issued_ms": NOW_MS - 10**6}),
        ("from the future", {"issued_ms": NOW_MS + 10**6}),
        ("not its author", {"origin": MALLORY.node}),
        ("not drawn", {"pool": 2**32 - 1}),
    ],
)
def test_it_does_not_bid(why: str, fields: dict[str, Any]) -> None:
    assert Mine().announce(opening_of(), **fields) == []


def test_bids_without_an_answer_are_given_up_and_bounded() -> None:
    mine = Mine()
    opened = [
        effect for number in range(BIDS_OPEN_MAX) for effect in of(mine.announce(opening_of(number=number)), Open)
    ]
    assert len(opened) == BIDS_OPEN_MAX
    assert mine.announce(opening_of(number=999)) == []
    assert of(mine.wait(RECEIPT_TIMEOUT_MS), Close) == [Close(stream.channel) for stream in opened]
    assert mine.announce(opening_of(number=999)) != []


@pytest.mark.parametrize(
    "answer", [CloseSession(bytes(32)), seal(DOMAIN, MALLORY.sign, BidReceipt(bytes(32), bytes(32), 0, bytes(32)))]
)
def test_a_wrong_receipt_is_not_kept(answer: Message) -> None:
    mine = Mine()
    stream = of(mine.announce(opening_of()), Open)[0]
    assert of(mine.receive(stream.channel, answer), Close) == [Close(stream.channel)]
    assert not mine.machine._bids.kept


# Leases


@pytest.mark.spec("LEASE-GENERATION.1")
def test_leases_have_generations_of_this_life_that_never_repeat() -> None:
    mine = Mine()
    generations = []
    for number in range(5):
        channel, generation = mine.lease(opening_of(number=number))
        generations.append(generation)
        mine.tell(ChannelClosed(channel, "gone"))
    assert generations == [BOOT + n.to_bytes(8, "big") for n in range(1, 6)]
    assert mine.machine.slots() == (2, 2)


def test_a_miner_alone_decides_over_its_slots() -> None:
    mine = Mine()
    mine.lease(opening_of(number=1))
    late = opening_of(number=3)
    envelope = mine.bid(late)
    mine.lease(opening_of(number=2))
    assert mine.machine.slots() == (0, 2)
    assert mine.announce(opening_of(number=4)) == []
    channel = mine.opened(ROUTER.node, "task")
    request = LeaseRequest(late, CLIENT.sign(id_of(late)), envelope_digest(DOMAIN, envelope, Bid))
    effects = mine.receive(channel, request)
    assert sent(effects, channel) == [LeaseBusy(id_of(late), 1_000, "no free slot")]
    assert of(effects, Close) == [Close(channel)]


def test_slots_of_one_model_are_not_given_to_another() -> None:
    other = ModelManifest("other", b"\x01" * 32, 1, "llama", "Q8_0", 512)
    mine = Mine(offers=(replace_slots(OFFER, 1), ModelOffer(other, 3, 512, 7)))
    mine.lease(opening_of(number=1))
    assert mine.announce(opening_of(number=2)) == []
    mine.lease(opening_of(number=3, model=other.digest()))
    assert mine.machine.slots() == (2, 4)


def replace_slots(offer: ModelOffer, slots: int) -> ModelOffer:
    return msgspec.structs.replace(offer, slots=slots)


@pytest.mark.parametrize(
    ("why", "fields", "detail"),
    [
        ("model", {"model": other_model()}, "not served"),
        ("price", {"price_cap_wei": 6}, "price"),
        ("expired", {"expires_ms": NOW_MS - PARAMS.clock_skew_ms_max - 1}, "expired"),
        ("no bid", {}, "no bid"),
    ],
)
def test_a_lease_is_refused(why: str, fields: dict[str, Any], detail: str) -> None:
    mine, opening = Mine(), opening_of(**fields)
    channel = mine.opened(ROUTER.node, "task")
    effects = mine.receive(channel, LeaseRequest(opening, CLIENT.sign(id_of(opening)), bytes(32)))
    (busy,) = sent(effects, channel)
    assert isinstance(busy, LeaseBusy)
    assert detail in busy.detail
    assert mine.machine.slots() == (2, 2)
    assert mine.machine.next_deadline() is None


def test_a_session_holds_one_lease_and_a_stream_carries_one() -> None:
    mine, opening = Mine(), opening_of()
    first, generation = mine.lease(opening)
    channel, effects = mine.request(opening)
    (grant,) = sent(effects, channel)
    assert isinstance(grant, LeaseGrant)
    assert grant.generation != generation
    assert Close(first) in effects, "the router asked for another lane: the lease before is over"
    assert mine.machine.slots() == (1, 2)
    second = opening_of(number=1)
    assert Close(channel) in mine.receive(channel, LeaseRequest(second, CLIENT.sign(id_of(second)), bytes(32)))
    assert mine.machine.slots() == (2, 2)


@pytest.mark.parametrize(
    ("signer", "peer"), [(MALLORY, ROUTER.node), (CLIENT, MALLORY.node)], ids=["not signed", "router not named"]
)
def test_a_lease_needs_the_clients_signature_and_a_router_it_names(signer: Any, peer: NodeId) -> None:
    mine, opening = Mine(), opening_of()
    bid = envelope_digest(DOMAIN, mine.bid(opening), Bid)
    channel = mine.opened(peer, "task")
    effects = mine.receive(channel, LeaseRequest(opening, signer.sign(id_of(opening)), bid))
    assert (sent(effects), of(effects, Close)) == ([], [Close(channel)])


def test_an_idle_lease_ends_and_frees_its_slot() -> None:
    mine, opening = Mine(), opening_of()
    channel, _ = mine.lease(opening)
    assert mine.wait(PARAMS.lease_idle_ms - 1) == []
    effects = mine.wait(1)
    assert sent(effects, channel) == [LeaseRelease(id_of(opening))]
    assert effects[-1] == Close(channel)
    assert (mine.machine.slots(), mine.machine.next_deadline()) == ((2, 2), None)


def test_streams_are_bounded_and_silent_ones_end() -> None:
    mine = Mine()
    channels = [mine.opened(ROUTER.node, "task") for _ in range(PARAMS.sessions_per_miner_max)]
    full = ChannelOpened(Channel(99), ROUTER.node, "task")
    assert mine.tell(full) == [Close(Channel(99))]
    assert mine.wait(PARAMS.lease_request_timeout_ms) == [Close(channel) for channel in channels]
    assert mine.tell(full) == []


# Orders


@pytest.mark.spec("MINER-ORDER.1")
def test_an_order_under_the_assignment_is_run() -> None:
    run = Run(Mine(), opening_of())
    (generate,) = of(run.begun, Generate)
    assert (generate.generation, generate.messages, generate.max_tokens) == (run.name, PROMPT.messages, 400)
    assert generate.model == MODEL


def signed(start: StartTask, **order: Any) -> StartTask:
    """The start with another order, rightly signed by the client."""
    changed = msgspec.structs.replace(start.order, **order)
    signature = CLIENT.sign(typed_digest(DOMAIN, changed))
    return msgspec.structs.replace(start, order=changed, signature=signature)


def assigned(start: StartTask, **fields: Any) -> StartTask:
    """The start under another assignment, rightly signed by the router."""
    changed = msgspec.structs.replace(start.assignment, **fields)
    signature = ROUTER.sign(typed_digest(DOMAIN, changed))
    return msgspec.structs.replace(start, assignment=changed, assignment_signature=signature)


def by_mallory(start: StartTask, field: str) -> StartTask:
    value = start.order if field == "signature" else start.assignment
    return msgspec.structs.replace(start, **{field: MALLORY.sign(typed_digest(DOMAIN, value))})


OTHER_PROMPT = Prompt(PROMPT.nonce, (PromptMessage("user", "Where does a fish live?"),), PROMPT.sampling)
REFUSED: dict[str, Callable[[StartTask], StartTask]] = {
    "not signed by the client": lambda start: by_mallory(start, "signature"),
    "changed after signing": lambda start: msgspec.structs.replace(
        start, order=msgspec.structs.replace(start.order, max_tokens=9)
    ),
    "of another session": lambda start: signed(start, session=bytes(32)),
    "with another prompt": lambda start: msgspec.structs.replace(start, prompt=OTHER_PROMPT),
    "that commits to nothing": lambda start: signed(start, prompt=bytes(32)),
    "with other sampling": lambda start: signed(start, sampling=bytes(32)),
    "for no tokens": lambda start: signed(start, max_tokens=0),
    "for too many tokens": lambda start: signed(start, max_tokens=PARAMS.tokens_per_task_max + 1),
    "numbered 0": lambda start: signed(start, task=0),
    "beyond tasks_max": lambda start: signed(start, task=11),
    "assigned by nobody": lambda start: by_mallory(start, "assignment_signature"),
    "assigned for another session": lambda start: assigned(start, session=bytes(32)),
    "assigned by another router": lambda start: assigned(start, router=MALLORY.node),
    "assigned to another miner": lambda start: assigned(start, miners=(MALLORY.node,)),
    "of another generation": lambda start: assigned(start, generations=(bytes(24),)),
    "of a lane that is not there": lambda start: msgspec.structs.replace(start, lane=1),
    "of lanes without leases": lambda start: assigned(start, miners=(MINER.node, MALLORY.node)),
}


@pytest.mark.spec("MINER-ORDER.1", "ORDER-PROMPT.1", "LEASE-GENERATION.1")
@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_no_order_is_run(change: Callable[[StartTask], StartTask]) -> None:
    mine, opening = Mine(), opening_of()
    channel, generation = mine.lease(opening)
    start = start_of(assignment_of(opening, generations=(generation,)), order_of(opening))
    effects = mine.receive(channel, change(start))
    assert (of(effects, Generate), sent(effects)) == ([], [])
    assert Close(channel) in effects
    assert mine.machine.slots() == (2, 2), "the slot of a router that breaks rules is free"


@pytest.mark.spec("MINER-ORDER.1")
def test_no_order_is_run_twice_nor_after_the_session() -> None:
    def finished() -> Run:
        run = Run(Mine(), opening_of(), task=2)
        run.render()
        run.finish()
        run.report()
        return run

    def again(run: Run, task: int, number: int = 1) -> list[object]:
        assignment = assignment_of(run.opening, generations=(run.generation,), number=number)
        return run.mine.receive(run.channel, start_of(assignment, order_of(run.opening, task)))

    for task in (2, 0, opening_of().tasks_max + 1):
        run = finished()
        assert of(again(run, task), Generate) == []
        assert run.mine.machine.slots() == (2, 2)
    for task in (1, 3):
        assert of(again(finished(), task), Generate)
    assert of(again(finished(), 3, number=0), Generate) == [], "an assignment older than the one seen"
    run = finished()
    run.mine.now_ms = run.opening.expires_ms + PARAMS.clock_skew_ms_max + 1
    assert of(again(run, 3), Generate) == []


def test_nothing_but_a_leases_messages_is_taken() -> None:
    for message in (CloseSession(bytes(32)), CancelTask(bytes(32), 1), stray_ack()):
        mine = Mine()
        channel = mine.opened(ROUTER.node, "task")
        assert Close(channel) in mine.receive(channel, message)
    assert mine.receive(Channel(77), stray_ack()) == []


def stray_ack() -> AckMessage:
    return AckMessage(Ack(bytes(32), 1, 0, bytes(24), bytes(32), 1, bytes(32)), bytes(65))
