"""The miner's machine, driven by hand: what it runs, what it streams, and when it stops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.ids import Generation, NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, GossipReceived, Open, Send, Sent
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.adverts import ModelManifest, ModelOffer
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.sessions import (
    Announcement,
    Bid,
    BidReceipt,
    CloseSession,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    LeaseRequest,
    SessionOpen,
)
from protocol.messages.tasks import (
    Ack,
    AckMessage,
    CancelTask,
    EndReason,
    FrameMessage,
    Prompt,
    PromptMessage,
    SegmentStart,
    StartTask,
    TaskFailed,
    TaskOrder,
)
from protocol.roles.miner import (
    CancelGeneration,
    Generate,
    Generated,
    GenerationFailed,
    MinerMachine,
    MinerSettings,
    Produced,
    Rendered,
)
from protocol.roles.miner.bidding import BIDS_OPEN_MAX, RECEIPT_TIMEOUT_MS
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
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
    PROMPT_TOKENS,
    ROUTER,
    Hand,
    assignment_of,
    id_of,
    of,
    opening_of,
    order_of,
    other_model,
    sent,
    start_of,
)

BOOT = b"\x44" * 16
UNACKED = PARAMS.unacked_tokens_max


def announcement_of(opening: SessionOpen, **fields: Any) -> Announcement:
    content: dict[str, Any] = {
        "session": id_of(opening),
        "router": ROUTER.node,
        "addresses": (),
        "model": opening.model,
        "lanes": 1,
        "price_cap_wei": opening.price_cap_wei,
        "pool": 1,
        "widening": 0,
        "issued_ms": NOW_MS,
    }
    return Announcement(**{**content, **fields})


class Mine(Hand):
    """A miner of one model with two slots, and its router."""

    def __init__(self, params: Params = PARAMS, offers: tuple[ModelOffer, ...] = (OFFER,)) -> None:
        served = {offer.manifest.digest(): offer for offer in offers}
        super().__init__(MinerMachine(MinerSettings(MINER.node, served, BOOT), DOMAIN, params, MINER.sign))

    def announce(self, opening: SessionOpen, origin: NodeId = ROUTER.node, **fields: Any) -> list[object]:
        announcement = announcement_of(opening, **fields)
        return self.tell(GossipReceived("sessions", origin, announcement, seal(DOMAIN, ROUTER.sign, announcement)))

    def bid(self, opening: SessionOpen) -> Envelope:
        """The bid for a session; its stream is closed again."""
        effects = self.announce(opening)
        (envelope,) = sent(effects)
        assert isinstance(envelope, Envelope)
        self.tell(ChannelClosed(of(effects, Open)[0].channel, "closed"))
        return envelope

    def request(self, opening: SessionOpen, router: NodeId = ROUTER.node) -> tuple[Channel, list[object]]:
        """Ask for a lease on the strength of a bid."""
        digest = envelope_digest(DOMAIN, self.bid(opening), Bid)
        channel = self.opened(router, "task")
        signature = CLIENT.sign(id_of(opening))
        return channel, self.receive(channel, LeaseRequest(opening, signature, digest))

    def lease(self, opening: SessionOpen) -> tuple[Channel, Generation]:
        """A lease, granted."""
        channel, effects = self.request(opening)
        (grant,) = sent(effects, channel)
        assert isinstance(grant, LeaseGrant)
        return channel, Generation(grant.generation)


class Run:
    """One order under way: what the router and the client would know of it."""

    def __init__(self, mine: Mine, opening: SessionOpen, task: int = 1, leased: tuple[Any, Any] | None = None) -> None:
        self.mine, self.opening = mine, opening
        self.channel, self.generation = leased or mine.lease(opening)
        self.order = order_of(opening, task)
        self.name = (bytes(id_of(opening)), task, 0)
        assignment = assignment_of(opening, generations=(self.generation,))
        self.begun = mine.receive(self.channel, start_of(assignment, self.order))
        expected = expect_segment(DOMAIN, self.order, 0, self.generation, MINER.node, MODEL)
        self.verifier = LaneVerifier(DOMAIN, expected)
        self.text = b""

    def render(self) -> list[object]:
        return self.read(self.mine.tell(Rendered(self.name, PROMPT_TOKENS)))

    def produce(self, count: int) -> list[object]:
        ids = tuple(range(count))
        return self.read(self.mine.tell(Produced(self.name, ids, tuple(b"%d " % i for i in ids))))

    def finish(self) -> list[object]:
        return self.read(self.mine.tell(Generated(self.name, EndReason.STOP, 0)))

    def report(self) -> list[object]:
        return self.read(self.mine.tell(Sent(self.channel)))

    def ack(self, index: int | None = None, chain: bytes | None = None) -> list[object]:
        message = make_ack(DOMAIN, CLIENT.sign, self.verifier)
        if index is not None or chain is not None:
            ack = message.ack
            ack = Ack(*self.order_names(), ack.index if index is None else index, chain or ack.chain)
            message = AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack)))
        return self.read(self.mine.receive(self.channel, message))

    def order_names(self) -> tuple[bytes, int, int, bytes]:
        return self.order.session, self.order.task, 0, self.generation

    def read(self, effects: list[object]) -> list[object]:
        """Verify what was sent, as a client does."""
        frames = [effect for effect in of(effects, Send) if isinstance(effect.message, FrameMessage)]
        assert len(frames) <= 1, "one frame in flight"
        assert all(frame.report for frame in frames)
        for message in sent(effects, self.channel):
            if isinstance(message, SegmentStart):
                self.verifier.begin(message.head)
            elif isinstance(message, FrameMessage):
                self.verifier.take(message)
                self.text += b"".join(message.texts)
        return effects

    def cancel(self) -> list[object]:
        return self.read(self.mine.receive(self.channel, CancelTask(self.order.session, self.order.task)))

    def failed(self, effects: list[object]) -> TaskFailed:
        (message,) = sent(effects, self.channel)
        assert isinstance(message, TaskFailed)
        assert (message.session, message.task) == (self.order.session, self.order.task)
        return message


# Bids


def test_it_bids_once_an_announcement_and_keeps_the_receipt() -> None:
    mine, opening = Mine(), opening_of()
    effects = mine.announce(opening, addresses=("/memory/1",))
    (stream,) = of(effects, Open)
    assert (stream.peer, stream.protocol) == (ROUTER.node, "bid")
    (envelope,) = sent(effects, stream.channel)
    assert isinstance(envelope, Envelope)
    digest = envelope_digest(DOMAIN, envelope, Bid)
    receipt = seal(DOMAIN, ROUTER.sign, BidReceipt(digest, id_of(opening), 0))
    assert of(mine.receive(stream.channel, receipt), Close) == [Close(stream.channel)]
    assert mine.machine._bids.receipts == {id_of(opening): receipt}
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
    opened = [effect for number in range(BIDS_OPEN_MAX) for effect in of(mine.announce(opening_of(number=number)), Open)]
    assert len(opened) == BIDS_OPEN_MAX
    assert mine.announce(opening_of(number=999)) == []
    assert of(mine.wait(RECEIPT_TIMEOUT_MS), Close) == [Close(stream.channel) for stream in opened]
    assert mine.announce(opening_of(number=999)) != []


@pytest.mark.parametrize("answer", [CloseSession(bytes(32)), seal(DOMAIN, MALLORY.sign, BidReceipt(*[bytes(32)] * 2, 0))])
def test_a_wrong_receipt_is_not_kept(answer: Message) -> None:
    mine = Mine()
    stream = of(mine.announce(opening_of()), Open)[0]
    assert of(mine.receive(stream.channel, answer), Close) == [Close(stream.channel)]
    assert not mine.machine._bids.receipts


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


def test_a_session_is_leased_once_and_a_stream_carries_one() -> None:
    mine, opening = Mine(), opening_of()
    first, _ = mine.lease(opening)
    channel, effects = mine.request(opening)
    assert sent(effects, channel) == [LeaseBusy(id_of(opening), 1_000, "the session holds a lease here already")]
    second = opening_of(number=1)
    assert Close(first) in mine.receive(first, LeaseRequest(second, CLIENT.sign(id_of(second)), bytes(32)))
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


def lied(change: Callable[[StartTask], StartTask]) -> Callable[[StartTask], StartTask]:
    return change


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

    for task in (1, 2):
        run = finished()
        assert of(again(run, task), Generate) == []
        assert run.mine.machine.slots() == (2, 2)
    assert of(again(finished(), 3), Generate)
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
    return AckMessage(Ack(bytes(32), 1, 0, bytes(24), 1, bytes(32)), bytes(65))


# Streaming


def test_one_frame_is_in_flight_and_what_is_ready_joins_the_next() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    assert [m.first_index for m in sent(run.produce(1)) if isinstance(m, FrameMessage)] == [0]
    for _ in range(5):
        assert run.produce(3) == []
    assert run.finish() == []
    (frame,) = sent(run.report())
    assert isinstance(frame, FrameMessage)
    assert (len(frame.ids), frame.end is not None) == (15, True)
    assert run.report() == []
    assert run.verifier.finish().completion_tokens == 16


@pytest.mark.spec("ACK-CREDIT.1")
def test_no_token_leaves_beyond_the_credit_of_the_last_ack() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    acked = 0
    for _ in range(20):
        run.produce(37)
        while any(isinstance(m, FrameMessage) for m in sent(run.report())):
            pass
        assert run.verifier.index - acked <= UNACKED
        if run.verifier.index - acked == UNACKED:
            acked = run.verifier.index
            run.ack()
    assert run.verifier.index > 3 * UNACKED


@pytest.mark.spec("ACK-CREDIT.1")
def test_a_client_that_stops_acknowledging_loses_its_task_and_not_the_lease() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    patience_ms = PARAMS.frame_gap_timeout_ms // 2
    run.produce(UNACKED + 50)
    run.report()
    for _ in range(9):
        # Neither more tokens nor the same old ack buys more time.
        assert run.mine.wait(patience_ms // 10) == []
        run.produce(1)
        run.ack(index=0)
    effects = run.mine.wait(patience_ms // 10)
    assert run.failed([e for e in effects if isinstance(e, Send)]).code == "ack_timeout"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert run.mine.machine.slots() == (1, 2)
    assert of(Run(run.mine, run.opening, 2, (run.channel, run.generation)).begun, Generate)


@pytest.mark.spec("ACK-SIGNED.1", "ACK-CREDIT.1")
@pytest.mark.parametrize(("index", "chain"), [(99, None), (1, bytes(32))], ids=["not sent yet", "another chain"])
def test_a_client_that_acknowledges_nonsense_loses_its_task(index: int, chain: bytes | None) -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(1)
    effects = run.ack(index, chain)
    assert run.failed([e for e in effects if isinstance(e, Send)]).code == "bad_request"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert run.mine.machine.slots() == (1, 2)


@pytest.mark.spec("ACK-SIGNED.1")
def test_an_ack_that_the_client_did_not_sign_is_the_routers_fault() -> None:
    for change in ("key", "generation", "session"):
        run = Run(Mine(), opening_of())
        run.render()
        run.produce(1)
        good = make_ack(DOMAIN, CLIENT.sign, run.verifier).ack
        ack = good if change == "key" else msgspec.structs.replace(good, **{change: b"\x09" * len(getattr(good, change))})
        signer = MALLORY if change == "key" else CLIENT
        effects = run.mine.receive(run.channel, AckMessage(ack, signer.sign(typed_digest(DOMAIN, ack))))
        assert Close(run.channel) in effects
        assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
        assert run.mine.machine.slots() == (2, 2)


def test_the_next_order_may_come_before_the_last_frame_is_reported() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(2)
    run.report()
    run.finish()
    following = Run(run.mine, run.opening, 2, (run.channel, run.generation))
    assert of(following.begun, Generate)
    following.render()
    assert following.produce(3) == [], "one frame in flight on the stream, whosever it is"
    (frame,) = sent(following.report())
    assert isinstance(frame, FrameMessage)
    assert (frame.task, len(frame.ids)) == (2, 3)


def test_a_second_order_beside_a_running_one_is_refused() -> None:
    run = Run(Mine(), opening_of())
    refused = Run(run.mine, run.opening, 2, (run.channel, run.generation))
    failed = refused.failed(refused.begun)
    assert (failed.code, failed.retry_after_ms) == ("queue_full", 1_000)
    run.render()
    assert sent(run.produce(1))


# Ends


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_cancelled_order_ends_with_a_signed_end_or_a_code() -> None:
    before = Run(Mine(), opening_of())
    assert before.failed([e for e in before.cancel() if isinstance(e, Send)]).code == "cancelled"
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(1)
    run.produce(40)
    effects = run.cancel()
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert sent(effects) == [], "a frame is in flight"
    run.report()
    assert run.verifier.finish().reason is EndReason.CANCELLED
    assert run.verifier.finish().completion_tokens == 1
    assert run.produce(5) == run.finish() == run.cancel() == run.report() == []
    ended = Run(Mine(), opening_of())
    ended.render()
    ended.finish()
    assert ended.cancel() == []
    assert ended.verifier.finish().reason is EndReason.STOP


def test_a_cancellation_needs_no_credit() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(UNACKED + 1)
    run.report()
    run.cancel()
    assert run.verifier.finish().completion_tokens == UNACKED
    assert run.mine.wait(PARAMS.frame_gap_timeout_ms) == []


def test_cancelling_another_task_or_session_does_nothing() -> None:
    run = Run(Mine(), opening_of())
    for other in (CancelTask(run.order.session, 2), CancelTask(bytes(32), 1)):
        assert run.mine.receive(run.channel, other) == []
    run.render()
    assert sent(run.produce(1))


@pytest.mark.spec("TASK-TERMINAL.1")
def test_the_deadline_of_an_order_ends_it_once() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(1)
    run.report()
    effects = run.mine.wait(60_000)
    assert run.failed([e for e in effects if isinstance(e, Send)]).code == "deadline_exceeded"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert run.produce(1) == run.finish() == []
    assert run.mine.machine.slots() == (1, 2)


def test_an_order_that_is_written_has_no_deadline_any_more() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.finish()
    assert run.mine.wait(60_000) == [], "its end waits for the connection, which has a deadline of its own"


@pytest.mark.parametrize("code", ["prompt_too_long", "no_capacity", "engine_failed"])
def test_what_the_engine_cannot_run_ends_with_its_code(code: str) -> None:
    run = Run(Mine(), opening_of())
    failed = run.failed([e for e in run.mine.tell(GenerationFailed(run.name, code, "no")) if isinstance(e, Send)])
    assert (failed.code, failed.retry_after_ms > 0) == (code, code == "no_capacity")
    assert of(Run(run.mine, run.opening, 2, (run.channel, run.generation)).begun, Generate)


def test_a_lost_router_frees_the_slot_and_stops_the_engine() -> None:
    for event in (None, LeaseRelease(id_of(opening_of()))):
        run = Run(Mine(), opening_of())
        run.render()
        run.produce(1)
        if event is None:
            effects = run.mine.tell(ChannelClosed(run.channel, "gone"))
        else:
            effects = run.mine.receive(run.channel, event)
        assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
        assert (run.mine.machine.slots(), run.mine.machine.next_deadline()) == ((2, 2), None)
        assert run.produce(1) == run.finish() == []


def test_lanes_that_wind_down_are_bounded() -> None:
    mine, opening = Mine(replace(PARAMS, lease_idle_ms=10**6)), opening_of(tasks_max=100)
    leased = mine.lease(opening)
    for task in range(1, 100):
        run = Run(mine, opening, task, leased)
        run.render()
        run.produce(2)
        if task % 2:
            run.cancel()
        else:
            run.finish()
        run.report()
        run.report()
        assert run.verifier.finish().completion_tokens == 2
        (lease,) = mine.machine._leases.values()
        assert len(lease.lanes) <= 5
    assert len(mine.machine._deadlines) == 1


def test_the_head_binds_the_order() -> None:
    run = Run(Mine(), opening_of())
    (start,) = sent(run.render())
    assert isinstance(start, SegmentStart)
    order: TaskOrder = run.order
    assert start.head.order == typed_digest(DOMAIN, order)
    assert (start.head.prompt_token_count, start.head.generation) == (len(PROMPT_TOKENS), run.generation)
