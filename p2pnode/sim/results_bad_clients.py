"""What Byzantine clients do: they acknowledge nothing, take out what is reserved, close twice, promise one deposit to
many routers, and go to the oracles themselves with all that.

A client that colludes with routers has no need of its router: a :class:`Petitioner` runs beside its machine, speaks
``results`` with every oracle, and submits whatever its key can sign.
"""

from random import Random

from p2pnode.sim.crypto import Key
from p2pnode.sim.results_byzantine import Den, Ruse, Ruses, message_of
from protocol.core.deadlines import Deadlines
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, ModelDigest, NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelNumbers, DeadlineReached, Open, Send
from protocol.core.signing import TypedStruct, typed_digest
from protocol.messages.results import (
    SessionClose,
    SignedClose,
    SignedSession,
    SignedWithdraw,
    Submit,
    Withdraw,
)
from protocol.messages.sessions import OpenSession, SessionOpen, session_id
from protocol.messages.tasks import AckMessage

DEPOSIT_WEI = 2_000_000
"""What a client begins with where money comes from a chain."""


class NeverAcks(Ruse):
    """Reads and says nothing."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        return [] if isinstance(message_of(effect), AckMessage) else [effect]


class AcksSome(Ruse):
    """Acknowledges now and then, and never the end."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        if isinstance(message_of(effect), AckMessage) and self.hand.rng.random() < 0.5:
            return []
        return [effect]


class Confides(Ruse):
    """Tells its petitioner of the sessions that it opens."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if isinstance(message, OpenSession):
            opened = self.hand.den.opened.setdefault(self.hand.key.node_id, [])
            opened.append(SignedSession(message.opening, message.signature))
        return [effect]


BAD_CLIENTS: Ruses = {"never-acks": NeverAcks, "acks-some": AcksSome, "confides": Confides}


def draw_client_ruses(rng: Random) -> tuple[str, ...]:
    """Most confide in a petitioner."""
    acks = rng.choice(((), ("never-acks",), ("acks-some",)))
    return ("confides", *acks)


class Petitioner:
    """See the module. It has an account to empty: ``money`` is what it began with."""

    protocols: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    def __init__(
        self, key: Key, genesis: Genesis, model: ModelDigest, routers: tuple[NodeId, ...], rng: Random, den: Den
    ) -> None:
        self._key = key
        self._domain = genesis.domain()
        self._oracles = genesis.committee
        self._money = dict(genesis.allocation).get(key.node_id, DEPOSIT_WEI)
        self._model = model
        self._routers = routers
        self._rng = rng
        self._numbers = ChannelNumbers()
        self._links: dict[Channel, NodeId] = {}
        self._at: Deadlines[NodeId | None] = Deadlines()
        self._den = den
        self._nonce = 1 << 250
        for oracle in self._oracles:
            self._at.set(oracle, 0)
        self._at.set(None, 0)

    def next_deadline(self) -> int | None:
        """See protocol.core.machine.Machine."""
        return self._at.next()

    def handle(self, event: object, now_ms: int) -> list[object]:
        """See protocol.core.machine.Machine."""
        if isinstance(event, ChannelClosed):
            oracle = self._links.pop(event.channel, None)
            if oracle is not None:
                self._at.set(oracle, now_ms + 1_000)
        if not isinstance(event, DeadlineReached):
            return []
        effects: list[object] = []
        for due in self._at.due(now_ms):
            if due is None:
                self._at.set(None, now_ms + self._rng.randint(100, 3_000))
                effects += self._submit(now_ms)
            else:
                channel = self._numbers.take()
                self._links[channel] = due
                effects.append(Open(channel, due, "results"))
        return effects

    def _submit(self, now_ms: int) -> list[object]:
        message = self._petition(now_ms)
        some = [channel for channel in self._links if self._rng.random() < 0.7]
        return [Send(channel, message) for channel in some]

    def _petition(self, now_ms: int) -> Submit:
        rng, me = self._rng, self._key.node_id
        opened = self._den.opened.get(me, [])
        match rng.randrange(5):
            case 0:
                total = rng.choice((1, self._money // 4, self._money // 2, self._money, 2 * self._money, 1 << 62))
                withdraw = Withdraw(me, total)
                return Submit(withdrawals=(SignedWithdraw(withdraw, self._sign(withdraw)),) * rng.randint(1, 2))
            case 1 if opened:
                close = SessionClose(session_id(self._domain, rng.choice(opened).opening))
                return Submit(closes=(SignedClose(close, self._sign(close)),) * rng.randint(1, 2))
            case 2 if opened:
                return Submit(sessions=(rng.choice(opened),))
            case 3:
                somebody = Withdraw(rng.randbytes(20), self._money)
                return Submit(withdrawals=(SignedWithdraw(somebody, self._sign(somebody)),))
            case _:
                return Submit(sessions=(self._session(now_ms), self._session(now_ms)))

    def _session(self, now_ms: int) -> SignedSession:
        """Another session for the same money."""
        rng = self._rng
        self._nonce += 1
        cap_wei = rng.choice((self._money // 10, self._money // 2, self._money, self._money + 1))
        opening = SessionOpen(
            client=self._key.node_id,
            routers=(rng.choice(self._routers),),
            model=self._model,
            lanes=1,
            price_cap_wei=100,
            cap_wei=cap_wei,
            tasks_max=10,
            expires_ms=now_ms + 60_000,
            audits=False,
            nonce=self._nonce.to_bytes(32, "big"),
            header=bytes(32),
        )
        return SignedSession(opening, self._sign(opening))

    def _sign(self, struct: TypedStruct) -> bytes:
        return self._key.sign(Digest(typed_digest(self._domain, struct)))
