"""L3 and L7, and how a world with a chain ends: first as all ``results`` worlds do; then the contract catches up, who
was convicted is slashed, and purses have what they asked for. At last the committee dies, for good, and everybody takes
out what is his: nothing is left in the escrow, to the last unit.
"""

from dataclasses import dataclass, field
from typing import Any

from chain.api import TxId
from chain.errors import ChainError, Reverted
from chain.model.client import ModelClient
from chain.model.escrow import Closing
from p2pnode.sim.checkers import Violation
from p2pnode.sim.committee_word import OnlyTheGuilty
from p2pnode.sim.onchain_chain import Onchain
from p2pnode.sim.onchain_purse import Purse, newest_usable
from p2pnode.sim.onchain_raider import Raider
from p2pnode.sim.onchain_settling import LATENCY_MS, POLL_MS
from p2pnode.sim.results_ending import LOOK_EVERY_MS, Ends
from p2pnode.sim.results_money import accounts
from p2pnode.sim.results_tables import ResultsTables
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.messages.committee import Header

EXTRA = 777
"""What each purse pays in when nobody is left to take it in."""


@dataclass(slots=True)
class Estate:
    """What the ending must know."""

    onchain: Onchain
    purses: tuple[Purse, ...]
    guilty: OnlyTheGuilty
    tables: ResultsTables
    raider: Raider
    undertaker: ModelClient
    """Who sees to it that everybody gets what is left."""
    sent: dict[object, TxId] = field(default_factory=dict)


class OnchainEnds(Ends):
    """See the module."""

    invariant = "L3"
    estate: Estate
    """Given to it as soon as it is there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.given_back = 0
        """Units, in exits and refunds."""
        steps = (self._catches_up, self._convicts, self._pays, self._dies, self._is_dead, self._gives_back)
        self._steps += steps
        self._grabbed: Header | None = None
        self._wanted: int | None = None
        self._bound_ms = 0

    # Once more it is alive

    def _catches_up(self) -> bool:
        """A final checkpoint holds every outcome that there was when this began."""
        ledger, checkpoints = self._ledger, self.estate.onchain.final_contracts.checkpoints
        last = checkpoints.accepted(checkpoints.latest)
        if self._wanted is None:
            self._wanted = ledger.headers[ledger.best].results_count
            self._bound_ms = self._settle_ms(ledger.best[0] - last.epoch)
        header = ledger.headers.get((last.epoch, last.height))
        if header is not None and header.results_count >= self._wanted:
            return True
        if self._late(self._bound_ms):
            self._broken("L3", f"the contract is at {last.epoch}/{last.height}, the ledger at {ledger.best}")
        return False

    def _settle_ms(self, behind: int) -> int:
        """All members' turns for each hand-over that is missing, and for the newest header."""
        params, onchain = self.world.genesis.params, self.estate.onchain
        size = max(len(committee.members) for committee in self._ledger.reading.committees.values())
        seen_ms = 2 * (POLL_MS + LATENCY_MS) + (onchain.chain.depth + 4) * onchain.block_ms
        return params.checkpoint_ms + (max(0, behind) + 3) * (size * params.turn_ms + seen_ms)

    def _convicts(self) -> bool:
        """Whoever was convicted while he had stake is jailed."""
        registry = self.estate.onchain.final_contracts.registry
        hosts = [self.world.hosts[name] for name in self.estate.guilty.convicted]
        free = [host for host in hosts if host.node in registry.bonds and not registry.bonds[host.node].jailed]
        if free and self._late(self._settle_ms(0) + self._anchor_ms()):
            self._broken("L7", f"evidence against {free[0].name} is not on the chain in time")
        return not free

    def _anchor_ms(self) -> int:
        """Until the ledger has taken in what is final."""
        params, onchain = self.world.genesis.params, self.estate.onchain
        return params.anchor_stride * onchain.block_ms + 2 * self._bounds.item_ms + 2 * POLL_MS

    def _pays(self) -> bool:
        """Purses have got what the ledger let go of."""
        onchain, ledger, waiting = self.estate.onchain, self._ledger, []
        for purse in self.estate.purses:
            purse.close()
            machine, owed = purse.program.machine, ledger.states[ledger.best].account(purse.account)
            assert machine is not None
            asked = min(machine.total, owed.withdrawable_wei + owed.balance_wei)
            paid = onchain.final_contracts.escrow.paid.get(purse.account, 0)
            if paid != owed.withdrawable_wei or asked > owed.withdrawable_wei:
                waiting.append((purse, paid, owed.withdrawable_wei))
        window_ms = onchain.terms.window_s * 200 + self._bounds.item_ms + 10_000
        if waiting and self._late(window_ms + 2 * self._settle_ms(1) + self.world.genesis.params.checkpoint_idle_ms):
            purse, paid, owed_wei = waiting[0]
            self.fail(f"{purse.account.hex()[:8]} was paid {paid} of {owed_wei} that have left the ledger")
        return not waiting

    # It dies

    def _dies(self) -> bool:
        """All oracles go for good; what is paid in from now on, no ledger takes in."""
        for purse in self.estate.purses:
            self.world.by_id[purse.account].crash()
        self.estate.tables.rests()
        for name, host in self.world.hosts.items():
            if name.startswith("oracle"):
                host.crash()
        for purse in self.estate.purses:
            purse.deposit(EXTRA)
        return True

    def _is_dead(self) -> bool:
        """So long that the exit is open. Whoever brings one more header that was final before puts it off."""
        onchain = self.estate.onchain
        checkpoints, head = onchain.contracts.checkpoints, onchain.chain.head
        if not self._late(3 * onchain.block_ms + LOOK_EVERY_MS):
            return False
        if head.time_s > checkpoints.accepted(checkpoints.latest).time_s + onchain.terms.dead_s:
            return True
        onchain.skip(onchain.terms.dead_s + onchain.terms.window_s + 1)
        self._since_ms = self._now_ms()
        return False

    def _gives_back(self) -> bool:
        """Everybody gets what he has at the last usable header, and what came too late for it."""
        onchain, estate = self.estate.onchain, self.estate
        found = newest_usable(onchain, self._ledger)
        if found is None:
            self.fail("the committee died without a usable header")
            return False
        slot, _ = found
        state, header = self._ledger.states[slot], self._ledger.headers[slot]
        if self._grabbed is None:
            self._grabbed = header
            estate.raider.grabs(header)
        escrow = onchain.contracts.escrow
        for account, has in accounts(state):
            if _all_of(has) > escrow.paid.get(NodeId(account), 0):
                proof = state.prove(Section.ACCOUNTS, account)
                self._try(lambda proof=proof: estate.undertaker.exit(header, ZERO_DIGEST, proof))
        for number in range(header.deposits + 1, len(escrow.deposits) + 1):
            if escrow.deposit_of(number)[1]:
                self._try(lambda number=number: estate.undertaker.refund(number, header, ZERO_DIGEST))
        estate.undertaker.maintain()
        return self._is_empty(onchain.final_contracts.escrow.closing, state)

    def _try(self, send: Any) -> None:
        try:
            send()
        except Reverted as refused:
            self._broken("S7", f"what is left cannot be had: {refused.reason}")
        except ChainError:
            return

    def _is_empty(self, closing: Closing | None, state: Any) -> bool:
        """Nothing is left, and nobody got more or less than his own."""
        onchain = self.estate.onchain
        escrow, late = onchain.final_contracts.escrow, self._late(60_000)
        coins = onchain.chain.holdings(onchain.chain.final.number).coins
        left = coins.get(onchain.terms.addresses.escrow, 0)
        if late and left:
            self._broken("S7", f"{left} of {escrow.deposited} units are left in the escrow for ever")
        if left or closing is None:
            return False
        for account, has in accounts(state):
            if escrow.paid.get(NodeId(account), 0) != _all_of(has):
                self._broken("S7", f"{account.hex()[:8]} got {escrow.paid.get(NodeId(account), 0)} of {_all_of(has)}")
        self.given_back = escrow.paid_out
        return True

    def _broken(self, invariant: str, what: str) -> None:
        raise Violation(invariant, what, self.world.now_us // 1_000)


def _all_of(has: Account) -> int:
    return has.balance_wei + has.reserved_wei + has.withdrawable_wei
