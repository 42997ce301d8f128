"""Two views of the committees: what a receipt claims of them, and whom its reader believes.

A receipt is checked against its own claims first, so that whatever was changed shows, to whom it may be shown. Whether
the claims are true only the reader's own trust can tell.
"""

from contextlib import suppress

from protocol.committee.certificates import CommitteeError
from protocol.committee.election import committee_root
from protocol.committee.members import Committee, make_committee
from protocol.committee.storage import FIRST_EPOCH
from protocol.core.errors import ParameterError, RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import NetworkId, NodeId
from protocol.light.headers import FRESH_ADVICE, HeaderTrust, Untrusted
from protocol.messages.handover import HandOver
from protocol.messages.receipts import EpochMembers

Members = tuple[NodeId, ...]

NETWORK_ADVICE = "name its genesis (--genesis), or add a trust string of somebody whom you believe (p2pnode trust add)"


class Reader:
    """Whom the reader believes, with what the hand-overs of a receipt add; the trust it is made of is not changed."""

    def __init__(self, trust: HeaderTrust | None, now_ms: int | None) -> None:
        self._trust = None if trust is None else trust.fork()
        if self._trust is not None and now_ms is not None:
            self._trust.at(now_ms)

    @property
    def means_network(self) -> bool:
        """Whether the reader said which network it means, and with it where the contracts are."""
        return self._trust is not None

    def members(self, epoch: int) -> Members | None:
        """The committee of an epoch; None where the reader knows of none."""
        return None if self._trust is None else self._trust.members_of(epoch) or None

    def doubt(self, epoch: int) -> str:
        """Why no committee of an epoch is believed; empty if one is."""
        if self._trust is None:
            return f"nobody said which network is meant, so no committee is believed; {NETWORK_ADVICE}"
        try:
            self._trust.committee(epoch)
        except CommitteeError as error:
            return f"{error}; {error.hint or FRESH_ADVICE}"
        return ""

    def learn(self, carried: EpochMembers) -> None:
        """A committee of which the reader may know the root. Raises CommitteeError if that names others."""
        if self._trust is not None:
            with suppress(Untrusted):
                self._trust.learn(carried.epoch, carried.members)

    def take(self, hand_over: HandOver) -> None:
        """A hand-over that may follow from a committee that the reader believes."""
        if self._trust is not None:
            with suppress(RemoteProtocolError):
                self._trust.take(hand_over, skipping=True)


class Claimed:
    """The committees that the genesis and a receipt name, each checked against those before it."""

    def __init__(self, genesis: Genesis, network_id: NetworkId) -> None:
        self._network_id = network_id
        self._committees: dict[int, Committee] = {}
        self.used: set[int] = set()
        """The epochs whose committee something rests on."""
        if genesis.committee:
            self.add(FIRST_EPOCH, genesis.committee)

    def members(self, epoch: int) -> Members | None:
        """Of an epoch; None where the receipt names no committee of it."""
        committee = self._committees.get(epoch)
        return None if committee is None else committee.members

    def committee(self, epoch: int) -> Committee | None:
        """The same, ready to check certificates."""
        return self._committees.get(epoch)

    def before(self, epoch: int) -> Committee | None:
        """The committee of an epoch, or else of the latest one before it that is named."""
        known = max((each for each in self._committees if each <= epoch), default=None)
        return None if known is None else self._committees[known]

    def add(self, epoch: int, members: tuple[bytes, ...]) -> None:
        """Name a committee. Raises CommitteeError for another one of an epoch, or one that cannot be."""
        if epoch < FIRST_EPOCH or epoch in self._committees:
            raise CommitteeError(f"the committee of epoch {epoch} is named already, or cannot be")
        try:
            self._committees[epoch] = make_committee(self._network_id, epoch, tuple(map(NodeId, members)))
        except ParameterError as error:
            raise CommitteeError(str(error)) from error


def root_of(members: tuple[bytes, ...]) -> bytes:
    """What a header names a committee by."""
    return committee_root(tuple(map(NodeId, members)))
