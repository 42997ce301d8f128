"""Whom a node that runs no consensus believes: headers that 2f+1 members of their epoch's committee finalized.

The first committee is the genesis list. Each further one is named by the one before it: a final header of an epoch
holds the root of the next committee, so whoever knows a committee can be shown the next, hand-over by hand-over.
"""

from collections import OrderedDict

from protocol.committee.certificates import CommitteeError, check_certified, verify_certificate
from protocol.committee.election import committee_root
from protocol.committee.members import Committee, make_committee
from protocol.committee.storage import FIRST_EPOCH
from protocol.core.errors import ParameterError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.messages.committee import Certificate, CertificateKind, Certified, Header
from protocol.messages.handover import HandOver

CHECKED_MAX = 64
"""Certificates that are remembered: the same one comes with every outcome that its header holds."""
COMMITTEES_KEPT = 64
"""Epochs whose members are known: of older ones nothing is believed any more."""
_MADE_MAX = 4


class UnknownEpoch(CommitteeError):
    """Something of an epoch that is later than the last one whose committee is known: hand-overs are missing here, so
    it may be true all the same."""

    code = "remote/unknown-epoch"


class HeaderTrust:
    """Checks headers against the committees that led here from the genesis. Spec: [HANDOVER-TAKEN.1]"""

    def __init__(self, genesis: Genesis) -> None:
        self._network_id = genesis.network_id()
        self._domain = genesis.domain()
        self._members: OrderedDict[int, tuple[NodeId, ...]] = OrderedDict()
        if genesis.committee:
            self._members[FIRST_EPOCH] = genesis.committee
        self._made: OrderedDict[int, Committee] = OrderedDict()
        self._checked: OrderedDict[Certificate, None] = OrderedDict()

    @property
    def epoch(self) -> int:
        """The latest one whose committee is known; 0 where nothing is certified."""
        return next(reversed(self._members), 0)

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Its committee; empty where nothing is certified."""
        return self.members_of(self.epoch)

    def members_of(self, epoch: int) -> tuple[NodeId, ...]:
        """The committee of an epoch; empty where it is not known, or not any more."""
        return self._members.get(epoch, ())

    def committee(self, epoch: int) -> Committee:
        """The committee of an epoch. Raises UnknownEpoch for a later one than is known, else CommitteeError where the
        network has none, the epoch cannot be, or its committee is forgotten."""
        if not self._members or epoch < FIRST_EPOCH:
            raise CommitteeError(f"no committee can have certified anything in epoch {epoch}")
        if epoch > self.epoch:
            raise UnknownEpoch(f"the committee of epoch {epoch} is not known here, only those up to {self.epoch}")
        if epoch not in self._members:
            raise CommitteeError(f"the committee of epoch {epoch} is forgotten here")
        if epoch not in self._made:
            self._made[epoch] = make_committee(self._network_id, epoch, self._members[epoch])
            if len(self._made) > _MADE_MAX:
                self._made.popitem(last=False)
        return self._made[epoch]

    def check(self, certified: Certified) -> Header:
        """The header, if it is final. Raises CommitteeError, UnknownEpoch, SignatureError. Spec: [LIGHT-HEADER.1]"""
        header, certificate = certified.header, certified.certificate
        if header is None or certificate.kind is not CertificateKind.FINALIZATION:
            raise CommitteeError("only a header with its finalize certificate is final")
        check_certified(self._domain, certified)
        if certificate not in self._checked:
            verify_certificate(self._domain, self.committee(header.epoch), certificate)
            self._checked[certificate] = None
            if len(self._checked) > CHECKED_MAX:
                self._checked.popitem(last=False)
        return header

    def take(self, hand_over: HandOver) -> bool:
        """Learn an epoch's committee from the one before it; whether it is new here.

        Of an epoch whose committee is known another one is refused, even with a certificate: then more than f members
        lie, and who was believed first stays. Raises CommitteeError, UnknownEpoch, SignatureError.
        Spec: [HANDOVER-TAKEN.1]
        """
        epoch = hand_over.epoch + 1
        known = self.members_of(epoch)
        if known and known != hand_over.members:
            raise CommitteeError(f"another committee is known of epoch {epoch}")
        if epoch <= self.epoch:
            return False
        header, members = self.check(hand_over.certified), tuple(map(NodeId, hand_over.members))
        if committee_root(members) != header.next_committee:
            raise CommitteeError(f"these are not the members that epoch {header.epoch} named")
        try:
            make_committee(self._network_id, epoch, members)
        except ParameterError as error:
            raise CommitteeError(str(error)) from error
        self._members[epoch] = self.members if self.members == members else members
        if len(self._members) > COMMITTEES_KEPT:
            self._members.popitem(last=False)
        return True


def place(header: Header) -> tuple[int, int]:
    """Where a header stands: of two final ones the greater place is the later one."""
    return (header.epoch, header.height)
