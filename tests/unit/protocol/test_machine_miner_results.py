"""The miner's machine and the results of its lanes: what it commits to, when it opens, and for how long it says so."""

import msgspec
import pytest

from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import Persist, Send, SendAll
from protocol.core.signing import typed_digest
from protocol.messages.envelope import unseal
from protocol.messages.results import (
    COMMITS_MAX,
    CommitMessage,
    Commits,
    CommittedNews,
    Opening,
    Outcome,
    RevealAsked,
    RevealMessage,
    Verdict,
)
from protocol.messages.tasks import AckMessage, EndReason
from protocol.results.commitment import (
    chain_heads,
    check_commit,
    check_opening,
    check_opens,
    check_reveal,
    opening_root,
    result_root,
)
from protocol.results.papers import check_claim, check_papers
from protocol.roles.miner.outstanding import (
    GOSSIP_INTERVAL_MS,
    GOSSIPED_MIN,
    KEPT_MS,
    RESULTS,
    TICK_MS,
)
from protocol.session.transcript import close_chain, make_ack, segment_id
from tests.unit.protocol.light_at_hand import EPOCH
from tests.unit.protocol.machines import CLIENT, DOMAIN, MALLORY, MINER, PARAMS, id_of, of, opening_of
from tests.unit.protocol.miner_at_hand import Mine, Run
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed, Withheld

RESEND_MS = PARAMS.result_resend_ms


def outcome_of(message: CommitMessage | RevealMessage, verdict: Verdict = Verdict.OK, **fields: object) -> Outcome:
    """The outcome that the oracles come to."""
    signed = message.reveal if isinstance(message, CommitMessage) else message.signed
    assert signed is not None
    reveal = signed.reveal
    place = {"session": reveal.session, "task": reveal.task, "lane": reveal.lane, "home_epoch": EPOCH}
    content = {"verdict": verdict, "root": reveal.root, "count": reveal.count, "paid_wei": 0}
    return Outcome(**{**place, **content, **fields})  # type: ignore[arg-type]


def checked(message: CommitMessage) -> Opening:
    """What anybody can check of a commit that comes with its opening."""
    assert message.reveal is not None
    assert message.opening is not None
    check_papers(DOMAIN, message.papers)
    check_claim(DOMAIN, message.papers, message.signed)
    check_reveal(DOMAIN, message.reveal)
    check_opens(DOMAIN, message.signed.commit, message.reveal.reveal, message.opening)
    check_opening(DOMAIN, CLIENT.node, message.opening)
    return message.opening


# One lane


@pytest.mark.spec("RESULT-ROOT.1", "COMMIT-BOUND.1", "REVEAL-OPENS.1", "OPENING-VALID.1")
def test_an_only_lane_is_committed_to_and_opened_in_one_message_to_each_oracle() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.done()
    for place in range(4):
        (message,) = mine.commits(place)
        opening = checked(message)
        assert opening.segments[0].ack is not None
        assert (opening.count, opening.segments[0].ack.index) == (3, 3)
        assert (opening.order, opening.segments[0].price_wei) == (run.order, 0)
    head, end = run.verifier.head, run.verifier.finish()
    assert head is not None
    heads = chain_heads(ZERO_DIGEST, [segment_id(DOMAIN, head)])
    chain = close_chain(run.verifier.chain, end)
    assert opening_root(DOMAIN, opening) == result_root(DOMAIN, run.order, head.model, heads, chain, 3)


@pytest.mark.spec("COMMIT-DURABLE.1", "MACHINE-PERSIST.1")
def test_the_record_is_durable_before_anything_leaves_and_the_router_is_told_with_the_oracles() -> None:
    mine = Bound()
    run = Streamed(mine)
    ended = run.end()
    (persist,) = of(ended, Persist)
    assert (persist.key, len(mine.disk)) == (RESULTS, 1)
    assert not mine.commits(), "the client may yet acknowledge"
    effects = run.ack()
    said = [effect for effect in effects if isinstance(effect, SendAll) or getattr(effect, "channel", 0) == run.channel]
    assert [type(effect.message) for effect in said] == [CommitMessage, CommittedNews]  # type: ignore[attr-defined]
    assert {effect.key for effect in said} == {RESULTS}  # type: ignore[attr-defined]
    (news,) = mine.news
    (message,) = mine.commits()
    assert (news.signed, news.reveal) == (message.signed, message.reveal)


def test_a_client_that_acknowledges_nothing_is_waited_for_so_long_and_no_longer() -> None:
    mine = Bound()
    Streamed(mine).end()
    mine.wait(PARAMS.ack_wait_ms - 1)
    assert not mine.commits()
    mine.wait(1)
    (message,) = mine.commits()
    assert checked(message).segments[0].ack is None


def test_a_lane_without_a_token_waits_for_no_ack() -> None:
    mine = Bound()
    Streamed(mine).end(0)
    (message,) = mine.commits()
    assert checked(message).count == 0


def test_a_cancelled_lane_is_committed_to_as_well() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.render()
    run.produce(2)
    run.cancel()
    run.report()
    assert run.verifier.finish().reason is EndReason.CANCELLED
    run.ack()
    (message,) = mine.commits()
    assert checked(message).count == 2


def test_a_task_without_a_signed_end_has_no_result() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.render()
    run.produce(2)
    mine.tell_closed(run.channel)
    mine.wait(PARAMS.ack_wait_ms + RESEND_MS)
    assert (mine.told_results(), mine.disk, mine.machine.results) == ([], {}, 0)


def test_without_a_committee_nobody_is_told() -> None:
    mine = Mine()
    run = Run(mine, opening_of())
    run.render()
    effects = [*run.produce(2), *run.finish(), *run.report(), *run.ack(), *mine.wait(KEPT_MS)]
    assert not of(effects, SendAll)
    assert not of(effects, Persist)
    assert not [m for m in of(effects, Send) if isinstance(m.message, CommittedNews)]


# Acks that come late


@pytest.mark.spec("OPENING-ACK.1")
def test_a_later_ack_opens_the_lane_again_with_more() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.end()
    mine.wait(PARAMS.ack_wait_ms)
    (bare,) = mine.commits()
    run.ack()
    (again,) = mine.reveals()
    assert again.signed == bare.reveal
    check_opening(DOMAIN, CLIENT.node, again.opening)
    assert again.opening.segments[0].ack is not None
    assert again.opening.segments[0].ack.index == 3
    run.ack()
    assert not mine.heard(), "the same ack twice"
    mine.wait(2 * RESEND_MS)
    said = mine.heard()
    assert [type(message) for message in said] == [CommitMessage, RevealMessage]


@pytest.mark.spec("OPENING-ACK.1")
@pytest.mark.parametrize("how", ["index", "segment", "task", "lane"])
def test_an_ack_that_does_not_fit_raises_nothing(how: str) -> None:
    mine = Bound()
    run = Streamed(mine)
    run.end()
    mine.wait(PARAMS.ack_wait_ms)
    mine.heard()
    good = make_ack(DOMAIN, CLIENT.sign, run.verifier).ack
    wrong = {"index": 4, "segment": b"\x01" * 32, "task": 2, "lane": 1}
    ack = msgspec.structs.replace(good, **{how: wrong[how]})
    mine.receive(run.channel, AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack))))
    assert not mine.heard()


@pytest.mark.spec("OPENING-ACK.1")
def test_an_ack_of_a_lane_that_the_lease_holds_no_more_counts_only_with_the_clients_signature() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.end()
    mine.wait(PARAMS.ack_wait_ms)
    mine.heard()
    mine.machine._leases[id_of(run.opening)].lanes.clear()
    ack = make_ack(DOMAIN, CLIENT.sign, run.verifier).ack
    forged = AckMessage(ack, MALLORY.sign(typed_digest(DOMAIN, ack)))
    mine.receive(run.channel, AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack))))
    (reveal,) = mine.reveals()
    assert reveal.opening.segments[0].ack is not None
    other = Bound()
    run = Streamed(other)
    run.end()
    other.machine._leases[id_of(run.opening)].lanes.clear()
    other.receive(run.channel, forged)
    assert not other.machine._leases, "who relays what the client did not sign loses the lease"


# Several lanes


@pytest.mark.spec("REVEAL-WHEN.1")
def test_of_several_lanes_the_commit_leaves_alone_and_the_opening_once_enough_oracles_ask() -> None:
    mine = Bound()
    run = Withheld(mine)
    run.end()
    mine.wait(TICK_MS)
    (commit,) = mine.commits(0)
    assert (commit.reveal, commit.opening, mine.news[0].reveal) == (None, None, None)
    check_claim(DOMAIN, commit.papers, commit.signed)
    mine.heard(1), mine.heard(3)
    mine.ask(0)
    mine.ask(0)
    mine.wait(3 * RESEND_MS)
    assert not mine.reveals(1), "one oracle is not enough, however often it asks"
    mine.ask(2)
    (reveal,) = mine.reveals(3)
    check_opens(DOMAIN, commit.signed.commit, reveal.signed.reveal, reveal.opening)
    check_reveal(DOMAIN, reveal.signed)
    check_opening(DOMAIN, CLIENT.node, reveal.opening)
    mine.heard(1), mine.heard(3)
    mine.ask(3)
    assert (len(mine.heard(3)), mine.heard(1)) == (1, []), "who asks later is answered, alone"


@pytest.mark.spec("REVEAL-WHEN.1")
def test_lane_0_of_several_commits_at_once_and_opens_when_asked_and_acknowledged() -> None:
    for acked_first in (True, False):
        mine = Bound()
        run = Streamed(mine, opening_of(lanes=2))
        run.end()
        mine.wait(TICK_MS)
        assert len(mine.commits()) == 1, "nobody else's lane waits for this client's ack"
        if acked_first:
            run.ack()
            assert not mine.heard()
            mine.ask(0, 1)
        else:
            mine.ask(0, 1)
            assert not mine.heard()
            run.ack()
        (reveal,) = mine.reveals()
        assert reveal.opening.segments[0].ack is not None


def test_asks_for_other_tasks_and_from_nobody_open_nothing() -> None:
    mine = Bound()
    Withheld(mine).end()
    mine.wait(TICK_MS)
    mine.heard()
    mine.ask(0, 1, 2, 3, task=2)
    mine.ask(0, 1, 2, 3, opening=opening_of(lanes=2, number=1))
    assert not mine.heard()
    channel = mine.opened(MALLORY.node, "task")
    for _ in range(3):
        mine.receive(channel, RevealAsked(id_of(opening_of(lanes=2)), 1))
    assert not mine.heard()


@pytest.mark.spec("REVEAL-WHEN.1")
def test_what_was_asked_for_before_a_restart_is_open_after_it() -> None:
    mine = Bound()
    Withheld(mine).end()
    mine.wait(TICK_MS)
    (first,) = mine.commits()
    unasked = mine.restart()
    assert [type(message) for message in unasked.heard()] == [CommitMessage]
    mine.ask(0, 1)
    asked = mine.restart()
    commit, reveal = asked.heard()
    assert isinstance(commit, CommitMessage)
    assert isinstance(reveal, RevealMessage)
    assert commit.signed == first.signed, "the same commit, in the next life"


# Many at once


def many(mine: Bound, count: int, first: int = 0) -> list[Withheld]:
    """Lanes that end together, each in a session of its own."""
    runs = [Withheld(mine, opening_of(lanes=2, number=first + number)) for number in range(count)]
    mine.wait(TICK_MS)
    for run in runs:
        run.end()
    return runs


@pytest.mark.spec("COMMIT-BATCH.1")
def test_many_bare_commits_are_gossiped_together_and_their_papers_follow() -> None:
    mine = Bound()
    runs = many(mine, GOSSIPED_MIN)
    assert not mine.gossip
    mine.wait(TICK_MS)
    (published,) = mine.gossip
    assert published.key == RESULTS
    message, signer = unseal(DOMAIN, published.message, Commits)  # type: ignore[arg-type]
    assert (signer, message.miner) == (MINER.node, MINER.node)
    assert {signed.commit.session for signed in message.commits} == {id_of(run.session) for run in runs}
    for signed in message.commits:
        check_commit(DOMAIN, signed)
    assert not mine.commits()
    assert len(mine.news) == GOSSIPED_MIN
    mine.wait(RESEND_MS)
    assert {message.signed for message in mine.commits()} >= set(message.commits)


@pytest.mark.spec("COMMIT-BATCH.1")
def test_fewer_go_to_each_oracle_and_so_do_more_within_the_second() -> None:
    mine = Bound()
    many(mine, GOSSIPED_MIN - 1)
    mine.wait(TICK_MS)
    assert (len(mine.gossip), len(mine.commits())) == (0, GOSSIPED_MIN - 1)
    other = Bound()
    for number in range(2):
        many(other, GOSSIPED_MIN, number * GOSSIPED_MIN)
        other.wait(TICK_MS)
        for run in list(other.machine._leases.values()):
            other.tell_closed(run.channel)
    assert len(other.gossip) == 1, "the topic's budget is the network's"
    other.wait(GOSSIP_INTERVAL_MS)
    other.heard()
    many(other, GOSSIPED_MIN, 2 * GOSSIPED_MIN)
    other.wait(TICK_MS)
    assert len(other.gossip) == 2
    assert PARAMS.gossip_message_bytes_max > COMMITS_MAX * 200
