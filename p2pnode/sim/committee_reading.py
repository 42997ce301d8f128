"""What a world's messages and disks say of the committee, read with the protocol's own pure functions.

Shared by the checkers of the ``committee`` scenario. Nothing here looks into a machine.
"""

from collections.abc import Iterator, Mapping

from protocol.committee import storage
from protocol.committee.certificates import batch_digest, statements_of
from protocol.committee.members import Committee, make_committee
from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.signing import recover
from protocol.messages.committee import (
    Block,
    Certificate,
    Certified,
    Header,
    Offer,
    Propose,
    Recalled,
    SignedBatch,
    State,
    Statement,
    SyncPage,
    statement_digest,
)
from protocol.messages.envelope import Envelope
from protocol.messages.evidence import CommitteeNews

Said = Statement | SignedBatch


class Reading:
    """Knows the committees of a world as far as any correct node has durably got."""

    def __init__(self, genesis: Genesis) -> None:
        self.domain = genesis.domain()
        self.committees: dict[int, Committee] = {}
        self.learn_committee(1, genesis.committee)

    def learn_committee(self, epoch: int, members: tuple[NodeId, ...]) -> Committee:
        """The members of an epoch, from a correct node's disk."""
        if epoch not in self.committees:
            self.committees[epoch] = make_committee(self.domain.network_id, epoch, members)
        return self.committees[epoch]

    def signer(self, said: Said) -> NodeId | None:
        """Whose signature it is; None if nobody's."""
        try:
            if isinstance(said, SignedBatch):
                return recover(batch_digest(self.domain, said.batch), said.signature)  # type: ignore[arg-type]
            digest = statement_digest(self.domain, said.kind, said.epoch, said.height, said.header)
            return recover(digest, said.signature)
        except RemoteProtocolError:
            return None


def certificates_in(message: Message) -> Iterator[tuple[Certificate, Header | None]]:
    """All certificates of a message, with the headers that come with them."""
    match message:
        case Certified():
            yield message.certificate, message.header
        case Propose():
            if message.parent is not None:
                yield message.parent, None
            for certificate in message.nullifications:
                yield certificate, None
        case Recalled():
            if message.final is not None:
                yield message.final.certificate, message.final.header
        case SyncPage():
            for certificate in message.nullifications:
                yield certificate, None
            for block in message.blocks:
                if block.certificate is not None:
                    yield block.certificate, block.header
        case CommitteeNews():
            for certified in message.certified:
                yield certified.certificate, certified.header


def said_in(message: Message) -> Iterator[Said]:
    """Every statement and batch of a message, those inside certificates and evidence too."""
    for certificate, _ in certificates_in(message):
        for _, statement in statements_of(certificate):
            yield statement
    match message:
        case State() | Propose():
            yield message.statement
        case Offer():
            yield message.signed
        case Recalled():
            yield from message.statements
            yield from message.batches
        case CommitteeNews():
            yield from message.statements
            for conflict in message.conflicting_statements:
                yield conflict.first
                yield conflict.second


def news_in(message: Message) -> CommitteeNews | None:
    """What an envelope of the topic ``committee`` carries."""
    from protocol.core.codec import decode

    if not isinstance(message, Envelope):
        return None
    inner = decode(message.payload)
    return inner if isinstance(inner, CommitteeNews) else None


def stored_state(records: Mapping[bytes, bytes | None]) -> storage.StoredState | None:
    """The last snapshot."""
    data = records.get(storage.STATE)
    return None if data is None else storage.unpack_state(data)


def stored_end(records: Mapping[bytes, bytes | None]) -> tuple[int, int]:
    """Where the finalized chain ends."""
    stored = stored_state(records)
    snapshot = (1, 0) if stored is None else (stored.epoch, stored.header.height)
    return max([snapshot, *((block.header.epoch, block.header.height) for block in stored_blocks(records))])


def stored_blocks(records: Mapping[bytes, bytes | None]) -> Iterator[Block]:
    """What is written of the finalized chain."""
    for name, data in records.items():
        if data is not None and name.startswith(storage.CHAIN):
            yield storage.unpack_block(data)
