"""What Byzantine oracles do with results: they withhold what they saw, say what they did not see, say two things, write
garbage into their batches, whisper to one member only, and ask for openings too early.

What they put into batches they change before they sign, so the machine behind them takes it for its own word. Beside
that they may play any trick of consensus (``byzantine_tricks``).
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from msgspec.structs import replace

from p2pnode.sim.byzantine import Grip, Trick, messages_of
from p2pnode.sim.results_byzantine import Den, instead
from protocol.committee.cut import Cut, content_bytes_max, home_of
from protocol.committee.payload import InvalidBody, make_header
from protocol.committee.signer import Record, Signer
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest
from protocol.core.machine import Received, Send, SendAll
from protocol.core.signing import keccak, typed_digest
from protocol.messages.committee import BODY_BYTES_MAX, Offer, Propose, SignedBatch, StatementKind, header_digest
from protocol.messages.results import (
    CommitMessage,
    Content,
    Enlist,
    Observation,
    RevealAsked,
    SessionClose,
    SignedClose,
    SignedEnlist,
    SignedWithdraw,
    TestReport,
    Verdict,
    Withdraw,
)

Lie = Callable[["LyingSigner", Content], Content | bytes]


def common_root(session: bytes, task: int, lane: int) -> bytes:
    """The result that all liars agree on."""
    return keccak(b"lie" + session + task.to_bytes(4, "big") + bytes([lane]))


class LyingSigner(Signer):
    """Signs a batch of whatever its lies make of it."""

    lies: tuple[Lie, ...] = ()
    rng: Random
    genesis: Genesis
    den: Den
    deposits = 0
    """The last one that it has seen on the chain."""

    def sign_batch(self, home_epoch: int, content: bytes) -> tuple[SignedBatch, tuple[Record, ...]] | None:
        """See Signer."""
        told = content
        for lie in self.lies:
            try:
                made = lie(self, unpack(Content, told, limit_bytes=len(told)))
            except DecodeError:
                break  # a lie before has made garbage of it
            told = made if isinstance(made, bytes) else pack(made)
        limit = content_bytes_max(self.genesis.params)
        return super().sign_batch(home_epoch, told if len(told) <= limit else content)


def withholds(signer: LyingSigner, content: Content) -> Content:
    """Some observations, or all, are left out."""
    share = signer.rng.choice((0.5, 1.0))
    kept = tuple(value for value in content.observations if signer.rng.random() > share)
    return replace(content, observations=kept)


def withholds_others(_signer: LyingSigner, content: Content) -> Content:
    """Nothing but observations gets in."""
    return Content(observations=content.observations)


def observes_falsely(signer: LyingSigner, content: Content) -> Content:
    """What came is called late, what did not come is ok, with the result that all liars agree on."""
    return replace(content, observations=tuple(_turned(signer, value) for value in content.observations))


def _turned(signer: LyingSigner, value: Observation) -> Observation:
    if value.verdict is Verdict.OK and signer.rng.random() < 0.3:
        return Observation(value.session, value.task, value.lane, Verdict.LATE, bytes(32), 0)
    root = common_root(value.session, value.task, value.lane)
    return Observation(value.session, value.task, value.lane, Verdict.OK, root, 1_000)


def makes_up(signer: LyingSigner, content: Content) -> Content:
    """Lanes that anybody was ever asked to run are ok, long before they are."""
    made = []
    for session, task in list(signer.den.starts)[-4:]:
        for lane in range(2):
            root = common_root(session, task, lane)
            made.append(Observation(session, task, lane, Verdict.OK, root, 1_000))
    return replace(content, observations=(*content.observations, *made))


def says_two_things(signer: LyingSigner, content: Content) -> Content:
    """Each value comes with its contrary."""
    turned = tuple(_turned(signer, value) for value in content.observations)
    return replace(content, observations=(*content.observations, *turned))


def writes_garbage(signer: LyingSigner, content: Content) -> Content | bytes:
    """Nothing that decodes, or items that nobody signed."""
    rng, me, model = signer.rng, signer.me, bytes(32)
    bad = bytes(64) + b"\x1b"
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.randint(0, 200))
        case 1:
            return pack(content) + b"\x00"
        case 2:
            somebody = rng.choice(sorted(account for account, _ in signer.genesis.allocation) or [me])
            withdraw = SignedWithdraw(Withdraw(somebody, 1 << rng.randint(4, 60)), bad)
            return replace(content, withdrawals=(*content.withdrawals, withdraw))
        case 3:
            close = SignedClose(SessionClose(rng.randbytes(32)), bad)
            enlist = SignedEnlist(Enlist(me, me, model, 9, 9, 1 << 60), bad)
            return replace(content, closes=(close, close), enlistments=(enlist,))
        case _:
            reports = tuple(
                TestReport(miner, number, passed, 0, 0)
                for miner in signer.genesis.miners[:2]
                for number, passed in ((1, False), (1 << 60, True))
            )
            return replace(content, reports=(*content.reports, *reports))


LIES: Mapping[str, Lie] = {
    "withholds": withholds,
    "withholds-others": withholds_others,
    "observes-falsely": observes_falsely,
    "makes-up": makes_up,
    "says-two-things": says_two_things,
    "writes-garbage": writes_garbage,
}


class Whispers(Trick):
    """Offers its batches to one member only."""

    def __init__(self, grip: Grip) -> None:
        super().__init__(grip)
        self._place = grip.rng.randrange(1 << 16)

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = messages_of(effect)
        if not isinstance(message, Offer) or message.signed.batch.oracle != self.grip.key.node_id:
            return [effect]
        others = [member for member in self.grip.committee.members if member != self.grip.key.node_id]
        return self.grip.to((others[self._place % len(others)],), message)


class AsksEarly(Trick):
    """Asks for an opening as soon as it hears of a commit."""

    def heard(self, event: object, now_ms: int) -> list[object]:
        """See Trick."""
        if not isinstance(event, Received) or not isinstance(event.message, CommitMessage):
            return []
        commit = event.message.signed.commit
        return [Send(event.channel, RevealAsked(commit.session, commit.task))]


class NeverAsks(Trick):
    """Asks for no opening at all."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        return [] if isinstance(messages_of(effect), RevealAsked) else [effect]


class TwoTongues(Trick):
    """Signs two batches of one number: an empty one for half of the members."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message, grip = messages_of(effect), self.grip
        if not isinstance(message, Offer) or not isinstance(effect, SendAll):
            return [effect]
        batch = message.signed.batch
        if batch.oracle != grip.key.node_id:
            return [effect]
        empty = pack(Content())
        other = replace(batch, content=keccak(empty))
        signature = grip.key.sign(Digest(typed_digest(grip.domain, other)))
        one_half, other_half = grip.halves()
        return [*grip.to(one_half, message), *grip.to(other_half, Offer(SignedBatch(other, signature, empty)))]


class Picks(Trick):
    """As a leader it takes in of each other oracle's batches the last one only: what stood in those before is lost, if
    anybody lets it through."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Trick."""
        message = messages_of(effect)
        if not isinstance(message, Propose) or not message.body:
            return [effect]
        batches = unpack(Cut, message.body, limit_bytes=BODY_BYTES_MAX).batches
        last = {home_of(signed): signed for signed in batches}
        kept = tuple(one for one in batches if one is last[home_of(one)] or one.batch.oracle == self.grip.key.node_id)
        other = None if len(kept) == len(batches) else self._with(message, pack(Cut(kept)))
        return [effect if other is None else instead(effect, other)]

    def _with(self, message: Propose, body: bytes) -> Propose | None:
        """The same proposal with another body, and the roots that it leads to."""
        grip, header = self.grip, message.header
        tree = grip.inner.simplex.tree
        before = tree.state_after(header.parent)
        try:
            after = None if before is None else tree.execute(header.height, before, body)
        except InvalidBody:
            return None  # nobody would let it through
        if after is None:
            return None
        made = make_header(header.epoch, header.height, header.parent, after.roots, keccak(body))
        digest = header_digest(grip.domain, made)
        statement = grip.sign(StatementKind.PROPOSAL, header.epoch, header.height, digest)
        return Propose(statement, made, body, message.parent, message.nullifications)


DESK_TRICKS: Mapping[str, Callable[[Grip], Trick]] = {
    "whispers": Whispers,
    "asks-early": AsksEarly,
    "never-asks": NeverAsks,
    "two-tongues": TwoTongues,
    "picks": Picks,
}


def draw_oracle_ruses(rng: Random, tricks: Mapping[str, Any]) -> tuple[str, ...]:
    """A lie or a trick of the desk, and now and then one of consensus."""
    drawn = [rng.choice(sorted({**LIES, **DESK_TRICKS}))]
    if rng.random() < 0.4:
        drawn.append(rng.choice(sorted({**LIES, **DESK_TRICKS})))
    if rng.random() < 0.3:
        drawn.append(rng.choice(sorted(tricks)))
    return tuple(dict.fromkeys(drawn))
