"""The blocks on an oracle's disk, for whoever looks at them without the node."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p2pnode.oracle_records import stored_genesis
from p2pnode.store import StoreError, read_store
from protocol.committee import storage
from protocol.committee.election import committee_root
from protocol.committee.epochs import FIRST_EPOCH
from protocol.committee.members import Committee, make_committee
from protocol.core.errors import DecodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
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


def stored_members(folder: Path, genesis: Genesis) -> list[tuple[NodeId, ...]]:
    """The committees that are known without reading the whole chain: the first one and the present one."""
    state = read_store(folder, storage.STATE).get(storage.STATE)
    present = [] if state is None else [tuple(map(NodeId, storage.unpack_state(state).members))]
    return list(dict.fromkeys([genesis.committee, *present]))


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
    """Of each epoch the committee whose root the epoch before names, as far as it is known who that is."""
    genesis = stored_genesis(folder)
    if genesis is None or not blocks:
        return {}
    before = blocks[0].header.epoch - 1
    named = [*stored_blocks(folder, 1, epoch=before), *blocks]
    roots = {block.header.epoch + 1: block.header.next_committee for block in named}
    roots[FIRST_EPOCH] = committee_root(genesis.committee)
    by_root: dict[bytes, tuple[NodeId, ...]] = {
        committee_root(members): members for members in stored_members(folder, genesis)
    }
    network = genesis.network_id()
    return {epoch: make_committee(network, epoch, by_root[root]) for epoch, root in roots.items() if root in by_root}
