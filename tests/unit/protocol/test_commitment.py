"""Result roots, commitments, reveals and openings."""

import msgspec
import pytest

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.messages.results import AckWord, Opening, Reveal, Segment
from protocol.messages.tasks import Ack, SegmentHead, TaskOrder
from protocol.results.commitment import (
    check_opening,
    check_opens,
    commit_of,
    commitment,
    make_opening,
    opening_root,
    segment_of,
)
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import CLIENT, DOMAIN, MINER, head_of, opening_of, order_of

SALT = b"\x05" * 32
ORDER: TaskOrder = order_of(opening_of())
OTHER_GENERATION = b"\x77" * 24


def signed(order: TaskOrder, key: Key = CLIENT) -> bytes:
    return key.sign(typed_digest(DOMAIN, order))


def with_ack(head: SegmentHead, index: int, key: Key = CLIENT, **changes: object) -> Segment:
    ack = Ack(head.session, head.task, head.lane, head.generation, typed_digest(DOMAIN, head), index, b"\x09" * 32)
    ack = msgspec.structs.replace(ack, **changes)
    word = AckWord(index, b"\x09" * 32, key.sign(typed_digest(DOMAIN, ack)))
    return msgspec.structs.replace(segment_of(head), ack=word)


FIRST = head_of(ORDER)
SECOND = head_of(ORDER, OTHER_GENERATION, start_index=5, previous_head=b"\x31" * 32)


def opening(*segments: Segment, count: int = 8, heads: tuple[SegmentHead, ...] = (FIRST, SECOND)) -> Opening:
    return make_opening(
        DOMAIN, ORDER, signed(ORDER), heads, b"\x08" * 32, count, segments or (*map(segment_of, heads),)
    )


def reveal_of(made: Opening) -> Reveal:
    last = made.segments[-1]
    place = (ORDER.session, ORDER.task, made.lane, last.generation, last.miner)
    return Reveal(*place, opening_root(DOMAIN, made), made.count, SALT)


@pytest.mark.spec("COMMIT-BOUND.1")
def test_a_commitment_depends_on_everything_it_binds() -> None:
    bound = (b"\x01" * 32, 1, 0, b"\x02" * 24, b"\x03" * 20, b"\x04" * 32, SALT)
    changed = (b"\x11" * 32, 2, 1, b"\x12" * 24, b"\x13" * 20, b"\x14" * 32, b"\x15" * 32)
    made = {commitment(DOMAIN, *bound)}
    for place in range(len(bound)):
        made.add(commitment(DOMAIN, *bound[:place], changed[place], *bound[place + 1 :]))  # type: ignore[arg-type]
    assert len(made) == 1 + len(bound)


@pytest.mark.spec("REVEAL-OPENS.1", "RESULT-ROOT.1")
def test_a_reveal_opens_its_own_commit_and_no_other() -> None:
    made = opening()
    reveal = reveal_of(made)
    commit = commit_of(DOMAIN, reveal)
    check_opens(DOMAIN, commit, reveal, made)
    copied = msgspec.structs.replace(commit, miner=CLIENT.node)
    others = [msgspec.structs.replace(reveal, salt=ZERO_DIGEST), msgspec.structs.replace(reveal, root=ZERO_DIGEST)]
    for bad_commit, bad_reveal in [(copied, reveal), *((commit, other) for other in others)]:
        with pytest.raises(RemoteProtocolError, match="does not open"):
            check_opens(DOMAIN, bad_commit, bad_reveal, made)
    stolen = msgspec.structs.replace(reveal, miner=CLIENT.node)
    with pytest.raises(RemoteProtocolError, match="another lane's"):
        check_opens(DOMAIN, commit_of(DOMAIN, stolen), stolen, made)


@pytest.mark.spec("RESULT-ROOT.1")
def test_the_root_is_of_the_whole_result() -> None:
    made = opening()
    others = [
        msgspec.structs.replace(made, chain=ZERO_DIGEST),
        msgspec.structs.replace(made, count=7),
        msgspec.structs.replace(made, model=ZERO_DIGEST),
        msgspec.structs.replace(made, segments=made.segments[1:]),
        msgspec.structs.replace(made, segments=made.segments[::-1]),
    ]
    assert len({opening_root(DOMAIN, each) for each in [made, *others]}) == 1 + len(others)


@pytest.mark.spec("RESULT-ROOT.1")
def test_what_an_opening_leaves_out_still_counts() -> None:
    heads = [head_of(ORDER, bytes([at]) * 24, start_index=at) for at in range(10)]
    made = opening(count=10, heads=tuple(heads))
    assert [segment.start_index for segment in made.segments] == list(range(2, 10))
    assert made.earlier != ZERO_DIGEST
    check_opening(DOMAIN, CLIENT.node, made)
    without = msgspec.structs.replace(made, earlier=ZERO_DIGEST)
    assert opening_root(DOMAIN, without) != opening_root(DOMAIN, made)


@pytest.mark.spec("OPENING-VALID.1")
def test_what_the_client_signed_is_taken() -> None:
    check_opening(DOMAIN, CLIENT.node, opening(with_ack(FIRST, 5), with_ack(SECOND, 8)))
    check_opening(DOMAIN, CLIENT.node, opening(with_ack(FIRST, 3), segment_of(SECOND)))


@pytest.mark.spec("OPENING-VALID.1")
def test_what_the_client_did_not_sign_is_not() -> None:
    dearer = msgspec.structs.replace(with_ack(SECOND, 8), price_wei=8)
    bad = [
        msgspec.structs.replace(opening(), signature=signed(ORDER, MINER)),
        opening(with_ack(FIRST, 5, MINER), segment_of(SECOND)),
        opening(with_ack(FIRST, 6), segment_of(SECOND)),
        opening(segment_of(FIRST), with_ack(SECOND, 9)),
        opening(segment_of(FIRST), dearer),
        opening(segment_of(FIRST), with_ack(SECOND, 8, generation=FIRST.generation)),
        opening(count=ORDER.max_tokens + 1),
        opening(count=4),
        opening(segment_of(SECOND), heads=(SECOND,)),
        opening(segment_of(SECOND), segment_of(FIRST), heads=(SECOND, FIRST)),
        msgspec.structs.replace(opening(with_ack(FIRST, 5), segment_of(SECOND)), lane=1),
    ]
    for made in bad:
        with pytest.raises(RemoteProtocolError):
            check_opening(DOMAIN, CLIENT.node, made)
