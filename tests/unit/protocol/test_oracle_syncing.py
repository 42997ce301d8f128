"""How an oracle that lacks something gets it, whoever lies to it, and what it gives to those who ask."""

import pytest

from protocol.committee.certificates import CommitteeError
from protocol.core.machine import ChannelClosed, Close, Received, Send
from protocol.messages.committee import (
    PAGE_BLOCKS_MAX,
    Block,
    Certificate,
    Certified,
    State,
    SyncPage,
    SyncRequest,
)
from protocol.messages.evidence import CommitteeNews
from protocol.roles.oracle.syncing import SERVED_MAX
from tests.unit.protocol.committee_at_hand import (
    KEYS,
    PARAMS,
    START_MS,
    STRANGER,
    VOTE,
    Made,
    build,
    chain,
    keyed,  # noqa: F401
    nullification,
    opening,
    propose,
    say,
)
from tests.unit.protocol.oracle_at_hand import ALL, Oracle

ONE, OTHER, THIRD = ALL
ELSEWHERE = 20
"""Of an oracle that is no member."""
BLOCKS = chain(PARAMS.epoch_blocks)


def page(*blocks: Made, nulls: tuple[Certificate, ...] = (), epoch: int = 1, tip: tuple[int, int] = (1, 0)) -> SyncPage:
    """An honest page, each block with its notarization."""
    return SyncPage(epoch, tuple(block.block(block.notarization()) for block in blocks), nulls, *tip)


def behind(height: int = 4) -> Oracle:
    """An oracle that holds a finalization of this height, and none of the blocks."""
    oracle = Oracle().started()
    oracle.say(ONE, Certified(BLOCKS[height].finalization(), BLOCKS[height].header))
    return oracle


# Asking


@pytest.mark.spec("SYNC-MERGE.1", "SIMPLEX-JUMP.1")
def test_who_lacks_blocks_asks_one_member_for_the_heights() -> None:
    oracle = behind()
    question = oracle.question()
    assert question is not None
    channel, _, request = question
    assert request == SyncRequest(1, 1, 4)
    oracle.tell(Received(channel, page(*BLOCKS[1:5])))
    assert Close(channel) in oracle.did
    assert oracle.machine.simplex.tree.base.header.height == 4
    assert oracle.question() is None


@pytest.mark.spec("SYNC-MERGE.1")
@pytest.mark.parametrize("how", ["empty page", "forged page", "silence", "closed", "another message"])
def test_a_member_that_brings_nothing_new_is_followed_by_the_next(how: str) -> None:
    oracle, asked = behind(), []
    for _ in range(6):
        while oracle.question() is None:
            oracle.wait(50)
        channel, place, _ = oracle.question() or (None, 0, None)
        assert channel is not None
        asked.append(place)
        match how:
            case "empty page":
                oracle.tell(Received(channel, page()))
            case "forged page":
                oracle.tell(Received(channel, SyncPage(1, (Block(BLOCKS[4].header, b"x", None),), (), 1, 9)))
                assert oracle.notes() == ["oracle.bad-page"]
            case "closed":
                oracle.tell(ChannelClosed(channel, "reset"))
            case "another message":
                oracle.tell(Received(channel, SyncRequest(1, 1, 1)))
                assert Close(channel) in oracle.did
        oracle.did = []
    assert set(asked) == set(ALL)
    assert asked[:3] == asked[3:]


@pytest.mark.spec("SYNC-MERGE.1")
def test_pages_of_several_members_are_merged() -> None:
    oracle = behind()
    for blocks in ([BLOCKS[1]], [BLOCKS[3], BLOCKS[4]], [BLOCKS[2]]):
        while oracle.question() is None:
            oracle.wait(50)
        channel, _, _ = oracle.question() or (None, 0, None)
        assert channel is not None
        oracle.tell(Received(channel, page(*blocks)))
    assert oracle.machine.simplex.tree.base.header.height == 4


@pytest.mark.spec("SYNC-MERGE.1", "SIMPLEX-VOTE.1")
def test_the_nullifications_between_come_by_sync_as_well() -> None:
    oracle = Oracle().started()
    third = build(opening(), 3)
    oracle.say(ONE, Certified(nullification(2), None))
    oracle.say(ONE, propose(third))
    assert oracle.machine.signer.signed(VOTE, 1, 3) is None
    question = oracle.question()
    while question is None:
        oracle.wait(50)
        question = oracle.question()
    oracle.tell(Received(question[0], page(nulls=(nullification(1),))))
    assert oracle.machine.signer.signed(VOTE, 1, 3) is not None


@pytest.mark.spec("SYNC-CHECK.1")
def test_of_a_page_with_a_forgery_the_part_before_it_stays_and_the_rest_is_dropped() -> None:
    oracle = behind()
    channel, _, _ = oracle.question() or (None, 0, None)
    assert channel is not None
    good = page(*BLOCKS[1:5]).blocks
    forged = Block(BLOCKS[3].header, b"x", BLOCKS[3].notarization())
    oracle.tell(Received(channel, SyncPage(1, (*good[:2], forged, *good[3:]), (), 1, 9)))
    assert oracle.notes() == ["oracle.bad-page"]
    assert oracle.machine.simplex.tree.base.header.height == 0
    assert {1, 2} <= {header.height for header in oracle.machine.simplex.tree.headers.values()}
    assert BLOCKS[3].digest not in oracle.machine.simplex.tree.headers


def test_a_page_that_nobody_asked_for_is_not_read() -> None:
    oracle = Oracle().started()
    channel = oracle.open(ONE, "sync")
    assert oracle.tell(Received(channel, page(*BLOCKS[1:3]))) == [Close(channel)]
    assert oracle.machine.simplex.height == 1


@pytest.mark.spec("SYNC-MERGE.1", "EPOCH-HANDOVER.1")
def test_who_hears_of_a_later_epoch_catches_up_through_the_close() -> None:
    oracle = Oracle().started()
    later = build(opening(2, BLOCKS[-1].state), 1)
    oracle.say(ONE, Certified(later.notarization(), later.header))
    for _ in range(20):
        if oracle.machine.simplex.committee.epoch == 2:
            break
        while oracle.question() is None:
            oracle.wait(50)
        channel, _, request = oracle.question() or (None, 0, None)
        assert channel is not None
        assert request is not None
        assert request.epoch == 1
        oracle.did = []
        blocks = tuple(block.block(block.finalization()) for block in BLOCKS[1:])
        oracle.tell(Received(channel, SyncPage(1, blocks, (), 2, 1)))
    assert oracle.machine.simplex.committee.epoch == 2


@pytest.mark.spec("SYNC-MERGE.1")
def test_a_claim_that_nobody_can_show_is_forgotten() -> None:
    oracle = Oracle().started()
    oracle.say(ONE, say(ONE, VOTE, 1, b"\1" * 32, epoch=7))
    asked = 0
    for _ in range(400):
        if oracle.question() is not None:
            asked += 1
            channel, _, _ = oracle.question() or (None, 0, None)
            assert channel is not None
            oracle.tell(Received(channel, page()))
        oracle.did = [] if oracle.question() is None else oracle.did
        oracle.wait(PARAMS.delta_ms)
    assert 1 <= asked <= 31
    assert oracle.machine.signing == "yes"


@pytest.mark.spec("SYNC-MERGE.1")
def test_where_no_member_is_further_whoever_says_so_is_asked_too() -> None:
    oracle, asked = Oracle().started(), []
    said = say(ELSEWHERE, VOTE, 1, b"\1" * 32, epoch=7)
    oracle.gossip(ELSEWHERE, CommitteeNews(KEYS[ELSEWHERE].node_id, START_MS, statements=(said,)))
    for _ in range(400):
        question = oracle.question()
        if question is not None:
            channel, place, _ = question
            asked.append(place)
            oracle.did = []
            if place == ELSEWHERE:
                blocks = tuple(block.block(block.finalization()) for block in BLOCKS[1:])
                oracle.tell(Received(channel, SyncPage(1, blocks, (), 2, 1)))
                break
            oracle.tell(ChannelClosed(channel, "gone"))
        oracle.wait(PARAMS.delta_ms)
    assert asked[-1] == ELSEWHERE
    assert set(asked[:-1]) <= set(ALL)
    assert oracle.machine.simplex.committee.epoch == 2


# Giving


def given(oracle: Oracle, request: SyncRequest) -> SyncPage:
    """What an oracle answers to a question, from whomever."""
    channel = oracle.open(ONE, "sync", node=STRANGER.node_id)
    effects = oracle.tell(Received(channel, request))
    (answer,) = [effect.message for effect in effects if isinstance(effect, Send) and effect.channel == channel]
    assert any(isinstance(effect, Close) and effect.channel == channel for effect in effects)
    assert isinstance(answer, SyncPage)
    return answer


@pytest.mark.spec("SYNC-MERGE.1", "SYNC-CHECK.1")
def test_a_page_holds_what_is_final_what_is_notarized_and_what_is_proposed() -> None:
    oracle = Oracle().started()
    for block in BLOCKS[1:4]:
        oracle.say(ONE, propose(block, None if block.height == 1 else BLOCKS[block.height - 1].notarization()))
        if block.height < 3:
            oracle.say(ONE, Certified(block.notarization(), block.header))
    oracle.say(ONE, Certified(BLOCKS[1].finalization(), BLOCKS[1].header))
    answer = given(oracle, SyncRequest(1, 1, 9))
    assert [block.header.height for block in answer.blocks] == [1, 2, 3]
    assert [block.certificate and block.certificate.kind.name for block in answer.blocks] == [
        "FINALIZATION",
        "NOTARIZATION",
        None,
    ]
    other = Oracle(place=OTHER)
    other.join(ONE)
    for block in answer.blocks[:2]:
        other.machine.simplex.on_block(block, other.now_ms)
    assert other.machine.simplex.height == 3
    with pytest.raises(CommitteeError):
        other.machine.simplex.on_block(Block(answer.blocks[1].header, b"x", None), other.now_ms)


@pytest.mark.spec("SYNC-MERGE.1")
@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (5, 2), (2**63 - 1, 2**63 - 1), (1, 2**63 - 1), (0, 2**62), (2**40, 2**41)]
)
@pytest.mark.parametrize("epoch", [0, 1, 2, 2**63 - 1])
def test_any_question_gets_a_page_within_bounds(epoch: int, first: int, last: int) -> None:
    oracle = Oracle().started()
    oracle.say(ONE, Certified(nullification(1), None))
    answer = given(oracle, SyncRequest(epoch, first, last))
    assert len(answer.blocks) <= PAGE_BLOCKS_MAX
    assert len(answer.nullifications) <= PAGE_BLOCKS_MAX
    assert (answer.tip_epoch, answer.tip_height) == (1, 0)


def test_so_many_may_ask_at_once_and_no_more() -> None:
    oracle = Oracle().started()
    channels = [oracle.open(30, "sync", node=STRANGER.node_id) for _ in range(SERVED_MAX + 3)]
    assert len(oracle.machine._syncing.served) == SERVED_MAX
    assert Close(channels[-1]) in oracle.did
    oracle.tell(ChannelClosed(channels[0], "reset"))
    assert len(oracle.machine._syncing.served) == SERVED_MAX - 1
    oracle.open(30, "sync", node=STRANGER.node_id)
    assert len(oracle.machine._syncing.served) == SERVED_MAX


def test_a_served_stream_that_brings_something_else_is_closed() -> None:
    oracle = Oracle().started()
    channel = oracle.open(ONE, "sync")
    told = State(say(ONE, VOTE, 1, b"\1" * 32))
    assert oracle.tell(Received(channel, told)) == [Close(channel)]
    assert oracle.machine.simplex.tallies == {}
