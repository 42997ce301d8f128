"""The blocks on an oracle's disk, for whoever looks at them without the node."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p2pnode.oracle_records import stored_genesis
from p2pnode.store import StoreError, read_store
from protocol.committee import storage
from protocol.committee.epochs import FIRST_EPOCH
from protocol.committee.members import Committee, make_committee
from protocol.core.errors import DecodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.light.handovers import hand_over_key, unpack_hand_over
from protocol.messages.committee import EMPTY_BODY, Block


def stored_rows(folder: Path, last: int) -> list[dict[str, Any]]:
    """What `p2pnode blocks` shows of the last blocks, the newest last. Raises StoreError."""
    blocks = stored_blocks(folder, last)
    committees = _committees(folder, blocks)
    return list(_rows(blocks, committees))


def stored_blocks(folder: Path, last: int | None = None, *, epoch: int | None = None) -> list[Block]:
    """The last blocks of the finalized chain, or of one epoch, the newest last. Raises StoreError."""
    prefix = storage.CHAIN + (b"" if epoch is None else epoch.to_bytes(8, "big"))
    try:
        return [storage.unpack_block(data) for data in read_store(folder, prefix, last=last).values()]
    except DecodeError as error:
        raise StoreError(f"the chain in {folder} cannot be read: {error}") from error


def stored_members(folder: Path, genesis: Genesis, epoch: int) -> tuple[NodeId, ...]:
    """The committee of an epoch; empty where it is not known here. Raises StoreError."""
    if epoch == FIRST_EPOCH:
        return genesis.committee
    key = hand_over_key(epoch - 1)
    data = read_store(folder, key).get(key)
    return () if data is None else tuple(map(NodeId, unpack_hand_over(data).members))


def _rows(blocks: Sequence[Block], committees: dict[int, Committee]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        header = block.header
        committee = committees.get(header.epoch)
        leader = None if committee is None else committee.members[committee.leader(header.height)]
        yield {
            "epoch": header.epoch,
            "height": header.height,
            "leader": None if leader is None else "0x" + leader.hex(),
            "outcomes": header.results_count,
            "empty": header.body == EMPTY_BODY,
            # When it became final only the process knows that saw it.
            "final_ms": None,
            "gap_ms": None,
        }


def _committees(folder: Path, blocks: Sequence[Block]) -> dict[int, Committee]:
    """The committee of each epoch, as far as it is known who that is."""
    genesis = stored_genesis(folder)
    if genesis is None:
        return {}
    epochs = dict.fromkeys(block.header.epoch for block in blocks)
    known = {epoch: stored_members(folder, genesis, epoch) for epoch in epochs}
    network = genesis.network_id()
    return {epoch: make_committee(network, epoch, members) for epoch, members in known.items() if members}
