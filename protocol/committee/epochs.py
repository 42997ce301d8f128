"""How consensus begins: from genesis, from what a node has on disk, and from the epoch before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.committee import storage
from protocol.committee.effects import COMMITTEE
from protocol.committee.members import Committee, make_committee
from protocol.committee.payload import Payload, opening_header
from protocol.committee.replay import replay
from protocol.committee.signer import Signer
from protocol.committee.simplex import Rules, Simplex
from protocol.committee.storage import FIRST_EPOCH as FIRST_EPOCH
from protocol.committee.tree import Base, Tree
from protocol.committee.waiting import Waiting
from protocol.core.ids import NodeId
from protocol.core.machine import Persist
from protocol.messages.committee import Block, Certificate, Certified, header_digest


@dataclass(frozen=True, slots=True)
class Epochs:
    """Makes the consensus of one epoch after the other, for one node."""

    rules: Rules
    payload: Payload
    signer: Signer
    waiting: Waiting
    genesis_members: tuple[NodeId, ...]

    def genesis(self, now_ms: int) -> Simplex:
        """The first epoch. Raises ParameterError if the genesis committee is none."""
        committee = self._committee(FIRST_EPOCH, self.genesis_members)
        return self._open(committee, self.payload.genesis(committee), now_ms)

    def resume(self, records: Mapping[bytes, bytes], now_ms: int) -> tuple[Simplex, Certified | None]:
        """Where a node stopped, and what closed the epoch before.

        ``records`` are those that ``storage.resumed_from`` names. Raises DecodeError for records of another format.
        Spec: [STATE-REPLAY.1]
        """
        closing: Certified | None = None
        certificate: Certificate | None = None
        if storage.STATE in records:
            stored = storage.unpack_state(records[storage.STATE])
            committee = self._committee(stored.epoch, tuple(map(NodeId, stored.members)))
            state = self.payload.restore(storage.packed_state(stored, records))
            base = Base(stored.header, header_digest(self.rules.domain, stored.header), state)
            certificate, closing = stored.certificate, stored.closing
        else:
            committee = self._committee(FIRST_EPOCH, self.genesis_members)
            base = self._opening(committee, self.payload.genesis(committee))
        blocks = storage.chain_after(records, committee.epoch, base.header.height)
        end, latest = replay(self.rules.domain, self._tree(base), blocks)
        simplex = self._simplex(committee, end, now_ms)
        simplex.tree.final = simplex.settled = latest or certificate
        simplex.snapshot_height = base.header.height
        # A crash may have come between the last block of an epoch and the next epoch's first record.
        simplex.closed = simplex.settled is not None and end.header.height >= self.rules.params.epoch_blocks
        simplex.resume(*_open_records(records, committee.epoch), now_ms)
        return simplex, closing

    def next(self, closed: Simplex, now_ms: int) -> tuple[Simplex, Certified, list[object]]:
        """The epoch after a closed one, what closed it, and what is to be made durable first.

        Spec: [EPOCH-HANDOVER.1]
        """
        base = closed.tree.base
        assert closed.settled is not None, "an epoch is closed by a finalization"
        closing = Certified(closed.settled, base.header)
        committee = self._committee(closed.committee.epoch + 1, base.state.next_members)
        simplex = self._open(committee, base.state, now_ms)
        snapshot = storage.state_records(committee, simplex.tree.base, None, closing)
        return simplex, closing, [Persist(COMMITTEE, (*snapshot, *_dropped(closed)), vital=False)]

    def _committee(self, epoch: int, members: tuple[NodeId, ...]) -> Committee:
        return make_committee(self.rules.domain.network_id, epoch, members)

    def _open(self, committee: Committee, state: Any, now_ms: int) -> Simplex:
        return self._simplex(committee, self._opening(committee, state), now_ms)

    def _opening(self, committee: Committee, state: Any) -> Base:
        """What the first block of an epoch follows: its header's roots are those that closed the last epoch."""
        header = opening_header(committee.epoch, state.roots)
        turned = state if committee.epoch == FIRST_EPOCH else self.payload.turn(state, committee)
        return Base(header, header_digest(self.rules.domain, header), turned)

    def _simplex(self, committee: Committee, base: Base, now_ms: int) -> Simplex:
        self.waiting.settle(base.state)
        return Simplex(self.rules, committee, self._tree(base), self.waiting, self.signer, now_ms)

    def _tree(self, base: Base) -> Tree:
        return Tree(base, self.payload, self.rules.params.epoch_blocks)


def _open_records(records: Mapping[bytes, bytes], epoch: int) -> tuple[list[Block], list[Certificate]]:
    blocks, certificates = [], []
    for name, data in records.items():
        if name.startswith(storage.OPEN_BLOCK):
            blocks.append(storage.unpack_block(data))
        elif name.startswith(storage.OPEN_CERTIFICATE):
            certificates.append(storage.unpack_certificate(data))
    return (
        [block for block in blocks if block.header.epoch == epoch],
        [certificate for certificate in certificates if certificate.epoch == epoch],
    )


def _dropped(closed: Simplex) -> list[storage.Record]:
    """What a closed epoch leaves behind above its last block."""
    tree = closed.tree
    blocks: list[storage.Record] = [
        (storage.open_block_key(header.epoch, header.height, digest), None)
        for digest, header in tree.headers.items()
        if header.height > tree.base.header.height
    ]
    held: list[storage.Record] = [
        (storage.open_certificate_key(certificate), None) for certificate in tree.certificates(above=0)
    ]
    return blocks + held
