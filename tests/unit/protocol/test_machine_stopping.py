"""The machines of a node that is being stopped: nothing new, what runs ends, and what is open goes on elsewhere."""

import pytest

from protocol.core.machine import ChannelClosed, Close, Open, Publish, Stopping
from protocol.messages.adverts import Advert
from protocol.messages.embeddings import Embedded
from protocol.messages.envelope import Envelope, envelope_digest, unseal
from protocol.messages.sessions import Bid, LeaseBusy, LeaseRelease, LeaseRequest, OpenSession, SessionEnded
from protocol.messages.tasks import FrameMessage, SubmitTask, TaskFailed
from protocol.roles.client import RouterFound, RouterSought, SessionOver
from protocol.roles.client.seeking import PAUSE_MS, TERM_NUMBERS
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MINER,
    MINERS,
    MODEL,
    ROUTER,
    id_of,
    of,
    opening_of,
    sent,
)
from tests.unit.protocol.miner_at_hand import Mine, Run
from tests.unit.protocol.router_at_hand import Route, Task
from tests.unit.protocol.seeking_at_hand import SECOND, TASK, Seeker, ready_at, refusal_of
from tests.unit.protocol.test_machine_embeds import answered, asked
from tests.unit.protocol.test_machine_peer import Peer

SHUT = "shutting_down"
OTHERS = (ROUTER.node, SECOND.node)


def acks(task: Task) -> list[object]:
    """The client acknowledges all that the miner streamed."""
    verifier = LaneVerifier(DOMAIN, expect_segment(DOMAIN, task.order, 0, GENERATION, MINER.node, MODEL))
    for message in task.stream():
        verifier.take(message) if isinstance(message, FrameMessage) else verifier.begin(message.head)  # type: ignore
    return task.route.receive(task.client, make_ack(DOMAIN, CLIENT.sign, verifier))


# The router


@pytest.mark.spec("STOP-ROUTER.1")
def test_a_router_that_stops_takes_no_session_and_ends_those_that_wait() -> None:
    route = Route()
    client, opening = route.client(), opening_of()
    assert of(route.open(client, opening), Publish), "it looks for a miner"
    (ended,) = sent(route.tell(Stopping()), client)
    assert isinstance(ended, SessionEnded)
    assert (ended.code, ended.retry_after_ms > 0) == (SHUT, True)
    (refused,) = sent(route.open(client, opening_of(number=1)), client)
    assert isinstance(refused, SessionEnded)
    assert refused.code == SHUT
    assert route.machine.load()["sessions"] == 0


@pytest.mark.spec("STOP-ROUTER.1", "TASK-TERMINAL.1")
def test_an_answer_that_runs_is_relayed_to_its_end_and_acknowledged_before_the_session_is_handed_on() -> None:
    task = Task()
    head, *frames, last = task.stream()
    task.send([head, frames[0]])
    assert sent(task.route.tell(Stopping())) == []
    assert sent(task.send([*frames[1:], last]), task.client) == [*frames[1:], last]
    assert task.route.machine.load()["sessions"] == 1, "the end may not have arrived"
    effects = acks(task)
    (ended,) = sent(effects, task.client)
    assert isinstance(ended, SessionEnded)
    assert ended.code == SHUT
    assert LeaseRelease(id_of(task.opening)) in sent(effects, task.miner)
    assert task.route.machine.load()["sessions"] == 0


@pytest.mark.spec("STOP-ROUTER.1")
def test_an_answer_that_failed_is_acknowledged_by_nobody() -> None:
    task = Task()
    task.send(task.stream()[:3])
    task.route.tell(Stopping())
    effects = task.send([TaskFailed(id_of(task.opening), 1, "bad_request", "no", 0)])
    assert [type(message) for message in sent(effects, task.client)] == [TaskFailed, SessionEnded]


@pytest.mark.spec("STOP-ROUTER.1")
def test_a_new_order_takes_the_session_to_another_router_or_is_refused() -> None:
    task = Task(opening=opening_of(routers=OTHERS))
    task.route.tell(Stopping())
    assert [type(message) for message in sent(task.submit(2), task.client)] == [SessionEnded], "its orders are not over"
    alone = Task()
    alone.route.tell(Stopping())
    (failed,) = sent(alone.submit(2), alone.client)
    assert isinstance(failed, TaskFailed)
    assert (failed.task, failed.code, failed.retry_after_ms > 0) == (2, SHUT, True)
    assert sent(alone.send(alone.stream()), alone.client) == alone.stream(), "what ran before goes on"


@pytest.mark.spec("STOP-ROUTER.1")
def test_vectors_that_are_awaited_come_before_the_session_is_handed_on() -> None:
    route, opening = Route(), opening_of()
    client = route.client()
    miner, _ = route.leased(opening, client)
    request = asked(id_of(opening))
    route.receive(client, request)
    assert sent(route.tell(Stopping()), client) == []
    effects = route.receive(miner, answered(request))
    assert [type(message) for message in sent(effects, client)] == [Embedded, SessionEnded]


# The client


@pytest.mark.spec("STOP-ROUTER.1", "ROUTER-TERM.1")
def test_a_session_that_is_handed_on_goes_on_at_the_next_router_with_its_open_orders() -> None:
    client = Seeker.asking()
    client.says(client.head(), client.next_frame(3))
    effects = client.says(refusal_of(client.opening, SHUT))
    assert client.told(RouterSought)
    assert client.heard(effects, SECOND), "not the one that stops"
    assert client.term(client.greets(SECOND), SECOND) == TERM_NUMBERS
    heard = sent(client.answers(SECOND, ready_at(client.opening, 1_025, SECOND, MINERS[1])))
    (submit,) = [message for message in heard if isinstance(message, SubmitTask)]
    assert submit.resume is not None
    assert submit.resume.ids == (0, 1, 2)
    assert client.told(RouterFound)
    client.begin(1_025, MINERS[1], SECOND)
    client.answers(SECOND, client.head(), client.next_frame(9, end=True))
    assert client.over(TASK).end.completion_tokens == 12


@pytest.mark.spec("STOP-ROUTER.1")
def test_a_session_without_another_router_waits_for_its_own_to_be_back() -> None:
    client = Client()
    client.says(HELLO)
    opening = client.ready()
    wishes = sent(client.says(refusal_of(opening, SHUT)), client.channel)
    wishes += sent(client.says(refusal_of(opening, SHUT)) + client.wait(PAUSE_MS), client.channel)
    client.tell(ChannelClosed(client.channel, "the router is gone"))
    client.channel = of(client.wait(PAUSE_MS), Open)[0].channel
    wishes += sent(client.says(HELLO), client.channel)
    assert sum(isinstance(wish, OpenSession) for wish in wishes) == 3
    assert not [item for item in client.items[SESSION_HANDLE] if isinstance(item, SessionOver)]


def test_a_session_that_found_no_miner_yet_and_names_no_other_router_is_over() -> None:
    client = Client()
    client.says(HELLO)
    opening = client.open()
    client.says(refusal_of(opening, SHUT))
    (over,) = [item for item in client.items[SESSION_HANDLE] if isinstance(item, SessionOver)]
    assert over.code == SHUT


# The miner


@pytest.mark.spec("STOP-MINER.1")
def test_a_miner_that_stops_bids_no_more_and_gives_up_what_rests() -> None:
    mine = Mine()
    resting, wanted = opening_of(), opening_of(number=1)
    channel, _ = mine.lease(resting)
    bid = mine.bid(wanted)
    effects = mine.tell(Stopping())
    assert sent(effects, channel) == [LeaseRelease(id_of(resting))]
    assert Close(channel) in effects
    assert mine.announce(opening_of(number=2)) == []
    late = mine.opened(ROUTER.node, "task")
    request = LeaseRequest(wanted, CLIENT.sign(id_of(wanted)), envelope_digest(DOMAIN, bid, Bid))
    (busy,) = sent(mine.receive(late, request), late)
    assert isinstance(busy, LeaseBusy)
    assert "stopped" in busy.detail
    assert mine.machine.unfinished == 0


@pytest.mark.spec("STOP-MINER.1")
def test_an_answer_of_a_miner_that_stops_ends_and_is_acknowledged_before_its_lease() -> None:
    mine = Mine()
    run = Run(mine, opening_of())
    run.render()
    run.produce(3)
    assert sent(mine.tell(Stopping()), run.channel) == []
    run.report()
    run.finish()
    run.report()
    assert run.verifier.end is not None
    assert run.text == b"0 1 2 "
    assert mine.machine.unfinished == 1, "the pay is for what is acknowledged"
    effects = run.ack()
    assert sent(effects, run.channel) == [LeaseRelease(id_of(run.opening))]
    assert Close(run.channel) in effects
    assert mine.machine.unfinished == 0


@pytest.mark.spec("STOP-MINER.1")
def test_a_miner_that_stops_says_that_it_offers_nothing() -> None:
    peer = Peer()
    peer.wait(0)
    (published,) = of(peer.tell(Stopping()), Publish)
    assert isinstance(published.message, Envelope)
    advert, signer = unseal(DOMAIN, published.message, Advert)
    assert (signer, advert.models) == (peer.me.node, ())
    assert of(peer.tell(Stopping()), Publish) == [], "once is enough"
