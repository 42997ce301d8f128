"""Tricks that aim at the machines: floods from the far future, old news, forged certificates and pages, garbage."""

from collections import deque
from collections.abc import Mapping

from msgspec.structs import replace

from p2pnode.sim.byzantine import Grip, Trick, messages_of
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.machine import Publish, Received, Send, SendAll
from protocol.core.signing import keccak
from protocol.messages.committee import (
    Batch,
    Block,
    Certificate,
    CertificateKind,
    Certified,
    MemberSignature,
    Offer,
    Propose,
    Recalled,
    State,
    Statement,
    StatementKind,
    SyncPage,
)
from protocol.messages.envelope import seal
from protocol.messages.evidence import CommitteeNews

FAR = 1 << 62
OLD_MAX = 200


class Often(Trick):
    """Does something now and then."""

    every_ms = 400

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._next_ms = 0

    def next_deadline(self) -> int | None:
        """See Trick."""
        return self._next_ms

    def due(self, now_ms: int) -> list[object]:
        """See Trick."""
        self._next_ms = now_ms + self.grip.rng.randint(1, 2 * self.every_ms)
        return self.act(now_ms)

    def act(self, now_ms: int) -> list[object]:
        """What it does."""
        return []


class FarFuture(Often):
    """Speaks of heights and epochs that will never come, and of very many that may."""

    def act(self, now_ms: int) -> list[object]:
        """See Often."""
        grip, rng = self.grip, self.grip.rng
        epoch, at = grip.committee.epoch, grip.inner.simplex.height
        kind = rng.choice((StatementKind.VOTE, StatementKind.FINALIZE, StatementKind.NULLIFY))
        header = ZERO_DIGEST if kind is StatementKind.NULLIFY else rng.randbytes(32)
        ahead = grip.params.heights_ahead_max
        heights = [FAR, FAR + rng.randrange(1 << 61), *range(at + 1, at + ahead + 3, max(1, ahead // 8))]
        effects: list[object] = []
        for height in heights:
            effects += grip.to_all(State(grip.sign(kind, rng.choice((epoch, epoch, FAR, epoch + 1)), height, header)))
        number = rng.choice((rng.randint(1, 100), FAR))
        content = rng.randbytes(8)
        batch = Batch(rng.choice((epoch, FAR)), grip.key.node_id, number, rng.randbytes(32), keccak(content))
        effects += grip.to_all(Offer(grip.sign_batch(batch, content)))
        return effects + self._news(now_ms, epoch)

    def _news(self, now_ms: int, epoch: int) -> list[object]:
        grip, rng = self.grip, self.grip.rng
        if rng.random() > 0.2:
            return []
        statement = grip.sign(StatementKind.NULLIFY, rng.choice((epoch + 1, FAR)), FAR)
        news = CommitteeNews(grip.key.node_id, now_ms, (), (statement,))
        return [Publish("committee", seal(grip.domain, grip.key.sign, news))]


class OldNews(Often):
    """Sends again what it heard long ago, to everybody, whoever said it; and what a member said itself, as if asked."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._old: deque[Certified | State | Propose | Offer] = deque(maxlen=OLD_MAX)
        self._by_member: dict[NodeId, deque[Statement]] = {}

    def heard(self, event: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = event.message if isinstance(event, Received) else None
        if isinstance(message, Certified | State | Propose | Offer) and self.grip.rng.random() < 0.3:
            self._old.append(message)
        if isinstance(event, Received) and isinstance(message, State):
            peer = self.grip.inner.links.from_member(event.channel)
            if peer is not None:
                # Its first words are the most useful: their epochs are long over.
                self._by_member.setdefault(peer, deque(maxlen=20))
                if len(self._by_member[peer]) < 20:
                    self._by_member[peer].append(message.statement)
        return []

    def act(self, now_ms: int) -> list[object]:
        """See Often."""
        grip, rng = self.grip, self.grip.rng
        effects: list[object] = []
        for _ in range(min(4, len(self._old))):
            effects += grip.to_all(rng.choice(self._old))
        for peer, said in self._by_member.items():
            epoch = grip.committee.epoch
            effects += grip.to((peer,), Recalled(epoch, 1, None, tuple(said), ()))
        return effects


class Forger(Often):
    """Certificates that nobody signed, pages of blocks that do not exist, bodies that are not the header's."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = messages_of(effect)
        if isinstance(message, SyncPage) and isinstance(effect, Send):
            return [Send(effect.channel, self._page(message))]
        return [effect]

    def _page(self, page: SyncPage) -> SyncPage:
        rng = self.grip.rng
        blocks = list(page.blocks)
        for place, block in enumerate(blocks):
            match rng.randrange(4):
                case 0:
                    blocks[place] = replace(block, body=rng.randbytes(40))
                case 1:
                    blocks[place] = Block(replace(block.header, results_count=rng.randrange(99)), block.body, None)
                case 2 if block.certificate is not None:
                    blocks[place] = replace(block, certificate=self._spoilt(block.certificate))
        nullifications = [self._spoilt(certificate) for certificate in page.nullifications]
        return SyncPage(page.epoch, tuple(blocks), tuple(nullifications), FAR, FAR)

    def _spoilt(self, certificate: Certificate) -> Certificate:
        """The same signatures for something else."""
        match self.grip.rng.randrange(3):
            case 0:
                return replace(certificate, height=certificate.height + 1)
            case 1:
                return replace(certificate, kind=self.grip.rng.choice(tuple(CertificateKind)))
            case _:
                mine = MemberSignature(certificate.signatures[0].index, bytes(64) + b"\x1b")
                return replace(certificate, signatures=(mine, *certificate.signatures[1:]))

    def act(self, now_ms: int) -> list[object]:
        """See Often."""
        grip, rng = self.grip, self.grip.rng
        committee, height = grip.committee, grip.inner.simplex.height + rng.randint(0, 3)
        kind = rng.choice(tuple(CertificateKind))
        header = ZERO_DIGEST if kind is CertificateKind.NULLIFICATION else rng.randbytes(32)
        mine = grip.sign(StatementKind(kind), committee.epoch, height, header).signature
        signed = tuple(MemberSignature(place, mine) for place in range(committee.quorum))
        return grip.to_all(Certified(Certificate(kind, committee.epoch, height, header, signed), None))


class Garbage(Trick):
    """Fields out of place: other signatures, headers, heights than those that were signed."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message, rng = messages_of(effect), self.grip.rng
        if not isinstance(effect, SendAll) or rng.random() > 0.2:
            return [effect]
        match message:
            case State():
                said = message.statement
                spoilt = rng.choice(
                    (
                        replace(said, signature=rng.randbytes(64) + b"\x1b"),
                        replace(said, header=rng.randbytes(32)),
                        replace(said, height=said.height + 1),
                        replace(said, kind=rng.choice(tuple(StatementKind))),
                    )
                )
                return [SendAll(effect.channels, State(spoilt))]
            case Propose():
                body = rng.randbytes(rng.choice((1, 40)))
                return [SendAll(effect.channels, replace(message, body=body))]
            case Offer():
                signed = replace(message.signed, content=rng.randbytes(9))
                return [SendAll(effect.channels, Offer(signed))]
        return [effect]


NOISE: Mapping[str, type[Trick]] = {
    "far-future": FarFuture,
    "old-news": OldNews,
    "forger": Forger,
    "garbage": Garbage,
}
