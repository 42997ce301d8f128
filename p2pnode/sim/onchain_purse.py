"""Who has money in a network: it pays in, has some of what it owns leave the ledger, and takes that from the escrow.

A purse signs nothing but withdrawals. It speaks ``results`` with the oracles, as the wallet does; what the ledger says
of it, and the proof for the contract, it is told by the world, as by an oracle that answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from chain.errors import ChainError
from chain.model.client import ModelClient
from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Boot, Part
from p2pnode.sim.onchain_chain import Onchain
from p2pnode.sim.results_replay import OneLedger
from protocol.core.deadlines import Deadlines
from protocol.core.ids import Digest, NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelNumbers, DeadlineReached, Open, Send
from protocol.core.signing import Domain, typed_digest
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.messages.results import LedgerProof, SignedWithdraw, Submit, Withdraw

LINK_AGAIN_MS = 1_000
WISH_MS = 1_500


class PurseMachine:
    """Has money leave the ledger. ``closed``: no more than it has asked for already."""

    protocols: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    def __init__(
        self, key: Key, domain: Domain, oracles: Sequence[NodeId], rng: Random, account: Callable[[], Account]
    ) -> None:
        self.closed = False
        self.total = 0
        """What is to be withdrawable."""
        self._key = key
        self._domain = domain
        self._rng = rng
        self._account = account
        self._numbers = ChannelNumbers()
        self._links: dict[Channel, NodeId] = {}
        self._at: Deadlines[NodeId | None] = Deadlines()
        for oracle in (*oracles, None):
            self._at.set(oracle, 0)

    def next_deadline(self) -> int | None:
        """See protocol.core.machine.Machine."""
        return self._at.next()

    def handle(self, event: object, now_ms: int) -> list[object]:
        """See protocol.core.machine.Machine."""
        if isinstance(event, ChannelClosed):
            oracle = self._links.pop(event.channel, None)
            if oracle is not None:
                self._at.set(oracle, now_ms + LINK_AGAIN_MS)
        if not isinstance(event, DeadlineReached):
            return []
        effects: list[object] = []
        for due in self._at.due(now_ms):
            if due is None:
                self._at.set(None, now_ms + WISH_MS)
                effects += self._wish()
            else:
                channel = self._numbers.take()
                self._links[channel] = due
                effects.append(Open(channel, due, "results"))
        return effects

    def _wish(self) -> list[object]:
        has = self._account()
        if self.total <= has.withdrawable_wei and not self.closed and self._rng.random() < 0.5:
            self.total = has.withdrawable_wei + int(has.balance_wei * self._rng.random())
        if self.total <= has.withdrawable_wei:
            return []
        withdraw = Withdraw(self._key.node_id, self.total)
        signed = SignedWithdraw(withdraw, self._key.sign(Digest(typed_digest(self._domain, withdraw))))
        return [Send(channel, Submit(withdrawals=(signed,))) for channel in self._links]


@dataclass(slots=True)
class Book:
    """What the ledger says, as any oracle would tell. ``ledger`` is set as soon as there is one."""

    ledger: OneLedger | None = None

    def account(self, account: NodeId) -> Account:
        """As of the last final block."""
        ledger = self.ledger
        return Account() if ledger is None else ledger.states[ledger.best].account(account)


@dataclass(slots=True)
class PurseProgram:
    """Runs a purse's machine."""

    key: Key
    domain: Domain
    oracles: Sequence[NodeId]
    rng: Random
    book: Book
    machine: PurseMachine | None = None

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        me, book = self.key.node_id, self.book
        self.machine = PurseMachine(self.key, self.domain, self.oracles, self.rng, lambda: book.account(me))
        return [Part(self.machine)]


class Purse:
    """Its dealings with the chain."""

    def __init__(
        self, onchain: Onchain, client: ModelClient, program: PurseProgram, rng: Random, book: Book, until_ms: int
    ) -> None:
        self.account = program.key.node_id
        self.program = program
        self.shown: list[tuple[Digest, LedgerProof]] = []
        """What it has shown to the escrow."""
        self._onchain = onchain
        self._client = client
        self._rng = rng
        self._book = book
        self._until_ms = until_ms
        onchain.world.after(rng.randrange(1_000_000), self._again)

    def _again(self) -> None:
        world = self._onchain.world
        try:
            if world.now_us < self._until_ms * 1_000 and self._rng.random() < 0.3:
                self._client.deposit(self.account, self._rng.randint(1, 500_000))
            self._bring()
            self._client.maintain()
        except ChainError:
            pass  # another time
        world.after(self._rng.randint(500_000, 1_500_000), self._again)

    def close(self) -> None:
        """What has been asked for is all."""
        if self.program.machine is not None:
            self.program.machine.closed = True

    def deposit(self, amount: int) -> None:
        """Pay in once more."""
        self._client.deposit(self.account, amount)

    def _bring(self) -> None:
        """Show the escrow the newest header that money may move by."""
        found = newest_usable(self._onchain, self._book.ledger)
        if found is None or self._book.ledger is None:
            return
        slot, digest = found
        state = self._book.ledger.states[slot]
        if state.account(self.account).withdrawable_wei > self._client.paid(self.account):
            proof = state.prove(Section.ACCOUNTS, self.account)
            self.shown.append((digest, proof))
            self._client.withdraw(self._book.ledger.headers[slot], proof)


def newest_usable(onchain: Onchain, ledger: OneLedger | None) -> tuple[tuple[int, int], Digest] | None:
    """Slot and digest of the last accepted header whose window is over, of those that the world knows."""
    checkpoints, now_s = onchain.contracts.checkpoints, onchain.chain.head.time_s
    for digest, kept in reversed(checkpoints.kept.items()):
        slot = (kept.epoch, kept.height)
        if kept.time_s + onchain.terms.window_s <= now_s and ledger is not None and slot in ledger.states:
            return slot, digest
    return None
