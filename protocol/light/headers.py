"""Whom a node that runs no consensus believes: headers that 2f+1 members of the committee finalized.

The committee is the genesis list in every epoch, until there is a chain that draws others.
"""

from collections import OrderedDict

from protocol.committee.certificates import CommitteeError, check_certified, verify_certificate
from protocol.committee.members import Committee, make_committee
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.messages.committee import Certificate, CertificateKind, Certified, Header

CHECKED_MAX = 64
"""Certificates that are remembered: the same one comes with every outcome that its header holds."""


class HeaderTrust:
    """Checks headers against the committee that the genesis names."""

    def __init__(self, genesis: Genesis) -> None:
        self._network_id = genesis.network_id()
        self._domain = genesis.domain()
        self._members = genesis.committee
        self._committee: Committee | None = None
        self._checked: OrderedDict[Certificate, None] = OrderedDict()

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The committee; empty where nothing is certified."""
        return self._members

    def committee(self, epoch: int) -> Committee:
        """The committee of an epoch. Raises CommitteeError where the network has none, or the epoch cannot be."""
        if not self._members or epoch < 1:
            raise CommitteeError(f"no committee can have certified anything in epoch {epoch}")
        if self._committee is None or self._committee.epoch != epoch:
            self._committee = make_committee(self._network_id, epoch, self._members)
        return self._committee

    def check(self, certified: Certified) -> Header:
        """The header, if it is final. Raises CommitteeError, SignatureError. Spec: [LIGHT-HEADER.1]"""
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


def place(header: Header) -> tuple[int, int]:
    """Where a header stands: of two final ones the greater place is the later one."""
    return (header.epoch, header.height)
