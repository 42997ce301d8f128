"""The contracts' events from a cursor on: all of them, each once, in order, whatever an endpoint leaves out."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.api import EventCursor
from chain.binding import binding
from chain.errors import ChainError, ChainUnreachable, HistoryChanged, RpcNonsense
from chain.events import RANGE_MAX, WALKED_GAP, WALKED_MAX
from chain.finality import Finality
from chain.reading import ContractReading
from protocol.core.genesis import Contracts
from protocol.core.ids import NodeId
from protocol.messages.chain import Accepted, Deposited, Drawn, NodeChanged
from tests.unit.chain.scripted import Clock, Happened, ScriptedChain, ScriptedEndpoint, rpc_of

CONTRACTS = Contracts(1, *(NodeId(bytes([at]) * 20) for at in range(1, 7)))
ACCOUNT = NodeId(b"\xaa" * 20)


def word(value: int | bytes) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")


def deposited(number: int, amount: int = 7) -> Happened:
    topic = binding("Escrow").events["Deposited"].topic
    return Happened(CONTRACTS.escrow, (topic, word(number), word(ACCOUNT)), word(amount))


def chain_of(places: Sequence[int], blocks: int, depth: int = 0) -> ScriptedChain:
    """A chain with a deposit in each of these blocks, numbered in order."""
    chain, number = ScriptedChain(depth), 0
    for at in range(1, blocks + 1):
        count = places.count(at)
        chain.mine(*[deposited(number + one + 1) for one in range(count)])
        number += count
    return chain


def reader(*endpoints: ScriptedEndpoint, clock: Clock | None = None) -> ContractReading:
    rpc = rpc_of(*endpoints, clock=clock)
    return ContractReading(rpc, CONTRACTS, Finality(rpc))


def numbers(reading: ContractReading, cursor: EventCursor | None = None, limit: int = 5) -> list[int]:
    """The numbers of all deposits after a cursor, page by page, each page by a client that knows nothing."""
    cursor, found, more = cursor or reading.start(), [], True
    while more:
        page = reading.events(cursor, limit)
        assert all(cursor.number < number <= page.through for number, _ in page.events)
        found += [event.number for _, event in page.events if isinstance(event, Deposited)]
        cursor, more = EventCursor.read(page.cursor.packed()), page.more
    return found


@pytest.mark.spec("CHAIN-CURSOR.1")
@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 40), max_size=30), st.integers(40, 45), st.integers(0, 4), st.integers(1, 9), st.booleans()
)
def test_each_event_is_told_once_and_in_order(
    places: list[int], blocks: int, depth: int, limit: int, batches: bool
) -> None:
    chain = chain_of(sorted(places), blocks, depth)
    final = sum(place <= chain.final for place in places)
    endpoint = ScriptedEndpoint(chain, batches=batches, range_max=7)
    assert numbers(reader(endpoint), limit=limit) == list(range(1, final + 1))


def test_every_kind_of_event_is_what_the_ledger_takes_in() -> None:
    registry, checkpoints = binding("NodeRegistry").events, binding("Checkpoints").events
    members = (NodeId(b"\x01" * 20), NodeId(b"\x02" * 20))
    changed = Happened(
        CONTRACTS.registry,
        (registry["NodeChanged"].topic, word(ACCOUNT), word(members[0])),
        word(5) + word(9) + word(1),
    )
    drawn = Happened(
        CONTRACTS.registry,
        (registry["Drawn"].topic, word(3)),
        word(32) + word(2) + b"".join(word(member) for member in members),
    )
    accepted = Happened(CONTRACTS.checkpoints, (checkpoints["Accepted"].topic, word(2), word(8), b"\x77" * 32))
    strange = Happened(CONTRACTS.registry, (registry["Slashed"].topic, word(ACCOUNT)), b"")
    chain = ScriptedChain()
    chain.mine(changed, strange, drawn, accepted, deposited(1))
    reading = reader(ScriptedEndpoint(chain))
    assert [event for _, event in reading.events(reading.start(), 10).events] == [
        NodeChanged(ACCOUNT, members[0], 5, 9, jailed=True),
        Drawn(3, members),
        Accepted(2, 8, b"\x77" * 32),
        Deposited(1, ACCOUNT, 7),
    ]


def test_only_final_blocks_are_read() -> None:
    chain = chain_of([2, 5], blocks=6, depth=3)
    reading = reader(ScriptedEndpoint(chain))
    page = reading.events(reading.start(), 10)
    assert [event.number for _, event in page.events if isinstance(event, Deposited)] == [1]
    assert (page.through, page.more) == (3, False)
    assert reading.events(page.cursor, 10).events == ()


@pytest.mark.spec("CHAIN-CURSOR.1")
@pytest.mark.parametrize("depth", range(1, 13))
def test_a_reorganisation_of_what_is_not_final_skips_and_repeats_nothing(depth: int) -> None:
    chain = chain_of(list(range(1, 31)), blocks=30, depth=12)
    reading = reader(ScriptedEndpoint(chain))
    first = reading.events(reading.start(), 100)
    chain.reorganise(depth)
    chain.mine(count=12)
    rest = numbers(reading, first.cursor, limit=100)
    assert [event.number for _, event in first.events if isinstance(event, Deposited)] + rest == list(range(1, 31))


@pytest.mark.spec("CHAIN-CURSOR.1")
def test_a_chain_that_takes_back_what_was_final_is_noticed() -> None:
    chain = chain_of([1, 2, 3], blocks=6, depth=1)
    endpoint = ScriptedEndpoint(chain)
    cursor = reader(endpoint).events(reader(endpoint).start(), 10).cursor
    chain.reorganise(4)
    with pytest.raises(HistoryChanged, match="block 5"):
        reader(endpoint).events(cursor, 10)  # another block follows
    chain.blocks = chain.blocks[:7]
    with pytest.raises(HistoryChanged):
        reader(endpoint).events(cursor, 10)  # none follows yet
    chain.blocks = chain.blocks[:3]
    with pytest.raises(ChainUnreachable, match="not final yet"):
        reader(endpoint).events(cursor, 10)  # it was started anew and is not as far


@pytest.mark.spec("CHAIN-CURSOR.1")
def test_an_endpoint_that_leaves_out_a_block_of_a_range_is_caught() -> None:
    chain = chain_of([2, 4, 6], blocks=8)
    with pytest.raises(ChainUnreachable, match="left out the events of block 4"):
        reading = reader(ScriptedEndpoint(chain, hidden={4}))
        reading.events(reading.start(), 10)
    reading = reader(ScriptedEndpoint(chain, hidden={4}), ScriptedEndpoint(chain))
    assert numbers(reading) == [1, 2, 3]


def test_an_endpoint_that_never_tells_a_blocks_events_is_outvoted() -> None:
    chain = chain_of([2, 4, 6], blocks=8)
    silent = ScriptedEndpoint(chain, silent={4})
    assert numbers(reader(silent, ScriptedEndpoint(chain), ScriptedEndpoint(chain))) == [1, 2, 3]
    with pytest.raises(RpcNonsense, match="contradict each other"):
        numbers(reader(ScriptedEndpoint(chain, silent={4}), ScriptedEndpoint(chain)))


def test_blocks_that_do_not_follow_each_other_are_refused() -> None:
    chain = chain_of([2, 4], blocks=8)

    class Unlinked(ScriptedEndpoint):
        def _eth_getBlockByNumber(self, at: str, full: bool) -> dict[str, object] | None:  # noqa: N802
            block = super()._eth_getBlockByNumber(at, full)
            return block if block is None or block["number"] != "0x5" else {**block, "parentHash": "0x" + "9" * 64}

    reading = reader(Unlinked(chain))
    with pytest.raises(ChainUnreachable, match="block 5 that does not follow block 4"):
        reading.events(reading.start(), 10)


@pytest.mark.parametrize("fault", ["block", "hash", "removed", "topics", "data", "amount"])
def test_an_event_that_cannot_be_is_refused(fault: str) -> None:
    chain = chain_of([2], blocks=4)
    endpoint = ScriptedEndpoint(chain)
    log = endpoint._eth_getLogs(
        {
            "fromBlock": "0x1",
            "toBlock": "0x4",
            "address": [f"0x{CONTRACTS.escrow.hex()}"],
            "topics": [[f"0x{binding('Escrow').events['Deposited'].topic.hex()}"]],
        }
    )[0]
    log |= {
        "block": {"blockNumber": "0x9"},
        "hash": {"blockHash": f"0x{chain.blocks[3].hash.hex()}"},
        "removed": {"removed": True},
        "topics": {"topics": log["topics"][:2]},
        "data": {"data": "0x00"},
        "amount": {"data": "0x" + "ff" * 32},
    }[fault]
    endpoint.false["eth_getLogs"] = [log]
    reading = reader(endpoint)
    with pytest.raises(ChainError):
        reading.events(reading.start(), 10)


def test_an_endpoint_with_limits_of_its_own_is_asked_for_less() -> None:
    chain = chain_of([3, 60, 119], blocks=120)
    endpoint = ScriptedEndpoint(chain, range_max=5)
    assert numbers(reader(endpoint)) == [1, 2, 3]
    with pytest.raises(ChainError, match="limited to 0"):
        numbers(reader(ScriptedEndpoint(chain, range_max=0)))


@pytest.mark.spec("CHAIN-CURSOR.1")
def test_far_behind_blocks_are_not_walked_one_by_one() -> None:
    blocks = WALKED_GAP + 3 * RANGE_MAX
    chain = chain_of([5, 2_100, blocks - 3], blocks)
    endpoint = ScriptedEndpoint(chain)
    assert numbers(reader(endpoint), limit=100) == [1, 2, 3]
    walked = WALKED_GAP + 2 * WALKED_MAX
    assert endpoint.asked.count("eth_getBlockByNumber") < walked + 100
    endpoint.false["eth_getLogs"] = [
        {
            "address": f"0x{CONTRACTS.escrow.hex()}",
            "topics": [f"0x{topic.hex()}" for topic in deposited(1).topics],
            "data": f"0x{deposited(1).data.hex()}",
            "blockNumber": hex(5),
            "blockHash": "0x" + "44" * 32,
            "logIndex": "0x0",
            "transactionHash": "0x" + "00" * 32,
        }
    ]
    with pytest.raises(ChainUnreachable, match="of another block than was asked for"):
        reader(endpoint).events(reader(endpoint).start(), 100)


def test_an_outage_is_caught_up_with_from_the_same_cursor() -> None:
    chain, clock = chain_of([2, 4], blocks=5), Clock()
    endpoint = ScriptedEndpoint(chain)
    reading = reader(endpoint, clock=clock)
    page = reading.events(reading.start(), 10)
    endpoint.down = True
    with pytest.raises(ChainUnreachable):
        reading.events(page.cursor, 10)
    for number in range(900):  # half an hour of blocks
        chain.mine(*[deposited(3 + number // 300)] if number % 300 == 0 else [])
    endpoint.down = False
    clock.now += 1_800
    assert numbers(reading, page.cursor) == [3, 4, 5]


def test_a_cursor_is_40_bytes() -> None:
    with pytest.raises(ValueError, match="40 bytes"):
        EventCursor.read(b"\0" * 39)
