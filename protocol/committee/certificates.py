"""Statements and certificates: who signed, and whether 2f+1 did."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from protocol.committee.members import Committee
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId, Signature
from protocol.core.signing import Domain, keccak, recover, typed_digest
from protocol.messages.committee import (
    NO_HEADER,
    Batch,
    Certificate,
    CertificateKind,
    Certified,
    Header,
    MemberSignature,
    SignedBatch,
    Statement,
    StatementKind,
    header_digest,
    statement_digest,
)


class CommitteeError(RemoteProtocolError):
    """A statement, certificate, block or batch that does not hold; the message says what of it."""

    code = "remote/committee"


def statement_signer(domain: Domain, statement: Statement) -> NodeId:
    """Who signed. Raises CommitteeError for a nullify that names a header, SignatureError."""
    if (statement.kind is StatementKind.NULLIFY) != (statement.header == NO_HEADER):
        raise CommitteeError("a nullify names no header, every other statement one")
    digest = statement_digest(domain, statement.kind, statement.epoch, statement.height, statement.header)
    return recover(digest, statement.signature)


def assemble(
    committee: Committee, kind: CertificateKind, height: int, header: bytes, signatures: Mapping[int, Signature]
) -> Certificate:
    """The certificate of the first 2f+1 of at least as many signatures by place."""
    places = sorted(signatures)[: committee.quorum]
    signed = tuple(MemberSignature(place, signatures[place]) for place in places)
    return Certificate(kind, committee.epoch, height, header, signed)


def verify_certificate(domain: Domain, committee: Committee, certificate: Certificate) -> None:
    """Check that 2f+1 members of this committee signed. Raises CommitteeError, SignatureError.

    Spec: [CERTIFICATE-QUORUM.1]
    """
    if certificate.epoch != committee.epoch:
        raise CommitteeError(f"a certificate of epoch {certificate.epoch}, the committee is of {committee.epoch}")
    if (certificate.kind is CertificateKind.NULLIFICATION) != (certificate.header == NO_HEADER):
        raise CommitteeError("a nullification names no header, every other certificate one")
    places = [signed.index for signed in certificate.signatures]
    if len(places) != committee.quorum or any(low >= high for low, high in pairwise(places)):
        raise CommitteeError(f"a certificate has {committee.quorum} signatures in rising order of places")
    if places[-1] >= len(committee.members):
        raise CommitteeError(f"no member has the place {places[-1]}")
    kind = StatementKind(certificate.kind)
    digest = statement_digest(domain, kind, certificate.epoch, certificate.height, certificate.header)
    for signed in certificate.signatures:
        if recover(digest, signed.signature) != committee.members[signed.index]:
            raise CommitteeError(f"the signature at place {signed.index} is another's")


def statements_of(certificate: Certificate) -> Iterator[tuple[int, Statement]]:
    """The statements a certificate is made of, by the places of their signers."""
    kind, header = StatementKind(certificate.kind), certificate.header
    for signed in certificate.signatures:
        yield signed.index, Statement(kind, certificate.epoch, certificate.height, header, signed.signature)


def check_certified(domain: Domain, certified: Certified) -> None:
    """Check that the header is the one the certificate names. Raises CommitteeError."""
    header, named = certified.header, certified.certificate.header
    if header is not None:
        if certified.certificate.kind is CertificateKind.NULLIFICATION:
            raise CommitteeError("a nullification has no header")
        check_header(domain, header, certified.certificate.epoch, certified.certificate.height, named)


def check_header(domain: Domain, header: Header, epoch: int, height: int, digest: bytes) -> None:
    """Check that a header is of this slot and has this digest. Raises CommitteeError."""
    if (header.epoch, header.height) != (epoch, height) or header_digest(domain, header) != digest:
        raise CommitteeError(f"the header is not that of slot {epoch}/{height} which was signed")


def batch_digest(domain: Domain, batch: Batch) -> bytes:
    """The name of a batch, and what its oracle signs."""
    return typed_digest(domain, batch)


def verify_batch(domain: Domain, signed: SignedBatch) -> None:
    """Check a batch's content and signature. Raises CommitteeError, SignatureError."""
    batch = signed.batch
    if keccak(signed.content) != batch.content or batch.number < 1:
        raise CommitteeError("a batch names its content's digest and its number, from 1")
    if recover(typed_digest(domain, batch), signed.signature) != batch.oracle:
        raise CommitteeError("a batch is signed by its oracle")
