"""The smallest ledger: it counts what the oracles' batches bring. For simulations and tests of consensus alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from protocol.committee.certificates import batch_digest
from protocol.committee.cut import Home, home_of, omitted, open_cut, pack_cut
from protocol.committee.election import committee_root
from protocol.committee.members import Committee
from protocol.committee.payload import HOMES_KEPT, NextCommittee, Roots, same_members
from protocol.core.codec import pack, unpack
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import Bytes20, Bytes32, Domain, keccak
from protocol.messages.committee import SignedBatch


class _Included(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    home_epoch: int
    oracle: Bytes20
    number: int
    digest: Bytes32


class _Home(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    epoch: int
    members: tuple[Bytes20, ...]


class _Packed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    count: int
    chain: Bytes32
    homes: tuple[_Home, ...]
    next_members: tuple[Bytes20, ...]
    included: tuple[_Included, ...]


@dataclass(frozen=True)
class CounterState:
    """How many batches are in, and a hash chain over them."""

    count: int
    chain: Digest
    homes: dict[int, tuple[NodeId, ...]]
    next_members: tuple[NodeId, ...]
    cut: Mapping[Home, tuple[int, Digest]] = field(default_factory=dict)

    def included(self, home_epoch: int, oracle: bytes) -> tuple[int, Digest]:
        """See LedgerState."""
        return self.cut.get((home_epoch, oracle), (0, ZERO_DIGEST))

    @property
    def roots(self) -> Roots:
        """See LedgerState."""
        ledger_root = keccak(self.pack())
        next_root = committee_root(self.next_members)
        return Roots(self.chain, self.count, ledger_root, ZERO_DIGEST, 0, ZERO_DIGEST, 0, next_root)

    def pack(self) -> bytes:
        """See LedgerState."""
        homes = tuple(_Home(epoch, self.homes[epoch]) for epoch in sorted(self.homes))
        included = tuple(_Included(*home, *self.cut[home]) for home in sorted(self.cut))
        return pack(_Packed(self.count, self.chain, homes, self.next_members, included))


class CounterLedger:
    """See the module and ``Payload``."""

    def __init__(self, domain: Domain, params: Params, follow: NextCommittee = same_members) -> None:
        self._domain = domain
        self._params = params
        self._follow = follow

    def genesis(self, committee: Committee) -> CounterState:
        """See Payload."""
        return CounterState(0, ZERO_DIGEST, {committee.epoch: committee.members}, self._follow(committee))

    def restore(self, packed: bytes) -> CounterState:
        """See Payload."""
        stored = unpack(_Packed, packed, limit_bytes=1 << 24)
        homes = {home.epoch: tuple(map(NodeId, home.members)) for home in stored.homes}
        cut = {(item.home_epoch, item.oracle): (item.number, Digest(item.digest)) for item in stored.included}
        return CounterState(stored.count, Digest(stored.chain), homes, tuple(map(NodeId, stored.next_members)), cut)

    def turn(self, state: CounterState, committee: Committee) -> CounterState:
        """See Payload."""
        homes = {epoch: state.homes[epoch] for epoch in state.homes if epoch > committee.epoch - HOMES_KEPT}
        homes[committee.epoch] = committee.members
        cut = {home: last for home, last in state.cut.items() if home[0] in homes}
        return replace(state, homes=homes, next_members=self._follow(committee), cut=cut)

    def propose(self, state: CounterState, offered: Sequence[SignedBatch]) -> bytes:
        """See Payload."""
        return pack_cut(self._params, state, offered)

    def execute(self, state: CounterState, body: bytes) -> CounterState:
        """See Payload."""
        batches = open_cut(self._domain, self._params, state, body)
        if not batches:
            return state
        cut, chain = dict(state.cut), state.chain
        for signed in batches:
            digest = Digest(batch_digest(self._domain, signed.batch))
            cut[home_of(signed)] = (signed.batch.number, digest)
            chain = Digest(keccak(chain + digest))
        return replace(state, count=state.count + len(batches), chain=chain, cut=cut)

    def omits(
        self, before: CounterState, after: CounterState, body: bytes, owed: Sequence[SignedBatch]
    ) -> SignedBatch | None:
        """See Payload."""
        return omitted(self._params, before, after, body, owed)
