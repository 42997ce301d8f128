"""A network that settles on a chain, with a committee for each epoch: what its members sign, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import rlp

from protocol.committee.election import committee_root
from protocol.committee.payload import Roots, make_header
from protocol.core.genesis import Contracts, Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import keccak
from protocol.light.headers import HeaderTrust
from protocol.light.trust import TrustPoint
from protocol.messages.committee import (
    EMPTY_BODY,
    Certificate,
    CertificateKind,
    Certified,
    Header,
    MemberSignature,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.handover import HandOver
from tests.unit.protocol.keys import Key, key

DAY_S = 86_400
FOUNDED_S = 1_800_000_000
PERIOD_S = 7 * DAY_S
CONTRACTS = Contracts(1, *(NodeId(bytes([number]) * 20) for number in range(11, 17)))
THIEF = [key(900 + number) for number in range(4)]
"""Whom nobody ever elected."""


def evm_block(number: int, time_s: int) -> bytes:
    """An EVM block's header in RLP."""
    fields = [bytes(32), bytes(32), bytes(20), bytes(32), bytes(32), bytes(32), bytes(256), b"", number, 1, 0, time_s]
    return bytes(rlp.encode([*fields, b"", bytes(32), bytes(8), 7]))


@dataclass
class Net:
    """Its committee of four moves on by ``turn`` of ``crowd`` members each epoch; an epoch is ``epoch_s`` long."""

    turn: int = 1
    crowd: int = 11
    epoch_s: int = DAY_S
    founded_s: int = FOUNDED_S
    settles: bool = True
    genesis: Genesis = field(init=False)
    everybody: list[Key] = field(init=False)

    def __post_init__(self) -> None:
        self.everybody = [key(700 + number) for number in range(self.crowd)]
        first = tuple(member.node for member in self.committee(1))
        contracts = CONTRACTS if self.settles else None
        chain_id = 31_337 if self.settles else 0
        self.genesis = Genesis(
            "trust", chain_id, Params(trust_period_ms=PERIOD_S * 1_000), first, (), (), contracts, self.founded_s
        )

    def committee(self, epoch: int) -> list[Key]:
        """The members of an epoch."""
        return [self.everybody[(epoch * self.turn + place) % self.crowd] for place in range(4)]

    def begins_s(self, epoch: int) -> int:
        """When an epoch begins."""
        return FOUNDED_S + (epoch - 1) * self.epoch_s

    def header(
        self, epoch: int, following: Sequence[Key], height: int = 5, anchor: bytes = b"", **more: Digest
    ) -> Header:
        """A header that names the next committee."""
        roots = Roots(
            results_root=more.get("results_root", ZERO_DIGEST),
            results_count=0,
            ledger_root=ZERO_DIGEST,
            params_digest=ZERO_DIGEST,
            anchor_number=epoch if anchor else 0,
            anchor_hash=Digest(keccak(anchor)) if anchor else ZERO_DIGEST,
            deposits=0,
            next_committee=committee_root(tuple(member.node for member in following)),
        )
        return make_header(epoch, height, Digest(keccak(b"parent")), roots, EMPTY_BODY)

    def certify(
        self, header: Header, signers: Sequence[Key], kind: CertificateKind = CertificateKind.FINALIZATION
    ) -> Certified:
        """The header as these finalized it, by the places 0, 1, 2, …"""
        domain = self.genesis.domain()
        digest = header_digest(domain, header)
        said = statement_digest(domain, StatementKind(kind), header.epoch, header.height, digest)
        signatures = tuple(MemberSignature(place, signer.sign(said)) for place, signer in enumerate(signers))
        return Certified(Certificate(kind, header.epoch, header.height, digest, signatures), header)

    def hand_over(
        self,
        epoch: int,
        *,
        following: Sequence[Key] = (),
        signers: Sequence[Key] = (),
        time_s: int | None = None,
        bare: bool = False,
    ) -> HandOver:
        """An epoch's, with the EVM block of its beginning unless it is ``bare``."""
        following = following or self.committee(epoch + 1)
        anchor = b"" if bare else evm_block(epoch, self.begins_s(epoch) if time_s is None else time_s)
        header = self.header(epoch, following, anchor=anchor)
        certified = self.certify(header, signers or self.committee(epoch)[:3])
        return HandOver(certified, tuple(member.node for member in following), anchor)

    def final(self, epoch: int, signers: Sequence[Key] = (), height: int = 9) -> Certified:
        """A final header of an epoch."""
        return self.certify(self.header(epoch, self.committee(epoch + 1), height), signers or self.committee(epoch)[:3])

    def point(self, epoch: int, time_s: int | None = None, members: Sequence[Key] = ()) -> TrustPoint:
        """An epoch's committee as somebody shows it."""
        root = committee_root(tuple(member.node for member in members or self.committee(epoch)))
        network = self.genesis.network_id(), self.genesis.chain_id
        return TrustPoint(*network, epoch, root, self.begins_s(epoch) if time_s is None else time_s)

    def trust(self, *points: TrustPoint, at_s: int | None = None) -> HeaderTrust:
        """A reader of this time."""
        return HeaderTrust(self.genesis, points, None if at_s is None else at_s * 1_000)

    def renamed(self, name: str) -> "Net":
        """Another network of the same people."""
        other = replace(self)
        other.genesis = replace(other.genesis, name=name)
        return other
