"""The blocks above the finalized chain's end: what is known of them, what follows from it, what is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from protocol.committee.payload import InvalidBody, Payload, claimed_roots
from protocol.core.ids import Digest
from protocol.messages.committee import EMPTY_BODY, Certificate, CertificateKind, Header


@dataclass(frozen=True, slots=True)
class Base:
    """The last block that is final and executed, or what an epoch begins with (height 0)."""

    header: Header
    digest: Digest
    state: Any


class Tree:
    """Of one epoch. ``closing_above`` is the height above which blocks change nothing."""

    def __init__(self, base: Base, payload: Payload, closing_above: int) -> None:
        self.base = base
        self.payload = payload
        self.closing_above = closing_above
        self.headers: dict[bytes, Header] = {base.digest: base.header}
        self.bodies: dict[bytes, bytes] = {}
        self.notarizations: dict[int, Certificate] = {}
        self.nullifications: dict[int, Certificate] = {}
        self.finalizations: dict[int, Certificate] = {}
        """Of blocks that are not executed yet."""
        self.final: Certificate | None = None
        """The latest finalization held; None at the start of an epoch."""
        self.dropped: list[tuple[int, bytes]] = []
        """Blocks that are still on disk, until the next one is final."""
        self._states: dict[bytes, Any] = {base.digest: base.state}
        self._invalid: dict[bytes, str] = {}
        self._whole_to = base.header.height
        """Up to here nothing is missing: every event asks, and need not begin at the base."""

    @property
    def final_height(self) -> int:
        """Height of the latest finalization held, executed or not."""
        return self.final.height if self.final is not None else self.base.header.height

    def add_header(self, digest: bytes, header: Header) -> None:
        """Remember the header that a digest names."""
        if header.height > self.base.header.height:
            self.headers[digest] = header
            if header.body == EMPTY_BODY:
                self.bodies[digest] = b""

    def add_block(self, digest: bytes, header: Header, body: bytes) -> None:
        """Remember a block whose body is the one its header names."""
        self.add_header(digest, header)
        if header.height > self.base.header.height:
            self.bodies[digest] = body

    def add_certificate(self, certificate: Certificate) -> bool:
        """Remember a valid certificate; False if one of its kind and height was known, or the height is settled."""
        if self.knows(certificate.kind, certificate.height):
            return False
        self._of(certificate.kind)[certificate.height] = certificate
        self._whole_to = min(self._whole_to, certificate.height - 1)
        if certificate.kind is CertificateKind.FINALIZATION and certificate.height > self.final_height:
            self.final = certificate
        return True

    def knows(self, kind: CertificateKind, height: int) -> bool:
        """Whether a certificate of this kind and height is there, or the height is settled."""
        return height <= self.base.header.height or height in self._of(kind)

    def names(self, digest: bytes, height: int) -> bool:
        """Whether a certificate that is here names this block."""
        return any(
            (certificate := known.get(height)) is not None and certificate.header == digest
            for known in (self.notarizations, self.finalizations)
        )

    def certified(self, digest: bytes, height: int) -> Certificate | None:
        """The certificate that makes a block a possible parent: its notarization, or its finalization."""
        for certificates in (self.notarizations, self.finalizations):
            certificate = certificates.get(height)
            if certificate is not None and certificate.header == digest:
                return certificate
        return None

    def certificates(self, above: int) -> Iterator[Certificate]:
        """All certificates above a height, the lowest first."""
        heights = sorted({*self.notarizations, *self.nullifications, *self.finalizations})
        for height in heights:
            if height > above:
                for known in (self.notarizations, self.nullifications, self.finalizations):
                    if height in known:
                        yield known[height]

    # What follows

    def state_after(self, digest: bytes) -> Any:
        """The state after a block; None while the block or one before it is missing. Raises InvalidBody."""
        path: list[bytes] = []
        at = digest
        while at not in self._states:
            if at in self._invalid:
                raise InvalidBody(self._invalid[at])
            header = self.headers.get(at)
            if header is None or at not in self.bodies or header.height <= self.base.header.height:
                return None
            path.append(at)
            at = header.parent
        for step in reversed(path):
            self._states[step] = self._execute(step)
        return self._states[digest]

    def _execute(self, digest: bytes) -> Any:
        header, body = self.headers[digest], self.bodies[digest]
        before = self._states[header.parent]
        try:
            after = self.execute(header.height, before, body)
            if claimed_roots(header) != after.roots:
                raise InvalidBody("the header does not name the state that its body leads to")
        except InvalidBody as error:
            self._invalid[digest] = str(error)
            raise
        return after

    def execute(self, height: int, state: Any, body: bytes) -> Any:
        """The state after a body at a height: closing blocks change nothing. Raises InvalidBody.

        Spec: [EPOCH-CLOSING.1]
        """
        if height <= self.closing_above:
            return self.payload.execute(state, body)
        if body:
            raise InvalidBody("a closing block is empty")
        return state

    def parent_for(self, height: int) -> bytes | None:
        """The highest block below ``height`` that may be a parent: certified, executed, every height between
        nullified. None if there is no such block here."""
        for at in range(height - 1, self.base.header.height, -1):
            certificate = self.notarizations.get(at) or self.finalizations.get(at)
            if certificate is not None and self._executes(certificate.header):
                return certificate.header
            if at not in self.nullifications:
                return None
        return self.base.digest

    def _executes(self, digest: bytes) -> bool:
        try:
            return self.state_after(digest) is not None
        except InvalidBody:
            return False

    def unfinished(self) -> bool:
        """Whether a notarized block that is not empty is not final. Spec: [SIMPLEX-TIMER.2]"""
        final = self.final_height
        return any(
            height > final
            and (header := self.headers.get(certificate.header)) is not None
            and header.body != EMPTY_BODY
            for height, certificate in self.notarizations.items()
        )

    # What is final

    def settleable(self) -> Certificate | None:
        """The highest finalization whose block and all before it are here."""
        for height in sorted(self.finalizations, reverse=True):
            header = self.finalizations[height].header
            if self._executes(header) and self._follows_base(header):
                return self.finalizations[height]
        return None

    def _follows_base(self, digest: bytes) -> bool:
        """Always so with at most f faulty; beyond that nothing that contradicts what is final is followed."""
        while (header := self.headers.get(digest)) is not None and header.height > self.base.header.height:
            digest = header.parent
        return digest == self.base.digest

    def settle(self, certificate: Certificate) -> tuple[tuple[Header, ...], tuple[Any, ...]]:
        """Move the base up to a finalized block; returns the headers from the old base (exclusive), lowest first, and
        the state after each."""
        path, states = [], []
        digest: bytes = certificate.header
        while digest != self.base.digest:
            path.append(self.headers[digest])
            states.append(self.state_after(digest))
            digest = path[-1].parent
        self.base = Base(path[0], Digest(certificate.header), states[0])
        self._prune()
        self.dropped.clear()
        return tuple(path[::-1]), tuple(states[::-1])

    def _prune(self) -> None:
        low = self.base.header.height
        for known in (self.notarizations, self.nullifications, self.finalizations):
            for height in [height for height in known if height <= low]:
                del known[height]
        self.headers = {d: h for d, h in self.headers.items() if h.height > low or d == self.base.digest}
        self.bodies = {digest: body for digest, body in self.bodies.items() if digest in self.headers}
        self._states = {digest: state for digest, state in self._states.items() if digest in self.headers}
        self._invalid = {digest: why for digest, why in self._invalid.items() if digest in self.headers}

    def drop_unnotarized(self, below: int) -> None:
        """Forget the bodies that no certificate names, of heights long left: they come by sync if they must."""
        for digest, header in list(self.headers.items()):
            if self.base.header.height < header.height < below and not self.names(digest, header.height):
                self.dropped.append((header.height, digest))
                for known in (self.headers, self.bodies, self._states, self._invalid):
                    known.pop(digest, None)

    def incomplete(self, below: int) -> int | None:
        """The lowest height above the base and below another at which there is no certificate, or a certified block's
        body is missing; None if there is none."""
        at = max(self._whole_to, self.base.header.height) + 1
        while at < below and self._is_whole(at):
            at += 1
        self._whole_to = at - 1
        return at if at < below else None

    def _is_whole(self, height: int) -> bool:
        named = [known[height] for known in (self.notarizations, self.finalizations) if height in known]
        return bool(named or height in self.nullifications) and all(each.header in self.bodies for each in named)

    def _of(self, kind: CertificateKind) -> dict[int, Certificate]:
        match kind:
            case CertificateKind.NOTARIZATION:
                return self.notarizations
            case CertificateKind.NULLIFICATION:
                return self.nullifications
            case CertificateKind.FINALIZATION:
                return self.finalizations
