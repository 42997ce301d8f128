"""The contracts' events of final blocks, whole and in order, from a cursor that survives restarts.

Blocks are walked from the cursor's on: the block of the cursor must still be in the chain, each block must name the
one before it, and every event must be of one of these blocks. So neither a reorganisation nor an endpoint that skips
something goes unnoticed: a block whose bloom filter says that it may hold an event of ours, and for which none was
answered, is asked again by its hash. Far behind, blocks are not walked one by one: only the ends of a range and the
blocks that have events are looked at. Spec: [CHAIN-CURSOR.1]
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from chain.api import EventCursor
from chain.binding import Event
from chain.endpoint import Endpoint, Refused
from chain.errors import HistoryChanged, RpcNonsense
from chain.finality import Finality, checked_block
from chain.replies import Block, Log, octets, quantity
from chain.rpc import Rpc, block_call
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import keccak

WALKED_MAX = 128
"""Blocks in one page when they are walked one by one."""
WALKED_GAP = 1_024
"""Behind by more than this, ranges are read by their ends."""
RANGE_MAX = 2_000
LOGS_MAX = 10_000

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """Which events are read, and what is made of them."""

    events: Mapping[tuple[NodeId, bytes], Event]
    """By contract and topic."""
    decode: Callable[[NodeId, Event, dict[str, object]], T]
    """Raises RpcNonsense."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """What some consecutive final blocks hold."""

    items: tuple[tuple[int, T], ...]
    cursor: EventCursor
    more: bool


class EventReader:
    """See the module. Used from any thread; each call stands for itself."""

    def __init__(self, rpc: Rpc, finality: Finality) -> None:
        self._rpc = rpc
        self._finality = finality
        self._span = RANGE_MAX
        """How many blocks are asked for at once: fewer where an endpoint refuses."""

    def page(self, query: Query[T], after: EventCursor, limit: int) -> Page[T]:
        """The next events. Raises HistoryChanged if the cursor's block is not in the chain, ChainError."""
        final = self._finality.finalized()
        if after.number >= final.number:
            if self._finality.block_at(after.number).hash != after.hash:
                raise _changed(after)
            return Page((), after, False)
        gap = final.number - after.number
        last = after.number + min(gap, self._span, WALKED_MAX if gap <= WALKED_GAP else RANGE_MAX)
        try:
            read = self._rpc.agreed(
                lambda endpoint: _read(endpoint, query, after, last, walked=gap <= WALKED_GAP),
                f"the events of blocks {after.number + 1} to {last}",
            )
        except Refused:
            # Endpoints have limits of their own on how many blocks or events they answer.
            if last - after.number == 1:
                raise
            self._span = max(1, (last - after.number) // 2)
            return self.page(query, after, limit)
        self._span = min(RANGE_MAX, self._span * 2)
        if read is None:
            raise _changed(after)
        cursor, items = _cut(read, limit)
        return Page(items, cursor, cursor.number < final.number)


_Items = tuple[tuple[int, Digest, T], ...]
"""Number and hash of the block, and what happened in it."""


def _read(
    endpoint: Endpoint, query: Query[T], after: EventCursor, last: int, *, walked: bool
) -> tuple[EventCursor, _Items[T]] | None:
    """What one endpoint says of the blocks after a cursor; None if the cursor's is in its chain no more."""
    numbers = list(range(after.number, last + 1)) if walked else [after.number, last]
    blocks = _blocks(endpoint, numbers)
    if octets(blocks[after.number].hash, 32) != after.hash:
        return None
    if walked:
        _check_links(endpoint, blocks, numbers)
    logs = _logs(endpoint, query, {"fromBlock": hex(after.number + 1), "toBlock": hex(last)})
    if walked:
        _check_blooms(endpoint, query, blocks, logs)
    else:
        blocks |= _blocks(endpoint, sorted({quantity(log.block_number) for log in logs} - blocks.keys()))
    items: list[tuple[int, Digest, T]] = []
    for log in logs:
        number = quantity(log.block_number)
        block = blocks.get(number)
        if number <= after.number or number > last or block is None or log.block_hash != block.hash or log.removed:
            raise RpcNonsense(f"{endpoint.name} answered an event of another block than was asked for")
        items.append((number, Digest(octets(block.hash, 32)), _decoded(query, log)))
    return EventCursor(last, Digest(octets(blocks[last].hash, 32))), tuple(items)


def _blocks(endpoint: Endpoint, numbers: Sequence[int]) -> dict[int, Block]:
    found = endpoint.batch([block_call(number) for number in numbers], Block | None)
    return {number: checked_block(endpoint, number, block) for number, block in zip(numbers, found, strict=True)}


def _check_links(endpoint: Endpoint, blocks: Mapping[int, Block], numbers: Sequence[int]) -> None:
    for number in numbers[1:]:
        if blocks[number].parent_hash != blocks[number - 1].hash:
            raise RpcNonsense(f"{endpoint.name} answered a block {number} that does not follow block {number - 1}")


def _check_blooms(endpoint: Endpoint, query: Query[T], blocks: Mapping[int, Block], logs: Sequence[Log]) -> None:
    said = {quantity(log.block_number) for log in logs}
    for number in sorted(blocks)[1:]:
        if number in said or not _may_hold(query, octets(blocks[number].logs_bloom, 256)):
            continue
        if _logs(endpoint, query, {"blockHash": blocks[number].hash}):
            raise RpcNonsense(f"{endpoint.name} left out the events of block {number}")


def _may_hold(query: Query[T], bloom: bytes) -> bool:
    filled = int.from_bytes(bloom, "big")
    return filled != 0 and any(
        _in_bloom(filled, address) and _in_bloom(filled, topic) for address, topic in query.events
    )


def _in_bloom(filled: int, value: bytes) -> bool:
    """Source: Ethereum yellow paper, 4.3.1: three bits, each named by 11 bits of the hash."""
    hashed = keccak(value)
    return all(filled >> (int.from_bytes(hashed[at : at + 2], "big") & 2047) & 1 for at in (0, 2, 4))


def _logs(endpoint: Endpoint, query: Query[T], where: dict[str, str]) -> list[Log]:
    addresses = sorted({address for address, _ in query.events})
    topics = sorted({topic for _, topic in query.events})
    wanted = {
        **where,
        "address": [f"0x{address.hex()}" for address in addresses],
        "topics": [[f"0x{topic.hex()}" for topic in topics]],
    }
    logs: list[Log] = endpoint.call("eth_getLogs", [wanted], list[Log])
    if len(logs) > LOGS_MAX:
        raise RpcNonsense(f"{endpoint.name} answered {len(logs)} events")
    kept = [log for log in logs if _key(log) in query.events]  # two contracts may have events of one topic
    return sorted(kept, key=lambda log: (quantity(log.block_number), quantity(log.log_index)))


def _key(log: Log) -> tuple[NodeId, bytes]:
    return NodeId(octets(log.address, 20)), octets(log.topics[0], 32) if log.topics else b""


def _decoded(query: Query[T], log: Log) -> T:
    key = _key(log)
    event = query.events[key]
    values = event.decode([octets(topic, 32) for topic in log.topics], octets(log.data))
    return query.decode(key[0], event, values)


def _cut(read: tuple[EventCursor, _Items[T]], limit: int) -> tuple[EventCursor, tuple[tuple[int, T], ...]]:
    """Whole blocks, until there are enough events."""
    cursor, items = read
    if len(items) > limit:
        number, hashed, _ = items[max(limit, 1) - 1]
        cursor = EventCursor(number, hashed)
    return cursor, tuple((number, item) for number, _, item in items if number <= cursor.number)


def _changed(after: EventCursor) -> HistoryChanged:
    return HistoryChanged(f"block {after.number}, up to which events were read, is in the chain no more")
