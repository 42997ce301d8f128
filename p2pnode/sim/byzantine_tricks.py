"""Tricks that aim at agreement: two proposals, two votes, certificates held back, words for some ears only."""

from collections.abc import Mapping
from random import Random

from msgspec.structs import replace

from p2pnode.sim.byzantine import Grip, Trick, channels_of, messages_of
from p2pnode.sim.byzantine_noise import NOISE
from protocol.committee.payload import claimed_roots, make_header
from protocol.committee.timing import timeout_ms
from protocol.core.machine import Publish, Received, Send, SendAll
from protocol.core.signing import keccak
from protocol.messages.committee import (
    CertificateKind,
    Certified,
    Offer,
    Propose,
    State,
    Statement,
    StatementKind,
    header_digest,
)


class TwoProposals(Trick):
    """Proposes one block to one half of the members and another to the other half."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = messages_of(effect)
        if not isinstance(message, Propose) or not isinstance(effect, SendAll):
            return [effect]
        grip = self.grip
        other = self._other(message)
        if other is None:
            return [effect]
        statement = message.statement
        grip.notes[statement.epoch, statement.height] = (statement.header, other.statement.header)
        return self._tell(message, other)

    def _tell(self, one: Propose, other: Propose) -> list[object]:
        one_half, other_half = self.grip.halves()
        return [*self.grip.to(one_half, one), *self.grip.to(other_half, other), *two_words(self.grip, one.statement)]

    def _other(self, message: Propose) -> Propose | None:
        """A valid block of another kind: empty, or with nothing but the parent's state to show."""
        tree = self.grip.inner.simplex.tree
        header = message.header
        parent = tree.headers.get(header.parent)
        before = tree.state_after(header.parent)
        if parent is None or before is None:
            return None
        if message.body:
            body, roots = b"", before.roots
        else:
            body, roots = b"\x00", claimed_roots(header)
        made = make_header(header.epoch, header.height, header.parent, roots, keccak(body))
        digest = header_digest(self.grip.domain, made)
        statement = self.grip.sign(StatementKind.PROPOSAL, header.epoch, header.height, digest)
        return Propose(statement, made, body, message.parent, message.nullifications)


def two_words(grip: Grip, slot: Statement) -> list[object]:
    """Votes and finalizes for both blocks of a slot, each towards the half that was told of it."""
    effects: list[object] = []
    for header, half in zip(grip.notes[slot.epoch, slot.height], grip.halves(), strict=True):
        for kind in (StatementKind.VOTE, StatementKind.FINALIZE):
            effects += grip.to(half, State(grip.sign(kind, slot.epoch, slot.height, header)))
    return effects


class ProposesTwice(TwoProposals):
    """Proposes two blocks to everybody, one after the other."""

    def _tell(self, one: Propose, other: Propose) -> list[object]:
        return [*self.grip.to_all(one), *self.grip.to_all(other)]


class SkipsHeights(Trick):
    """Proposes blocks that follow an older one than they should, as if what came between had been given up."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = messages_of(effect)
        if not isinstance(message, Propose):
            return [effect]
        grip, tree = self.grip, self.grip.inner.simplex.tree
        parent = tree.headers.get(message.header.parent)
        if parent is None or parent.height == tree.base.header.height or parent.parent not in tree.headers:
            return [effect]
        state = tree.state_after(parent.parent)
        if state is None:
            return [effect]
        older = tree.headers[parent.parent]
        header = make_header(parent.epoch, message.header.height, parent.parent, state.roots, keccak(b""))
        statement = grip.sign(StatementKind.PROPOSAL, header.epoch, header.height, header_digest(grip.domain, header))
        certificate = tree.certified(parent.parent, older.height)
        return grip.to_all(Propose(statement, header, b"", certificate, ()))


class SaysEverything(Trick):
    """Votes for every block it sees, nullifies and finalizes every height, and tells everybody."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._said: set[tuple[int, int, bytes]] = set()

    def heard(self, event: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = event.message if isinstance(event, Received) else None
        if isinstance(message, Propose):
            statement = message.statement
            if (statement.epoch, statement.height) in self.grip.notes:
                return two_words(self.grip, statement)
            return self._say(statement.epoch, statement.height, statement.header)
        if isinstance(message, Certified) and message.certificate.kind is CertificateKind.NOTARIZATION:
            certificate = message.certificate
            if (certificate.epoch, certificate.height) in self.grip.notes:
                return []
            return self._say(certificate.epoch, certificate.height, certificate.header)
        return []

    def says(self, effect: object, now_ms: int) -> list[object]:
        """Its own proposals get all its votes too."""
        message = messages_of(effect)
        if isinstance(message, Propose) and (message.statement.epoch, message.statement.height) not in self.grip.notes:
            statement = message.statement
            return [effect, *self._say(statement.epoch, statement.height, statement.header)]
        return [effect]

    def _say(self, epoch: int, height: int, header: bytes) -> list[object]:
        if (epoch, height, header) in self._said or len(self._said) > 20_000:
            return []
        self._said.add((epoch, height, header))
        sign = self.grip.sign
        said = (
            sign(StatementKind.VOTE, epoch, height, header),
            sign(StatementKind.FINALIZE, epoch, height, header),
            sign(StatementKind.NULLIFY, epoch, height),
        )
        return [effect for statement in said for effect in self.grip.to_all(State(statement))]


class TwoFaces(SaysEverything):
    """Votes and finalizes towards one half of the members, nullifies towards the other."""

    def _say(self, epoch: int, height: int, header: bytes) -> list[object]:
        if (epoch, height, header) in self._said or len(self._said) > 20_000:
            return []
        self._said.add((epoch, height, header))
        grip = self.grip
        one_half, other_half = grip.halves()
        return [
            *grip.to(one_half, State(grip.sign(StatementKind.VOTE, epoch, height, header))),
            *grip.to(one_half, State(grip.sign(StatementKind.FINALIZE, epoch, height, header))),
            *grip.to(other_half, State(grip.sign(StatementKind.NULLIFY, epoch, height))),
        ]


class HoldsBackCertificates(Trick):
    """Sends no certificate, or those of one kind only."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._kept = grip.rng.choice((tuple(CertificateKind), *((kind,) for kind in CertificateKind)))

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = messages_of(effect)
        held = isinstance(message, Certified) and message.certificate.kind in self._kept
        return [] if held else [effect]


class SilentLeader(Trick):
    """Never proposes."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        return [] if isinstance(messages_of(effect), Propose) else [effect]


class Mute(Trick):
    """Says nothing to members, and does not answer."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        return [] if isinstance(effect, Send | SendAll | Publish) else [effect]


class BarelyInTime(Trick):
    """Proposes when the others' timers are about to fire."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._held: list[tuple[int, object]] = []

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        if not isinstance(messages_of(effect), Propose):
            return [effect]
        simplex, params = self.grip.inner.simplex, self.grip.params
        whole_ms = timeout_ms(params, self.grip.committee.faulty_max, simplex.height, simplex.tree.final_height)
        late_ms = whole_ms - self.grip.rng.randint(0, 2 * params.delta_ms)
        self._held.append((now_ms + max(0, late_ms), effect))
        return []

    def next_deadline(self) -> int | None:
        """See Trick."""
        return min((at for at, _ in self._held), default=None)

    def due(self, now_ms: int) -> list[object]:
        """See Trick."""
        ready = [effect for at, effect in self._held if at <= now_ms]
        self._held = [(at, effect) for at, effect in self._held if at > now_ms]
        return ready


class SpeaksToSome(Trick):
    """Some members never hear it, or only sometimes."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._share = grip.rng.choice((0.3, 0.5, 0.8))
        self._fixed = grip.rng.random() < 0.5
        self._salt = grip.rng.randbytes(4)

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message, links = messages_of(effect), self.grip.links
        if message is None or not any(channel in links for channel in channels_of(effect)):
            return [effect]
        channels = tuple(channel for channel in channels_of(effect) if self._hears(links.get(channel, b"")))
        return [SendAll(channels, message)] if channels else []

    def _hears(self, peer: bytes) -> bool:
        if self._fixed:
            return Random(peer + self._salt).random() < self._share
        return self.grip.rng.random() < self._share


class Censor(Trick):
    """Takes up no batch of some oracles, so that its blocks leave them out."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._salt = grip.rng.randbytes(4)

    def hears(self, event: object, now_ms: int) -> object | None:
        """See Trick."""
        message = event.message if isinstance(event, Received) else None
        censored = isinstance(message, Offer) and Random(message.signed.batch.oracle + self._salt).random() < 0.6
        return None if censored else event


class TwoBatches(Trick):
    """Signs two batches under one number, and tells one half of the one, the other half of the other."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message, grip = messages_of(effect), self.grip
        if not isinstance(message, Offer) or message.signed.batch.oracle != grip.key.node_id:
            return [effect]
        content = b"another"
        other = grip.sign_batch(replace(message.signed.batch, content=keccak(content)), content)
        one_half, other_half = grip.halves()
        return [*grip.to(one_half, message), *grip.to(other_half, Offer(other))]


TRICKS: Mapping[str, type[Trick]] = {
    "two-proposals": TwoProposals,
    "proposes-twice": ProposesTwice,
    "skips-heights": SkipsHeights,
    "says-everything": SaysEverything,
    "two-faces": TwoFaces,
    "holds-back-certificates": HoldsBackCertificates,
    "silent-leader": SilentLeader,
    "mute": Mute,
    "barely-in-time": BarelyInTime,
    "speaks-to-some": SpeaksToSome,
    "censor": Censor,
    "two-batches": TwoBatches,
    **NOISE,
}


def draw_tricks(rng: Random) -> tuple[str, ...]:
    """One to three, in an order."""
    return tuple(rng.sample(sorted(TRICKS), rng.choice((1, 1, 2, 3))))
