"""What the ledger knows of the chain that its network settles on: how far it has taken in the contracts' events, and
what members have said of those that follow."""

from collections.abc import Iterator, Sequence

import msgspec

from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.params import COMMITTEE_SIZES
from protocol.core.signing import U64, Bytes20, Bytes32
from protocol.ledger.records import Record
from protocol.messages.chain import NO_EVENTS, Accepted, Drawn


class Said(Record, frozen=True):
    """What a member has said last, by the hashes of its words."""

    oracle: Bytes20
    words: tuple[Bytes32, ...]


class ChainState(Record, frozen=True):
    """See the module. Without contracts there is none."""

    number: U64 = 0
    """The anchor: the final EVM block up to which every event is taken in; 0 before the first."""
    hash: Bytes32 = ZERO_DIGEST
    events: U64 = 0
    """That were taken in, in all."""
    beyond: U64 = 0
    """Of them, those of blocks after the anchor."""
    digest: Bytes32 = NO_EVENTS
    """The running digest of all that were taken in."""
    deposits: U64 = 0
    """The highest deposit that was taken in."""
    deposited: U64 = 0
    """What all of them brought."""
    accepted: Accepted | None = None
    """The last checkpoint."""
    draws: tuple[Drawn, ...] = ()
    """Committees of epochs after the next one, by rising epoch."""
    repeats: U64 = 1
    """How many epochs in a row, to this one, named their own members as the next ones."""
    said: tuple[Said, ...] = ()
    """Of members of the present committee, about what follows from here."""

    def sayers(self, name: bytes) -> Iterator[NodeId]:
        """Who has said a word, by its hash."""
        return (NodeId(said.oracle) for said in self.said if name in said.words)

    def words_of(self, oracle: bytes) -> tuple[bytes, ...]:
        """What a member has said last, the latest at the end."""
        return next((said.words for said in self.said if said.oracle == oracle), ())

    def drawn(self, epoch: int) -> tuple[NodeId, ...] | None:
        """The committee that was drawn for an epoch; None if none is known."""
        return next((tuple(map(NodeId, draw.members)) for draw in self.draws if draw.epoch == epoch), None)

    def turned(self, epoch: int, members: Sequence[NodeId]) -> tuple["ChainState", tuple[NodeId, ...]]:
        """An epoch begins, with these members: what is kept, and who follows them. Those that were drawn, else they
        themselves once more: past ``committee_terms_max`` as well, though the contract takes no checkpoint then.

        Spec: [CHAIN-COMMITTEE.1] [CHAIN-TERMS.1]
        """
        drawn = self.drawn(epoch + 1)
        kept = msgspec.structs.replace(
            self,
            draws=tuple(draw for draw in self.draws if draw.epoch > epoch + 1),
            repeats=self.repeats + 1 if drawn is None else 0,
            said=tuple(said for said in self.said if said.oracle in members),
        )
        return kept, tuple(members) if drawn is None else drawn


def is_committee(members: Sequence[bytes]) -> bool:
    """Whether these can certify anything."""
    return len(members) in COMMITTEE_SIZES and len(set(members)) == len(members)
