"""What a member writes down of the ledger's state, and how it comes back from that."""

from dataclasses import replace

import pytest

from protocol.committee import storage
from protocol.core.codec import pack
from protocol.core.errors import DecodeError
from protocol.messages.committee import CertificateKind
from tests.unit.protocol.committee_at_hand import (
    PARAMS,
    Crashed,
    Made,
    Member,
    batches,
    build,
    keyed,  # noqa: F401
    opening,
)

EVERY = 3
SPARSE = replace(PARAMS, snapshot_blocks=EVERY)
LAST = PARAMS.epoch_blocks


def whole() -> list[Made]:
    """The blocks of an epoch, each with something in it."""
    blocks = [opening()]
    for signed in batches(0, LAST):
        blocks.append(build(blocks[-1], blocks[-1].height + 1, [signed]))
    return blocks


def written(member: Member) -> tuple[int, int] | None:
    """After which block the last snapshot is."""
    data = member.disk.get(storage.STATE)
    stored = None if data is None else storage.unpack_state(data)
    return None if stored is None else (stored.epoch, stored.header.height)


@pytest.mark.spec("STATE-SNAPSHOT.1")
def test_the_whole_state_is_written_now_and_then_and_when_an_epoch_begins() -> None:
    member, seen = Member(params=SPARSE), []
    for block in whole()[1:]:
        member.hear(block.block(block.finalization()))
        seen.append(written(member))
    assert seen == [None, None, (1, 3), (1, 3), (1, 3), (1, 6), (1, 6), (2, 0)]


@pytest.mark.spec("STATE-REPLAY.1")
def test_a_member_comes_back_to_where_it_was_wherever_the_last_snapshot_is() -> None:
    member = Member(params=SPARSE)
    for block in whole()[1:]:
        member.hear(block.block(block.finalization()))
        before = member.simplex.tree.base, member.simplex.settled, member.simplex.snapshot_height
        member.restart()
        assert (member.simplex.tree.base, member.simplex.settled, member.simplex.snapshot_height) == before
    assert member.simplex.committee.epoch == 2


@pytest.mark.spec("STATE-REPLAY.1")
def test_a_crash_at_any_effect_loses_nothing_that_was_told() -> None:
    blocks = whole()
    ends = set()
    for fuse in range(200):
        member = Member(params=SPARSE, fuse=fuse)
        try:
            for block in blocks[1:]:
                member.hear(block.block(block.finalization()))
        except Crashed:
            member.restart()
        else:
            break
        told = max([header.height for header in member.settled], default=0)
        base = member.simplex.tree.base.header
        assert (base.epoch, base.height) >= (1, told)
        ends.add((base.epoch, base.height))
        for block in blocks[1:]:
            member.hear(block.block(block.finalization()))
        assert member.simplex.tree.base.digest == opening(2, blocks[-1].state).digest
        assert member.simplex.tree.base.state.homes.keys() == {1, 2}
    assert ends >= {(1, height) for height in range(LAST)}


@pytest.mark.spec("STATE-REPLAY.1")
def test_only_what_came_after_the_snapshot_is_read_again() -> None:
    member = Member(params=replace(PARAMS, epoch_blocks=600, snapshot_blocks=300))
    blocks = [opening()]
    for height in range(1, 321):
        blocks.append(build(blocks[-1], height))
        member.hear(blocks[-1].block(blocks[-1].finalization()))
    asked: list[bytes] = []

    def load(prefix: bytes) -> dict[bytes, bytes]:
        asked.append(prefix)
        return {name: member.disk[name] for name in sorted(member.disk) if name.startswith(prefix)}

    records = storage.resumed_from(load, 300)
    read = [block.header.height for block in storage.chain_after(records, 1, 300)]
    assert read == list(range(301, 321))
    assert sum(name.startswith(storage.CHAIN) for name in records) < 256
    member.disk = records
    member.restart()
    assert member.simplex.tree.base.header.height == 320


@pytest.mark.spec("STATE-REPLAY.1")
def test_a_disk_that_does_not_hold_together_is_refused() -> None:
    member = Member(params=SPARSE)
    blocks = whole()
    for block in blocks[1:6]:
        member.hear(block.block(block.finalization()))
    sound = dict(member.disk)
    other = blocks[5].block(blocks[5].finalization())
    hole = {name: value for name, value in sound.items() if name != storage.chain_key(1, 4)}
    part = {name: value for name, value in sound.items() if not name.startswith(storage.STATE_PART)}
    body = {**sound, storage.chain_key(1, 5): pack(type(other)(other.header, b"", other.certificate))}
    for disk in (hole, part, body):
        member.disk = disk
        with pytest.raises(DecodeError):
            member.restart()


@pytest.mark.spec("STATE-SNAPSHOT.1")
def test_a_large_state_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 100)
    member = Member(params=replace(PARAMS, snapshot_blocks=1))
    block = whole()[1]
    member.hear(block.block(block.finalization()))
    stored = storage.unpack_state(member.disk[storage.STATE])
    assert stored.parts > 2
    assert storage.packed_state(stored, member.disk) == member.simplex.tree.base.state.pack()
    member.restart()
    assert member.simplex.tree.base.state == block.state
    assert member.simplex.settled is not None
    assert member.simplex.settled.kind is CertificateKind.FINALIZATION
