"""Results of lanes that several miners wrote: who ends one cites the others, with what the client accepted of each."""

import msgspec
import pytest

from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import Close
from protocol.core.signing import typed_digest
from protocol.messages.results import SEGMENTS_CLAIMED_MAX, RevealMessage
from protocol.messages.tasks import Ack, AckMessage, Continuation
from protocol.results.commitment import chain_heads, check_opening, check_opens
from protocol.session.transcript import SegmentWriter, replay, segment_id
from tests.unit.protocol.light_at_hand import EPOCH
from tests.unit.protocol.machines import CLIENT, DOMAIN, MALLORY, MINER, MINERS, PARAMS, head_of, opening_of, order_of
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed
from tests.unit.protocol.test_machine_miner_results import checked

EACH = 2
"""Tokens of each miner before."""


def continuation_of(order: object, segments: int) -> Continuation:
    """What other miners signed of an order, each so many tokens."""
    heads, ids, texts = [], list[int](), list[bytes]()
    chain = ZERO_DIGEST
    for number in range(segments):
        head = head_of(
            order,  # type: ignore[arg-type]
            bytes([0x48 + number]) * 24,
            miner=MINERS[1 + number % 4].node,
            price_wei=number,
            start_index=len(ids),
            previous_head=chain,
        )
        writer = SegmentWriter(DOMAIN, MINERS[1].sign, head)
        tokens = range(100 + len(ids), 100 + len(ids) + EACH)
        words = [b"%d " % token for token in tokens]
        writer.frame(list(tokens), words, None)
        heads.append(head)
        ids += tokens
        texts += words
        chain = writer.chain
    return Continuation(tuple(heads), tuple(ids), tuple(texts))


class Takeover(Streamed):
    """An order that others began and this miner ends."""

    def __init__(self, mine: Bound, segments: int = 1) -> None:
        opening = opening_of()
        leased = mine.lease(opening)
        fields = {"cap_wei": 10_000, "home_epoch": EPOCH}
        self.resume = continuation_of(order_of(opening, **fields), segments)
        super().__init__(mine, opening, leased=leased, resume=self.resume)
        self.verifier.index = len(self.resume.ids)
        self.verifier.chain = replay(DOMAIN, self.resume)

    def earlier(self, place: int, index: int, signer: object = CLIENT, **fields: object) -> AckMessage:
        """The client's ack of a segment before."""
        head = self.resume.heads[place]
        ack = Ack(head.session, head.task, 0, head.generation, segment_id(DOMAIN, head), index, b"\x07" * 32)
        ack = msgspec.structs.replace(ack, **fields)
        return AckMessage(ack, signer.sign(typed_digest(DOMAIN, ack)))  # type: ignore[attr-defined]


@pytest.mark.spec("ACK-EARLIER.1", "OPENING-VALID.1", "RESULT-ROOT.1")
def test_acks_of_the_segments_before_go_into_the_opening() -> None:
    mine = Bound()
    run = Takeover(mine, 2)
    for message in (run.earlier(0, 2), run.earlier(1, 3), run.earlier(1, 4), run.earlier(1, 3)):
        assert mine.receive(run.channel, message) == []
    run.done()
    (commit,) = mine.commits()
    opening = checked(commit)
    assert [segment.ack and segment.ack.index for segment in opening.segments] == [2, 4, 7]
    assert [segment.miner for segment in opening.segments] == [MINERS[1].node, MINERS[2].node, MINER.node]
    assert [segment.price_wei for segment in opening.segments] == [0, 1, 0]
    assert opening.count == 7


@pytest.mark.spec("ACK-EARLIER.1", "OPENING-ACK.1")
def test_an_ack_of_a_segment_before_that_comes_late_is_handed_in_with_what_is_sent_again() -> None:
    mine = Bound()
    run = Takeover(mine)
    run.done()
    (commit,) = mine.commits()
    assert checked(commit).segments[0].ack is None
    mine.receive(run.channel, run.earlier(0, 2))
    mine.wait(PARAMS.result_resend_ms)
    (reveal,) = [message for message in mine.heard() if isinstance(message, RevealMessage)]
    check_opens(DOMAIN, commit.signed.commit, reveal.signed.reveal, reveal.opening)
    check_opening(DOMAIN, CLIENT.node, reveal.opening)
    assert reveal.opening.segments[0].ack is not None


@pytest.mark.spec("ACK-EARLIER.1")
@pytest.mark.parametrize(
    "fields",
    [{"index": 0}, {"index": 3}, {"segment": bytes(32)}, {"generation": b"\x01" * 24}, {"session": bytes(32)}],
    ids=["of nothing", "of more than there is", "another segment", "another generation", "another session"],
)
def test_an_ack_that_names_no_segment_before_is_none(fields: dict[str, object]) -> None:
    mine = Bound()
    run = Takeover(mine)
    effects = mine.receive(run.channel, run.earlier(0, **{"index": 2, **fields}))  # type: ignore[arg-type]
    if "index" in fields:
        assert effects == [], "the client signed it: the router cannot know"
        run.done()
        (commit,) = mine.commits()
        assert checked(commit).segments[0].ack is None
    else:
        assert Close(run.channel) in effects


@pytest.mark.spec("ACK-EARLIER.1", "ACK-SIGNED.1")
def test_only_the_client_acknowledges() -> None:
    mine = Bound()
    run = Takeover(mine)
    assert Close(run.channel) in mine.receive(run.channel, run.earlier(0, 2, MALLORY))


@pytest.mark.spec("RESULT-ROOT.1", "OPENING-VALID.1")
def test_of_many_segments_the_last_are_named_and_the_others_stand_in_one_digest() -> None:
    mine = Bound()
    run = Takeover(mine, SEGMENTS_CLAIMED_MAX + 2)
    run.done()
    (commit,) = mine.commits()
    opening = checked(commit)
    assert len(opening.segments) == SEGMENTS_CLAIMED_MAX
    cut = len(run.resume.heads) + 1 - SEGMENTS_CLAIMED_MAX
    assert opening.earlier == chain_heads(ZERO_DIGEST, [segment_id(DOMAIN, head) for head in run.resume.heads[:cut]])


@pytest.mark.spec("OPENING-ACK.1")
def test_a_takeover_that_adds_no_token_waits_for_the_ack_of_those_before() -> None:
    mine = Bound()
    run = Takeover(mine)
    run.end(0)
    assert not mine.commits()
    mine.receive(run.channel, run.earlier(0, 2))
    (commit,) = mine.commits()
    assert [segment.ack and segment.ack.index for segment in checked(commit).segments] == [2, None]


def test_a_miner_whose_lane_is_taken_from_it_has_nothing_to_commit_to() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.render()
    run.produce(3)
    run.ack()
    mine.request(run.opening)
    mine.wait(PARAMS.ack_wait_ms)
    assert (mine.told_results(), mine.disk) == ([], {})
