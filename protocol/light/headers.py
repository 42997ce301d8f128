"""Whom a node that runs no consensus believes: headers that 2f+1 members of their epoch's committee finalized.

The first committee is the genesis list, or one that a trust point shows. Each further one is named by one before it: a
final header of an epoch holds the root of the next committee, so whoever knows a committee can be shown the next,
hand-over by hand-over, or a much later one where enough members of the known one still sign.

Members of a committee answer for what they sign with their stake, and only until it is unbonded. So where there is
stake, a reader that tells the time believes a committee for a period only, counted from when it was named.
"""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace

from protocol.committee.certificates import CommitteeError, check_certified, verify_certificate
from protocol.committee.election import committee_root
from protocol.committee.members import Committee, make_committee, quorum_of
from protocol.committee.storage import FIRST_EPOCH
from protocol.core.errors import ParameterError
from protocol.core.genesis import Genesis
from protocol.core.ids import NetworkId, NodeId
from protocol.core.signing import recover
from protocol.light.evm import anchored_block
from protocol.light.trust import TrustPoint
from protocol.messages.committee import (
    Certificate,
    CertificateKind,
    Certified,
    Header,
    StatementKind,
    statement_digest,
)
from protocol.messages.handover import HandOver

CHECKED_MAX = 64
"""Certificates that are remembered: the same one comes with every outcome that its header holds."""
COMMITTEES_KEPT = 64
"""Epochs whose members are known: of older ones nothing is believed any more."""
POINTS_MAX = 8
FRESH_ADVICE = "p2pnode trust add: a fresh trust string of somebody whom you believe, or with --rpc what the chain says"
_MADE_MAX = 4


class Untrusted(CommitteeError):
    """Something that may be true, and that nothing known here vouches for."""

    code = "remote/untrusted"


class UnknownEpoch(Untrusted):
    """Something of an epoch that is later than the last one whose committee is known: hand-overs are missing here, so
    it may be true all the same."""

    code = "remote/unknown-epoch"


class TrustExpired(Untrusted):
    """Something of a committee whose members may have their stake back: what they sign costs them nothing."""

    code = "remote/trust-expired"
    hint = FRESH_ADVICE


@dataclass(frozen=True, slots=True)
class _Known:
    """A committee, and since when it is known to have been one at the latest; 0: its age never matters."""

    members: tuple[NodeId, ...]
    since_s: int
    by: int = 0
    """The epoch whose committee handed over; 0: it is a root of trust."""


@dataclass(slots=True)
class ReadersTime:
    """The time of a reader, which many trusts may share; None where it follows live: no committee is ever too old."""

    now_s: int | None = None


class HeaderTrust:
    """Checks headers against the committees that led here. Spec: [HANDOVER-TAKEN.1] [TRUST-ROOTS.1]

    Args:
        points: Committees that somebody shows whom the reader believes. Raises CommitteeError for one of another
            network.
        now_ms: The reader's time; see :meth:`at`.
        time: The same, where its owner moves it on for several.
    """

    def __init__(
        self,
        genesis: Genesis,
        points: Iterable[TrustPoint] = (),
        now_ms: int | None = None,
        *,
        time: ReadersTime | None = None,
    ) -> None:
        self.time = time or ReadersTime(None if now_ms is None else now_ms // 1_000)
        self._network_id = genesis.network_id()
        self._domain = genesis.domain()
        self._period_s = genesis.params.trust_period_ms // 1_000 if genesis.contracts is not None else None
        """None: no stake, so nobody gets it back."""
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._points: dict[int, TrustPoint] = {}
        """Of which the members are not known yet."""
        self._made: OrderedDict[int, Committee] = OrderedDict()
        self._checked: OrderedDict[Certificate, None] = OrderedDict()
        for point in points:
            self._check_point(point)
        # Keys of a first committee whose age nobody knows are not to outweigh a point that has one.
        if genesis.committee and (genesis.founded_s or self._period_s is None or not self._points):
            self._known[FIRST_EPOCH] = _Known(genesis.committee, genesis.founded_s)
        if FIRST_EPOCH in self._points:
            self.learn(FIRST_EPOCH, genesis.committee)

    def _check_point(self, point: TrustPoint) -> None:
        if (point.network_id, point.chain_id) != (self._network_id, self._domain.chain_id):
            raise CommitteeError(
                f"the trust string is of network {point.network_id.hex()[:16]}, this is {self._network_id.hex()[:16]}"
            )
        other = self._points.get(point.epoch)
        if other is not None and other.committee_root != point.committee_root:
            raise CommitteeError(f"two trust strings name two committees of epoch {point.epoch}")
        if other is None or point.time_s > other.time_s:
            self._points[point.epoch] = point
        if len(self._points) > POINTS_MAX:
            raise CommitteeError(f"at most {POINTS_MAX} trust strings of one network are of use")

    def fork(self) -> "HeaderTrust":
        """The same as it is now, to learn more without this one learning it."""
        fork = copy(self)
        fork.time = replace(self.time)
        fork._known, fork._points = self._known.copy(), self._points.copy()
        fork._made, fork._checked = self._made.copy(), self._checked.copy()
        return fork

    # The time

    def at(self, now_ms: int | None) -> None:
        """What is checked from now on is checked at this time. Spec: [TRUST-PERIOD.1]"""
        self.time.now_s = None if now_ms is None else now_ms // 1_000

    def since_s(self, epoch: int) -> int:
        """From when the age of an epoch's committee counts, in Unix seconds; 0 where that is not known."""
        known = self._known.get(epoch)
        return known.since_s if known is not None else 0

    def until_s(self, epoch: int) -> int | None:
        """Until when a committee that is known is believed; None: for good."""
        since_s = self.since_s(epoch)
        return None if self._period_s is None or not since_s else since_s + self._period_s

    def expired(self, epoch: int) -> bool:
        """Whether the committee of an epoch is not believed any more, for its age alone."""
        until_s, now_s = self.until_s(epoch), self.time.now_s
        return until_s is not None and now_s is not None and now_s >= until_s

    def believes(self, epoch: int) -> bool:
        """Whether what the committee of an epoch finalized is believed."""
        return epoch in self._known and not self.expired(epoch)

    # Who is known

    @property
    def network_id(self) -> NetworkId:
        """Of which network."""
        return self._network_id

    @property
    def epoch(self) -> int:
        """The latest one whose committee is known; 0 where none is."""
        return next(reversed(self._known), 0)

    @property
    def wanted(self) -> int:
        """The first epoch whose hand-over leads on; 0 where none does."""
        shown = max(self._points, default=0)
        return shown - 1 if shown > self.epoch else self.epoch

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Its committee; empty where nothing is certified."""
        return self.members_of(self.epoch)

    def members_of(self, epoch: int) -> tuple[NodeId, ...]:
        """The committee of an epoch; empty where it is not known, or not any more."""
        known = self._known.get(epoch)
        return known.members if known is not None else ()

    def committee(self, epoch: int) -> Committee:
        """The committee of an epoch. Raises UnknownEpoch for a later one than is known, Untrusted for another that is
        not known, TrustExpired, else CommitteeError where the network has none, or the epoch cannot be."""
        if not (self._known or self._points) or epoch < FIRST_EPOCH:
            raise CommitteeError(f"no committee can have certified anything in epoch {epoch}")
        if epoch > self.epoch:
            raise UnknownEpoch(f"the committee of epoch {epoch} is not known here, only those up to {self.epoch}")
        if epoch not in self._known:
            raise Untrusted(f"the committee of epoch {epoch} is not known here, or is forgotten")
        self._check_age(epoch)
        if epoch not in self._made:
            self._made[epoch] = make_committee(self._network_id, epoch, self._known[epoch].members)
            if len(self._made) > _MADE_MAX:
                self._made.popitem(last=False)
        return self._made[epoch]

    def _check_age(self, epoch: int) -> None:
        """Raises TrustExpired. Spec: [TRUST-PERIOD.1]"""
        if self.expired(epoch):
            assert self.time.now_s is not None
            raise TrustExpired(
                f"the committee of epoch {epoch} was named {_spelled(self.time.now_s - self.since_s(epoch))} ago: its "
                "members may have their stake back"
            )

    def handed_over_by(self, epoch: int) -> int:
        """The epoch whose committee named that of another; 0 for a root of trust, and where nothing is known."""
        known = self._known.get(epoch)
        return known.by if known is not None else 0

    def point(self, epoch: int | None = None) -> TrustPoint | None:
        """A committee that is known, by itself the latest, as others can be shown it; None where none is known.

        Its age goes on counting: whoever is shown it believes it no longer than this reader does.
        """
        epoch = self.epoch if epoch is None else epoch
        if epoch not in self._known:
            return self._points.get(epoch)
        known = self._known[epoch]
        root = committee_root(known.members)
        return TrustPoint(self._network_id, self._domain.chain_id, epoch, root, known.since_s)

    # Headers

    def check(self, certified: Certified) -> Header:
        """The header, if it is final. Raises CommitteeError, Untrusted, SignatureError. Spec: [LIGHT-HEADER.1]"""
        header, certificate = self._whole(certified), certified.certificate
        if certificate not in self._checked:
            verify_certificate(self._domain, self.committee(header.epoch), certificate)
            self._checked[certificate] = None
            if len(self._checked) > CHECKED_MAX:
                self._checked.popitem(last=False)
        self._check_age(header.epoch)
        return header

    def _whole(self, certified: Certified) -> Header:
        header, certificate = certified.header, certified.certificate
        if header is None or certificate.kind is not CertificateKind.FINALIZATION:
            raise CommitteeError("only a header with its finalize certificate is final")
        check_certified(self._domain, certified)
        return header

    # Hand-overs

    def learn(self, epoch: int, members: Iterable[bytes]) -> bool:
        """Learn who is in a committee of which only the root is known; whether it is new here. Raises CommitteeError
        if they are not its members, Untrusted if nothing names its root. Spec: [TRUST-ROOTS.1]"""
        named, point = tuple(map(NodeId, members)), self._points.get(epoch)
        if epoch in self._known:
            self._check_same(epoch, named)
        elif point is None:
            raise Untrusted(f"nothing that is believed here names the committee of epoch {epoch}")
        if point is None:
            return False
        if committee_root(named) != point.committee_root:
            raise CommitteeError(f"these are not the members of epoch {epoch} that the trust string names")
        del self._points[epoch]
        self._put(epoch, named, max(self._past_s(point.time_s), self.since_s(epoch)))
        return True

    def take(self, hand_over: HandOver, *, skipping: bool = False) -> bool:
        """Learn an epoch's committee from the one before it; whether it is new here.

        Of an epoch whose committee is known another one is refused, even with a certificate: then more than f members
        lie, and who was believed first stays. Raises CommitteeError, UnknownEpoch, Untrusted, SignatureError.
        Spec: [HANDOVER-TAKEN.1]

        Args:
            skipping: Whether f+1 members of any earlier committee that is known may stand for the one before it.
                Spec: [TRUST-SKIP.1]
        """
        epoch, members = hand_over.epoch + 1, tuple(map(NodeId, hand_over.members))
        if epoch in self._known:
            self._check_same(epoch, members)
            return False
        if epoch in self._points:
            return self.learn(epoch, members)
        own, signatures = self._known.get(hand_over.epoch), hand_over.certified.certificate.signatures
        # A receipt that skips has f+1 signatures, whether its reader knows all members or not.
        if skipping and (own is None or len(signatures) < quorum_of(len(own.members))):
            header, by = self._skipped(hand_over.certified)
        else:
            header, by = self.check(hand_over.certified), hand_over.epoch
        if committee_root(members) != header.next_committee:
            raise CommitteeError(f"these are not the members that epoch {header.epoch} named")
        self._put(epoch, members, self._named_s(header, hand_over.anchor, by), by)
        return epoch in self._known

    def _check_same(self, epoch: int, members: tuple[NodeId, ...]) -> None:
        if self._known[epoch].members != members:
            raise CommitteeError(f"another committee is known of epoch {epoch}")

    def _skipped(self, certified: Certified) -> tuple[Header, int]:
        """A header of which f+1 members of a known committee say that it is final, and that committee's epoch.

        One of them is correct, and it finalizes nothing that it has not seen notarized, and executed.
        Spec: [TRUST-SKIP.1]
        """
        header, certificate = self._whole(certified), certified.certificate
        said = statement_digest(
            self._domain, StatementKind.FINALIZE, certificate.epoch, certificate.height, certificate.header
        )
        signers = {recover(said, signed.signature) for signed in certificate.signatures}
        best = (0, 1, 0)
        for epoch in (epoch for epoch in reversed(self._known) if epoch <= header.epoch and not self.expired(epoch)):
            members = self._known[epoch].members
            found, needed = len(signers.intersection(members)), (len(members) - 1) // 3 + 1
            if found >= needed:
                return header, epoch
            best = max(best, (found, needed, epoch))
        found, needed, epoch = best
        if not epoch:
            self._check_age(self.epoch)
        raise UnknownEpoch(
            f"the committee of epoch {header.epoch} is not known here, and of those that are, {found} member(s) signed "
            f"its header where {needed} would do" + (f", of epoch {epoch}" if epoch else "")
        )

    def _named_s(self, header: Header, anchor: bytes, by: int) -> int:
        """Since when a committee is known to have been named: the header that names it is later than the EVM block
        that it anchors, and than the committee that finalized it. Raises EvmError. Spec: [TRUST-SINCE.1]"""
        since_s = self.since_s(by)
        if not anchor:
            return since_s
        return max(since_s, self._past_s(anchored_block(header, anchor).time_s))

    def _past_s(self, time_s: int) -> int:
        """A time that somebody names is not one to come."""
        return time_s if self.time.now_s is None else min(time_s, self.time.now_s)

    def _put(self, epoch: int, members: tuple[NodeId, ...], since_s: int, by: int = 0) -> None:
        """Raises CommitteeError for what is no committee."""
        try:
            make_committee(self._network_id, epoch, members)
        except ParameterError as error:
            raise CommitteeError(str(error)) from error
        with suppress(KeyError):
            del self._known[epoch]
        latest = self.members
        self._known[epoch] = _Known(latest if latest == members else members, since_s, by)
        for later in [known for known in self._known if known > epoch]:
            self._known.move_to_end(later)
        if len(self._known) > COMMITTEES_KEPT:
            self._known.popitem(last=False)


def place(header: Header) -> tuple[int, int]:
    """Where a header stands: of two final ones the greater place is the later one."""
    return (header.epoch, header.height)


def _spelled(age_s: int) -> str:
    for name, unit_s in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if age_s >= 2 * unit_s:
            return f"{age_s // unit_s} {name}"
    return f"{age_s} s"
