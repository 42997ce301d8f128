"""The client's machine when its miners change: it goes on with the same text, and believes the router no more."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import Close
from protocol.core.signing import typed_digest
from protocol.messages.envelope import envelope_digest
from protocol.messages.sessions import BidSet, SessionOpen, SessionReady
from protocol.messages.tasks import AckMessage, EndReason, EndRecord, FrameMessage, SegmentStart, TaskOrder
from protocol.roles.client import SessionAssigned, TaskHead
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    DOMAIN,
    GENERATION,
    MALLORY,
    MINERS,
    PROMPT_TOKENS,
    ROUTER,
    assignment_of,
    bid_set_of,
    head_of,
    id_of,
    sent,
)

CONTENT = [(index, b"%d " % index) for index in range(12)]
TASK = 3
"""The handle of the answer."""


def generation_of(number: int) -> bytes:
    return GENERATION if number == 1 else b"\x47" * 23 + bytes([number])


def ready_of(opening: SessionOpen, number: int, miner: Key, signer: Key = ROUTER, **fields: object) -> SessionReady:
    """An assignment of the lane to one of three bidders."""
    bid_set = bid_set_of(opening, MINERS[:3])
    content = {"number": number, "miners": (miner.node,), "generations": (generation_of(number),)}
    assignment = assignment_of(opening, **{"bid_set": envelope_digest(DOMAIN, bid_set, BidSet), **content, **fields})
    return SessionReady(id_of(opening), assignment, signer.sign(typed_digest(DOMAIN, assignment)), bid_set)


class Asking(Client):
    """A client with a session and an order, and the miners that write it."""

    def __init__(self) -> None:
        super().__init__()
        self.says(HELLO)
        self.opening = self.open()
        self.says(ready_of(self.opening, 1, MINERS[0]))
        self.asked: TaskOrder = self.order(self.ask(TASK))
        self.index, self.chain, self.number = 0, ZERO_DIGEST, 1
        self.begin(MINERS[0])

    def begin(self, miner: Key) -> None:
        """The next segment's writer."""
        head = head_of(
            self.asked,
            generation_of(self.number),
            miner=miner.node,
            start_index=self.index,
            previous_head=self.chain,
        )
        self.writer = SegmentWriter(DOMAIN, miner.sign, head)

    def next_frame(self, count: int, *, end: bool = False) -> FrameMessage:
        """The writer's next frame."""
        part = CONTENT[self.index : self.index + count]
        record = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), self.index + len(part), 0) if end else None
        frame = self.writer.frame([i for i, _ in part], [text for _, text in part], record)
        if part:
            self.index, self.chain = self.writer.index, self.writer.chain
        return frame

    def take_over(self, miner: Key) -> list[object]:
        """The router names another miner."""
        self.number += 1
        effects = self.says(ready_of(self.opening, self.number, miner))
        self.begin(miner)
        return effects


@pytest.mark.spec("CHAIN-TAKEOVER.1", "ASSIGN-NUMBER.1", "TASK-TERMINAL.1")
@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 2)), max_size=6))
def test_text_is_shown_once_over_any_number_of_takeovers(segments: list[tuple[bool, int, int]]) -> None:
    client = Asking()
    heads = 0
    for begun, count, miner in segments:
        if begun:
            client.says(SegmentStart(client.writer.head))
            heads += 1
            if count and client.index < len(CONTENT):
                client.says(client.next_frame(count))
        client.take_over(MINERS[miner])
        assert isinstance(client.items[SESSION_HANDLE][-1], SessionAssigned)
    client.says(SegmentStart(client.writer.head), client.next_frame(len(CONTENT), end=True))
    assert client.text(TASK) == b"".join(text for _, text in CONTENT)
    assert client.over(TASK).end.completion_tokens == len(CONTENT)
    assert sum(isinstance(item, TaskHead) for item in client.items[TASK]) == heads + 1


@pytest.mark.spec("ASSIGN-NUMBER.1", "CHAIN-TAKEOVER.1")
@pytest.mark.parametrize(
    "make",
    [
        lambda opening: ready_of(opening, 1, MINERS[1]),
        lambda opening: ready_of(opening, 2, MINERS[1]),
        lambda opening: ready_of(opening, 3, MINERS[3]),
        lambda opening: ready_of(opening, 3, MINERS[1], signer=MALLORY),
        lambda opening: ready_of(opening, 3, MINERS[1], session=bytes(32)),
        lambda opening: ready_of(opening, 3, MINERS[1], bid_set=bytes(32)),
    ],
    ids=["lower number", "same number", "no bid", "forged", "another session", "another bid set"],
)
def test_an_assignment_that_does_not_hold_ends_the_trust_in_the_router(
    make: Callable[[SessionOpen], SessionReady],
) -> None:
    client = Asking()
    client.says(SegmentStart(client.writer.head), client.next_frame(3))
    client.take_over(MINERS[2])
    effects = client.says(make(client.opening))
    assert Close(client.channel) in effects
    assert client.over(TASK).code == "router_lost"
    assert client.text(TASK) == b"0 1 2 "


@pytest.mark.spec("CHAIN-TAKEOVER.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize("begun", [False, True])
def test_a_frame_of_the_miner_that_was_replaced_is_not_shown(begun: bool) -> None:
    client = Asking()
    client.says(SegmentStart(client.writer.head), client.next_frame(3))
    index, chain = client.index, client.chain
    late = client.next_frame(3)
    client.index, client.chain = index, chain
    client.take_over(MINERS[1])
    client.says(*[SegmentStart(client.writer.head)] * begun, late)
    assert client.over(TASK).code == "transcript_broken"
    assert client.text(TASK) == b"0 1 2 "


@pytest.mark.spec("CHAIN-TAKEOVER.1", "TASK-TERMINAL.1")
def test_after_a_broken_frame_the_client_does_not_go_on_whoever_takes_over() -> None:
    client = Asking()
    client.says(SegmentStart(client.writer.head), client.next_frame(3))
    index, chain = client.index, client.chain
    bad = msgspec.structs.replace(client.next_frame(3), signature=bytes(64) + b"\x1b")
    client.says(bad)
    assert client.over(TASK).code == "transcript_broken"
    client.index, client.chain = index, chain
    client.take_over(MINERS[1])
    assert client.says(SegmentStart(client.writer.head), client.next_frame(3)) == []
    assert client.text(TASK) == b"0 1 2 "


@pytest.mark.spec("CHAIN-TAKEOVER.1")
@pytest.mark.parametrize("fields", [{"start_index": 2}, {"start_index": 0}, {"previous_head": ZERO_DIGEST}])
def test_a_segment_that_goes_on_elsewhere_is_refused(fields: dict[str, object]) -> None:
    client = Asking()
    client.says(SegmentStart(client.writer.head), client.next_frame(3))
    client.take_over(MINERS[1])
    client.says(SegmentStart(msgspec.structs.replace(client.writer.head, **fields)))
    assert client.over(TASK).code == "transcript_broken"


@pytest.mark.spec("ACK-SIGNED.1", "CHAIN-TAKEOVER.1")
def test_acks_name_the_lease_that_streams_and_the_lanes_whole_length() -> None:
    client = Asking()
    client.says(SegmentStart(client.writer.head), client.next_frame(5))
    client.take_over(MINERS[1])
    effects = client.says(SegmentStart(client.writer.head), client.next_frame(7, end=True))
    (ack,) = [message for message in sent(effects) if isinstance(message, AckMessage)]
    assert (ack.ack.generation, ack.ack.index, ack.ack.chain) == (generation_of(2), 12, client.chain)


def test_an_order_after_a_takeover_expects_the_new_miner() -> None:
    client = Asking()
    client.take_over(MINERS[1])
    client.asked = client.order(client.ask(TASK + 1))
    client.index, client.chain = 0, ZERO_DIGEST
    client.begin(MINERS[1])
    client.says(SegmentStart(client.writer.head), client.next_frame(12, end=True))
    assert client.over(TASK + 1).end.completion_tokens == 12
