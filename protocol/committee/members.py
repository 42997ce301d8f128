"""A committee: who is in it, how many must agree, and who leads which height."""

from dataclasses import dataclass, field

from protocol.committee.election import committee_root, epoch_seed, leader_order
from protocol.core.errors import ParameterError
from protocol.core.ids import Digest, NetworkId, NodeId
from protocol.core.params import COMMITTEE_SIZES as COMMITTEE_SIZES


def faulty_max(size: int) -> int:
    """f: how many members may be Byzantine. Raises ParameterError for a size that is not 3f+1."""
    if size not in COMMITTEE_SIZES:
        raise ParameterError(f"a committee has {', '.join(map(str, COMMITTEE_SIZES))} members, not {size}")
    return (size - 1) // 3


def quorum_of(size: int) -> int:
    """2f+1: any two quorums share f+1 members, one of them correct. Spec: [COMMITTEE-QUORUM.1]"""
    return 2 * faulty_max(size) + 1


@dataclass(frozen=True)
class Committee:
    """The members of one epoch, in the order that certificates count them."""

    epoch: int
    members: tuple[NodeId, ...]
    seed: Digest
    quorum: int
    places: dict[NodeId, int] = field(compare=False)
    _orders: dict[int, tuple[int, ...]] = field(compare=False, default_factory=dict)

    @property
    def faulty_max(self) -> int:
        """f."""
        return faulty_max(len(self.members))

    @property
    def root(self) -> Digest:
        """What a header names this committee by."""
        return committee_root(self.members)

    def leader(self, height: int) -> int:
        """The place of the leader of a height: each leads once in n heights. Spec: [ELECTION-LEADER.1]"""
        turn, place = divmod(height, len(self.members))
        if turn not in self._orders:
            self._orders.clear()  # heights only rise, so one order at a time is asked for
            self._orders[turn] = leader_order(self.seed, turn, len(self.members))
        return self._orders[turn][place]


def make_committee(network_id: NetworkId, epoch: int, members: tuple[NodeId, ...]) -> Committee:
    """The committee of an epoch. Raises ParameterError for a size other than 3f+1, or a member named twice."""
    quorum = quorum_of(len(members))
    if len(set(members)) != len(members):
        raise ParameterError("a committee names each member once")
    seed = epoch_seed(network_id, epoch, committee_root(members))
    return Committee(epoch, members, seed, quorum, {member: place for place, member in enumerate(members)})
