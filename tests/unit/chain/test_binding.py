"""The contracts' interfaces as web3 has them: what is sent is what the ABI says, what comes back is that or refused."""

from typing import Any

import pytest
from eth_abi.abi import decode, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from web3.providers import BaseProvider

from chain.binding import CONTRACT_OF, EVENT_BYTES_MAX, Event, Function, binding, reason_of, token_binding
from chain.errors import RpcNonsense
from protocol.core.ids import NodeId
from protocol.core.signing import keccak

NODES = tuple(NodeId(bytes([number]) * 20) for number in range(1, 32))
BOUND = [binding(name) for name in CONTRACT_OF.values()]
FUNCTIONS = [function for one in BOUND for function in one.functions.values()]
EVENTS = [event for one in BOUND for event in one.events.values()]
REASON = keccak(b"Error(string)")[:4]
DRAWN = binding("NodeRegistry").events["Drawn"]

words = st.one_of(st.integers(0, 200), st.integers(2**256 - 64, 2**256 - 1)).map(
    lambda value: value.to_bytes(32, "big")
)
"""As lengths and offsets would be, honest and not."""
answers = st.one_of(st.binary(max_size=300), st.lists(words, max_size=12).map(b"".join))


def test_a_call_is_its_selector_and_its_values() -> None:
    asked = binding("Checkpoints").functions["accepted"]
    assert asked.encode(b"\x07" * 32) == keccak(b"accepted(bytes32)")[:4] + b"\x07" * 32
    drawing = binding("NodeRegistry").functions["draw"].encode(3, NODES)
    assert drawing[:4] == keccak(b"draw(uint256,address[])")[:4]
    epoch, candidates = decode(["uint256", "address[]"], drawing[4:])
    assert (epoch, [bytes.fromhex(one[2:]) for one in candidates]) == (3, list(NODES))
    approving = token_binding().functions["approve"].encode(NODES[0], 5)
    assert approving == keccak(b"approve(address,uint256)")[:4] + NODES[0].rjust(32, b"\0") + (5).to_bytes(32, "big")


@pytest.mark.parametrize("values", [(b"\x07" * 31,), (b"\x07" * 33,), ("seven",), (), (b"\x07" * 32, 1)])
def test_what_the_abi_does_not_know_is_not_sent(values: tuple[Any, ...]) -> None:
    with pytest.raises(Exception, match=r"encod|argument|ABI"):
        binding("Checkpoints").functions["accepted"].encode(*values)


def test_what_comes_back_is_in_our_own_types() -> None:
    record = (
        binding("NodeRegistry")
        .functions["node"]
        .decode(encode(["(address,uint256,uint256,bool,uint256)"], [(NODES[3], 4, 10**18, True, 9)]))
    )
    assert record == (NODES[3], 4, 10**18, True, 9)
    assert type(record[0]) is bytes
    candidates = binding("NodeRegistry").functions["frozen_candidates"].decode(encode(["address[]"], [NODES]))
    assert candidates == NODES


def test_an_event_is_read_by_name() -> None:
    topics = [DRAWN.topic, (5).to_bytes(32, "big")]
    assert DRAWN.topic == keccak(b"Drawn(uint256,address[])")
    assert DRAWN.decode(topics, encode(["address[]"], [NODES])) == {"epoch": 5, "members": NODES}


@pytest.mark.parametrize(
    ("topics", "data"),
    [
        ([DRAWN.topic], encode(["address[]"], [NODES])),
        ([DRAWN.topic, bytes(32), bytes(32)], encode(["address[]"], [NODES])),
        ([bytes(32), bytes(32)], encode(["address[]"], [NODES])),
        ([], b""),
        ([DRAWN.topic, bytes(32)], encode(["address[]"], [NODES])[:-1]),
        ([DRAWN.topic, bytes(32)], bytes(EVENT_BYTES_MAX + 32)),
    ],
)
def test_what_is_no_such_event_is_refused(topics: list[bytes], data: bytes) -> None:
    with pytest.raises(RpcNonsense):
        DRAWN.decode(topics, data)


@settings(max_examples=150)
@given(st.sampled_from(FUNCTIONS), answers)
def test_any_answer_is_read_or_refused(function: Function, data: bytes) -> None:
    try:
        function.decode(data)
    except RpcNonsense:
        return


@settings(max_examples=150)
@given(st.sampled_from(EVENTS), st.lists(words, max_size=4), answers, st.booleans())
def test_any_event_is_read_or_refused(event: Event, topics: list[bytes], data: bytes, named: bool) -> None:
    try:
        values = event.decode([event.topic, *topics] if named else topics, data)
    except RpcNonsense:
        return
    assert set(values) == {item["name"] for item in event.inputs}


@given(answers)
def test_any_revert_has_a_reason_or_none(data: bytes) -> None:
    assert len(reason_of(REASON + data)) <= 200
    assert reason_of(data) == "" or data.startswith(REASON)


def test_the_reason_of_a_revert() -> None:
    assert reason_of(REASON + encode(["string"], ["no stake"])) == "no stake"
    assert reason_of(REASON + encode(["bytes"], [b"\xff\xfe"])) == ""


def test_web3_reaches_nobody() -> None:
    assert type(BOUND[0].contract.w3.provider) is BaseProvider
