"""What Byzantine routers do: they tamper with frames, drop messages, pass good bids over, keep reservations and closes
to themselves, and make up news."""

from random import Random

from msgspec.structs import replace

from p2pnode.sim.results_byzantine import Hand, Later, Ruse, Ruses, instead, message_of
from protocol.core.codec import Message, pack
from protocol.core.machine import Received, Send
from protocol.core.signing import keccak
from protocol.messages.committee import Batch, Certificate, Certified, SignedBatch
from protocol.messages.envelope import Envelope
from protocol.messages.greeting import RouterHello
from protocol.messages.results import (
    CommittedNews,
    Content,
    LedgerNews,
    Observation,
    ObservedNews,
    Outcome,
    OutcomeNews,
    ResultProof,
    SessionNews,
    Submit,
    Verdict,
)
from protocol.messages.sessions import LeaseGrant
from protocol.messages.tasks import FrameMessage
from protocol.results.mountain import NO_OUTCOMES, outcome_leaf


class TampersFrames(Ruse):
    """Changes a token or a text under way, now and then."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message, rng = message_of(effect), self.hand.rng
        if not isinstance(message, FrameMessage) or not message.ids or rng.random() > 0.2:
            return [effect]
        if rng.random() < 0.5:
            return [instead(effect, replace(message, ids=(message.ids[0] ^ 1, *message.ids[1:])))]
        return [instead(effect, replace(message, texts=(b" lie", *message.texts[1:])))]


class DropsMessages(Ruse):
    """Loses messages of a few kinds, of others none."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._share = hand.rng.choice((0.02, 0.2, 1.0))
        self._kinds: dict[type, bool] = {}

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message, rng = message_of(effect), self.hand.rng
        if message is None or isinstance(message, RouterHello):
            return [effect]
        lost = self._kinds.setdefault(type(message), rng.random() < 0.3)
        return [] if lost and rng.random() < self._share else [effect]


class PassesOver(Ruse):
    """Leaves bids out, and does not hear the first miner that grants a lease."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._passed: set[bytes] = set()

    def hears(self, event: object, now_ms: int) -> object | None:
        """See Ruse."""
        if not isinstance(event, Received):
            return event
        message = event.message
        if isinstance(message, Envelope) and self.hand.rng.random() < 0.3:
            return None
        if isinstance(message, LeaseGrant) and message.session not in self._passed:
            self._passed.add(message.session)
            return None
        return event


class WithholdsReservations(Ruse):
    """Submits nothing: neither reservations nor closes."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        return [] if isinstance(message_of(effect), Submit) else [effect]


class MakesNewsUp(Later):
    """Tells clients of certificates and outcomes that nobody signed, and spoils those that somebody did."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message, rng = message_of(effect), self.hand.rng
        if isinstance(message, CommittedNews) and isinstance(effect, Send):
            commit, shown = message.signed.commit, message.reveal
            result = (rng.randbytes(32), 1) if shown is None else (shown.reveal.root, shown.reveal.count)
            claims = self._claims(commit.session, commit.task, *result)
            return [effect, *(Send(effect.channel, claim, key=effect.key) for claim in claims)]
        if rng.random() < 0.5:
            return [effect]
        spoilt = self._spoilt(message)
        return [effect] if spoilt is None else [instead(effect, spoilt)]

    def _spoilt(self, message: Message | None) -> Message | None:
        rng = self.hand.rng
        match message:
            case ObservedNews():
                content = pack(Content())
                return replace(message, signed=replace(message.signed, content=content))
            case OutcomeNews():
                other = rng.choice(
                    (
                        replace(message.outcome, verdict=Verdict.OK, count=message.outcome.count + 1),
                        replace(message.outcome, verdict=Verdict.LATE),
                        replace(message.outcome, paid_wei=message.outcome.paid_wei + 1),
                    )
                )
                return replace(message, outcome=other)
            case SessionNews():
                return replace(message, session=rng.randbytes(32))
            case LedgerNews():
                return None
        return None

    def _claims(self, session: bytes, task: int, root: bytes, count: int) -> list[Message]:
        """What the client would like to hear, signed by this router in everybody's name."""
        hand = self.hand
        value = Observation(session, task, 0, Verdict.OK, root, count)
        content = pack(Content((value,)))
        said: list[Message] = []
        for number, oracle in enumerate(hand.committee):
            batch = Batch(1, oracle, number + 1, bytes(32), keccak(content))
            said.append(ObservedNews(session, SignedBatch(batch, hand.sign(batch), content)))
        for home_epoch in (1, 2, 3):
            outcome = Outcome(session, task, 0, Verdict.OK, root, count, home_epoch, 0)
            forged = self._forged(outcome)
            if forged is not None:
                said.append(OutcomeNews(outcome, ResultProof(0, 1, (), ()), forged))
        return said

    def _forged(self, outcome: Outcome) -> Certified | None:
        """A header that nobody finalized, whose results tree holds an outcome, with signatures of another one."""
        heard = self.hand.den.certified
        if heard is None or heard.header is None:
            return None
        mountain, _ = NO_OUTCOMES.append(outcome_leaf(outcome))
        header = replace(heard.header, results_count=1, results_root=mountain.root)
        certificate: Certificate = heard.certificate
        return Certified(certificate, header)


BAD_ROUTERS: Ruses = {
    "tampers-frames": TampersFrames,
    "drops-messages": DropsMessages,
    "passes-over": PassesOver,
    "withholds-reservations": WithholdsReservations,
    "makes-news-up": MakesNewsUp,
}


def draw_router_ruses(rng: Random) -> tuple[str, ...]:
    """One or two."""
    return tuple(rng.sample(sorted(BAD_ROUTERS), rng.choice((1, 1, 2))))
