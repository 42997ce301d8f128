"""The client's machine, driven by hand: it believes nothing, and every wish ends in one terminal item."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.genesis import Genesis
from protocol.core.machine import ChannelClosed, Close, Open
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.envelope import envelope_digest
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.sampling import SamplingParams
from protocol.messages.sessions import (
    BidSet,
    CloseSession,
    OpenSession,
    SessionEnded,
    SessionOpen,
    SessionReady,
    session_id,
)
from protocol.messages.tasks import (
    AckMessage,
    CancelTask,
    EndReason,
    PromptMessage,
    TaskFailed,
)
from protocol.roles.client import (
    CancelAsk,
    CloseAsked,
    ConnectRouter,
    OpenAsked,
    RouterReady,
    SessionAssigned,
    TaskHead,
)
from protocol.roles.client.machine import HELLO_TIMEOUT_MS
from protocol.roles.client.tasks import CANCEL_TIMEOUT_MS, GRACE_MS
from tests.unit.protocol.client_at_hand import HELLO, ROUTER_HANDLE, SESSION_HANDLE, TIMEOUT_MS, Client
from tests.unit.protocol.machines import (
    DOMAIN,
    GENESIS,
    MALLORY,
    MINER,
    MINERS,
    MODEL,
    NOW_MS,
    ROUTER,
    assignment_of,
    bid_set_of,
    of,
    order_of,
    ready_of,
    sent,
    stream_of,
)
from tests.unit.protocol.tampering import FRAUDS, Fraud, Powers, apply


@pytest.fixture
def client() -> Client:
    made = Client()
    made.says(HELLO)
    return made


def shown(messages: Sequence[Message]) -> bytes:
    """The text of a stream."""
    return b"".join(b"".join(getattr(message, "texts", ())) for message in messages)


# Routers


def test_a_router_is_greeted() -> None:
    client = Client()
    client.says(HELLO)
    (ready,) = client.items[ROUTER_HANDLE]
    assert isinstance(ready, RouterReady)
    assert ready.genesis == GENESIS
    assert client.machine.next_deadline() is None


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (RouterHello(ROUTER.node, Genesis("other").to_json(), ()), "the address names"),
        (RouterHello(ROUTER.node, "{", ()), "genesis"),
        (RouterHello(ROUTER.node, "[" * 60_000, ()), "genesis"),
        (RouterHello(ROUTER.node, GENESIS.to_json().replace('"bids_max": 32', '"bids_max": 0'), ()), "bids_max"),
        (RouterHello(MALLORY.node, GENESIS.to_json(), ()), "another identity"),
    ],
    ids=["other network", "no JSON", "deep JSON", "bad parameter", "other router"],
)
def test_a_router_is_refused(hello: RouterHello, why: str) -> None:
    client = Client()
    effects = client.says(hello)
    assert Close(client.channel) in effects
    assert client.over(ROUTER_HANDLE).code == "bad_request"
    assert why in client.over(ROUTER_HANDLE).detail
    assert client.machine.next_deadline() is None


def test_without_a_named_network_the_router_is_taken_at_its_word() -> None:
    client = Client(network=None)
    client.says(RouterHello(ROUTER.node, Genesis("other").to_json(), ()))
    assert isinstance(client.items[ROUTER_HANDLE][0], RouterReady)


def test_a_router_that_says_nothing_or_leaves_is_gone() -> None:
    silent = Client()
    assert Close(silent.channel) in silent.wait(HELLO_TIMEOUT_MS)
    left = Client()
    left.tell(ChannelClosed(left.channel, "unreachable"))
    for client in (silent, left):
        assert client.over(ROUTER_HANDLE).code == "router_lost"
        assert client.says(HELLO) == []
        assert client.tell(OpenAsked(9, ROUTER.node, MODEL, bytes(32), 1, 1, 1, 1)) != []
        assert client.over(9).code == "router_lost"


def test_a_router_that_is_greeted_again_does_not_hang_the_first_wish() -> None:
    client = Client()
    client.tell(ConnectRouter(7, ROUTER.node, None))
    client.wait(HELLO_TIMEOUT_MS)
    assert (client.over(ROUTER_HANDLE).code, client.over(7).code) == ("router_lost", "router_lost")
    assert client.machine.next_deadline() is None


def test_a_router_that_is_greeted_anew_keeps_the_old_stream_as_long_as_a_session_is_on_it(client: Client) -> None:
    client.ready()
    (stream,) = of(client.tell(ConnectRouter(7, ROUTER.node, GENESIS.network_id())), Open)
    effects = client.receive(stream.channel, HELLO)
    assert isinstance(client.items[7][0], RouterReady)
    assert Close(client.channel) not in effects
    client.ask(handle=3)
    effects = client.tell(CloseAsked(SESSION_HANDLE))
    assert client.over(3).code == "session_closed"
    assert Close(client.channel) in effects
    assert len(client.items[ROUTER_HANDLE]) == 1, "nobody hears of the old stream's end"
    opened = client.tell(OpenAsked(9, ROUTER.node, MODEL, bytes(32), 1, 1, 1, 1))
    assert [type(message) for message in sent(opened, stream.channel)] == [OpenSession]


# Sessions


@pytest.mark.spec("SESSION-ID.1")
def test_a_session_stands_on_what_can_be_recomputed(client: Client) -> None:
    opening = client.ready()
    (assigned,) = client.items[SESSION_HANDLE]
    assert isinstance(assigned, SessionAssigned)
    assert assigned.session == session_id(DOMAIN, opening)
    assert assigned.auction.ranks == (0,)
    assert client.machine.next_deadline() is None


def with_signature(opening: SessionOpen) -> SessionReady:
    return msgspec.structs.replace(
        ready_of(opening), signature=MALLORY.sign(typed_digest(DOMAIN, assignment_of(opening)))
    )


def with_bid_set(opening: SessionOpen) -> SessionReady:
    return msgspec.structs.replace(ready_of(opening), bid_set=bid_set_of(opening, MINERS[1:3]))


def without_bid(opening: SessionOpen) -> SessionReady:
    bid_set = bid_set_of(opening, MINERS[1:3])
    assignment = assignment_of(opening, bid_set=envelope_digest(DOMAIN, bid_set, BidSet))
    signature = ROUTER.sign(typed_digest(DOMAIN, assignment))
    return SessionReady(ready_of(opening).session, assignment, signature, bid_set)


def by_mallory(opening: SessionOpen) -> SessionReady:
    return ready_of(opening, router=MALLORY)


def of_another_session(opening: SessionOpen) -> SessionReady:
    other = msgspec.structs.replace(opening, nonce=bytes(32))
    return msgspec.structs.replace(ready_of(other), session=session_id(DOMAIN, opening))


def with_two_lanes(opening: SessionOpen) -> SessionReady:
    return ready_of(opening, miners=(MINER.node, MINERS[1].node), generations=(bytes(24), b"\x01" * 24))


FORGED = [with_signature, with_bid_set, without_bid, by_mallory, of_another_session, with_two_lanes]


@pytest.mark.parametrize("forge", FORGED, ids=lambda forge: forge.__name__)
def test_a_forged_assignment_ends_the_router(client: Client, forge: Callable[[SessionOpen], SessionReady]) -> None:
    opening = client.open()
    effects = client.says(forge(opening))
    assert Close(client.channel) in effects
    assert client.over(SESSION_HANDLE).code == client.over(ROUTER_HANDLE).code == "router_lost"
    assert client.machine.next_deadline() is None


def test_a_session_without_an_answer_ends_by_its_deadline(client: Client) -> None:
    opening = client.open()
    assert client.wait(TIMEOUT_MS + GRACE_MS - 1) == []
    assert sent(client.wait(1)) == [CloseSession(session_id(DOMAIN, opening))]
    assert client.over(SESSION_HANDLE).code == "deadline_exceeded"
    assert client.says(ready_of(opening)) == [], "too late"


def test_a_refused_session_ends_with_the_routers_code(client: Client) -> None:
    for handle, (code, told) in enumerate([("no_capacity", "no_capacity"), ("made up", "router_lost")], 20):
        ended = SessionEnded(session_id(DOMAIN, client.open(handle)), code, "why", 250)
        client.says(ended, ended)
        over = client.over(handle)
        assert (over.code, over.detail, over.retry_after_ms) == (told, "why", 250)


def test_a_closed_session_ends_its_tasks(client: Client) -> None:
    opening = client.ready()
    client.ask()
    effects = client.tell(CloseAsked(SESSION_HANDLE))
    assert sent(effects) == [CloseSession(session_id(DOMAIN, opening))]
    assert client.over(3).code == client.over(SESSION_HANDLE).code == "session_closed"
    assert client.tell(CloseAsked(SESSION_HANDLE)) == []
    client.ask(4)
    assert client.over(4).code == "session_expired"
    assert client.machine.next_deadline() is None


# Answers


@pytest.mark.spec("ORDER-PROMPT.1", "TASK-TERMINAL.1")
def test_an_answer_is_delivered_as_it_was_signed(client: Client) -> None:
    opening = client.ready()
    order = client.order(client.ask())
    assert order == order_of(opening, cap_wei=400_000)
    stream = stream_of(order)
    effects = client.says(*stream)
    assert isinstance(client.items[3][0], TaskHead)
    assert client.text(3) == shown(stream)
    over = client.over(3)
    assert (over.code, over.end.reason, over.tokens, over.frames) == ("", EndReason.STOP, 8, 5)
    (ack,) = sent(effects)
    assert isinstance(ack, AckMessage)
    assert ack.ack.index == 8
    assert client.says(stream[-1], TaskFailed(order.session, 1, "miner_lost", "", 0)) == [], "it has ended"


@pytest.mark.spec("ACK-SIGNED.1")
def test_acks_come_often_enough_for_the_stream_to_flow(client: Client) -> None:
    client.ready()
    order = client.order(client.ask())
    effects = client.says(*stream_of(order, sizes=[30] * 10))
    indices = [message.ack.index for message in sent(effects) if isinstance(message, AckMessage)]
    assert indices == [90, 180, 270, 300]


@pytest.mark.spec("CHAIN-HEAD.1", "CHAIN-ORDER.1", "CHAIN-SIGNER.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("fraud", FRAUDS, ids=lambda fraud: fraud.name)
def test_no_fraud_shows_a_word_and_the_link_is_named(client: Client, fraud: Fraud) -> None:
    opening = client.ready()
    if fraud.recorded == "session":
        other = client.open(8)
        client.says(ready_of(other, generations=(b"\x45" * 24,)))
        recorded_order = client.order(client.ask(9, session=8))
        recorded = stream_of(recorded_order, generation=b"\x45" * 24)
    else:
        recorded = stream_of(client.order(client.ask(9)))
    client.says(*recorded)
    order = client.order(client.ask())
    honest = stream_of(order)
    altered = apply(fraud.make(Powers(DOMAIN, MALLORY.sign, MINER.sign, recorded)), honest)
    effects = client.says(*altered)
    assert shown(honest).startswith(client.text(3))
    if fraud.aside or fraud.link == "end":
        # Nothing to refuse, or not yet: it is nobody's answer, or an answer without its end.
        assert client.text(3) == (b"" if fraud.aside else shown(honest[:-1]))
        client.wait(TIMEOUT_MS + GRACE_MS)
        assert client.over(3).code == "deadline_exceeded"
        assert ("end: the stream was cut after token 7" in client.over(3).detail) == (fraud.link == "end")
        return
    over = client.over(3)
    assert over.code == "transcript_broken"
    assert over.end is None
    assert over.detail.startswith(f"{fraud.link}: ")
    assert CloseSession(session_id(DOMAIN, opening)) in sent(effects)
    assert client.over(SESSION_HANDLE).code == "transcript_broken"
    assert client.says(*honest) == [], "and nothing more is taken for it"


@pytest.mark.spec("CHAIN-END.1")
def test_an_answer_that_the_router_ends_early_is_said_to_be_cut(client: Client) -> None:
    client.ready()
    order = client.order(client.ask())
    client.says(*stream_of(order)[:-1], TaskFailed(order.session, 1, "miner_lost", "gone", 0))
    assert client.over(3).detail == "gone (end: the stream was cut after token 7: no signed end record)"
    order = client.order(client.ask(4))
    client.says(TaskFailed(order.session, 2, "miner_lost", "gone", 0))
    assert client.over(4).detail == "gone"


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_answer_ends_by_its_deadline_or_soon_after_it_is_cancelled(client: Client) -> None:
    client.ready()
    order = client.order(client.ask(3))
    client.ask(4)
    assert sent(client.tell(CancelAsk(4))) == [CancelTask(order.session, 2)]
    client.wait(CANCEL_TIMEOUT_MS)
    assert client.over(4).code == "deadline_exceeded"
    assert 3 not in client.items
    client.wait(TIMEOUT_MS + GRACE_MS - CANCEL_TIMEOUT_MS)
    assert client.over(3).code == "deadline_exceeded"
    assert client.tell(CancelAsk(3)) == []
    assert client.machine.next_deadline() is None


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_router_that_leaves_and_does_not_come_back_ends_everything_once(client: Client) -> None:
    client.ready()
    client.open(5)
    order = client.order(client.ask())
    client.says(*stream_of(order)[:3])
    (again,) = of(client.tell(ChannelClosed(client.channel, "reset")), Open)
    assert again.peer == ROUTER.node
    for _ in range(100):
        client.tell(ChannelClosed(again.channel, "refused"))
        for retry in of(client.wait(1_000), Open):
            again = retry
    assert {client.over(handle).code for handle in (ROUTER_HANDLE, SESSION_HANDLE, 3, 5)} == {"router_lost"}
    assert client.machine.next_deadline() is None
    assert not client.machine._held.sessions
    assert not client.machine._held.tasks


def test_what_is_out_of_place_ends_the_router(client: Client) -> None:
    opening = client.ready()
    for message in (HELLO, ready_of(opening), CloseSession(bytes(32)), ClientHello()):
        other = Client()
        other.says(HELLO)
        other.ready()
        assert Close(other.channel) in other.says(message)
        assert other.over(ROUTER_HANDLE).code == "router_lost"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"messages": ()}, "empty"),
        ({"messages": (PromptMessage("user", ""),)}, "empty"),
        ({"messages": (PromptMessage("user", "x"),) * 513}, "512 messages"),
        ({"messages": (PromptMessage("user", "ö" * 131_073),)}, "262144 bytes"),
        ({"messages": (PromptMessage("user", "x" * 600_000),)}, "cannot be sent"),
        ({"messages": (PromptMessage("user", "\ud800"),)}, "cannot be sent"),
        ({"messages": (PromptMessage("poet", "x"),)}, "cannot be sent"),  # type: ignore[arg-type]
        ({"sampling": SamplingParams(temperature_bp=20_001)}, "cannot be sent"),
        ({"sampling": SamplingParams(stop=(b"x" * 257,))}, "cannot be sent"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": Params().tokens_per_task_max + 1}, "max_tokens"),
        ({"timeout_ms": 0}, "time"),
    ],
)
def test_what_no_router_would_take_is_refused_before_it_leaves(
    client: Client, fields: dict[str, Any], why: str
) -> None:
    client.ready()
    assert sent(client.ask(**fields)) == []
    assert client.over(3).code == "bad_request"
    assert why in client.over(3).detail
    assert client.order(client.ask(4)).task == 1


def test_figures_stay_within_the_wire(client: Client) -> None:
    opening = client.open(4, price_cap_wei=2**70, timeout_ms=2**40, tokens=2**40, tasks_max=10**6)
    assert (opening.price_cap_wei, opening.tasks_max) == (2**63 - 1, GENESIS.params.tasks_per_session_max)
    client.says(ready_of(opening))
    assert client.order(client.ask(3, session=4, max_tokens=30_000)).cap_wei == 2**63 - 1


def test_a_session_has_only_so_many_orders(client: Client) -> None:
    opening = client.open(tasks_max=2)
    client.says(ready_of(opening))
    for handle in (3, 4):
        client.order(client.ask(handle))
    assert sent(client.ask(5)) == []
    assert client.over(5).code == "session_expired"


def test_tasks_of_many_orders_are_told_apart(client: Client) -> None:
    client.ready()
    orders = [client.order(client.ask(handle)) for handle in (3, 4, 5)]
    for order in reversed(orders):
        client.says(*stream_of(order))
    assert [client.over(handle).end.reason for handle in (3, 4, 5)] == [EndReason.STOP] * 3
    assert client.now_ms == NOW_MS
