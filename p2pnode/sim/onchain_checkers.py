"""What watches a world's chain: S4, S7 and S12 as far as contracts have to do with them.

Nothing here believes a contract: what it should have done follows from the blocks that are final, from what was paid
in, and from who is correct.
"""

from chain.model.blocks import MadeBlock
from chain.model.checkpoints import Checkpoint
from chain.model.escrow import Paid, Refunded
from chain.model.registry import HASHES_KEPT, Frozen, Slashed
from p2pnode.sim.checkers import Violation
from p2pnode.sim.host import Host
from p2pnode.sim.onchain_chain import Onchain
from p2pnode.sim.onchain_purse import newest_usable
from p2pnode.sim.results_money import PaidAsSigned, ValueIsConserved
from p2pnode.sim.results_replay import Entered, Follower, OneLedger
from protocol.committee.election import Candidate, committee_root, draw_seed, elect
from protocol.core.ids import Digest, NodeId
from protocol.ledger.state import State
from protocol.messages.chain import Accepted, Deposited, Drawn
from protocol.messages.committee import header_digest


class ConservedOnchain(ValueIsConserved):
    """S7 of a ledger whose money comes from deposits: it has what its contract was given, and final."""

    def given(self, state: State) -> int:
        """What the deposits brought that the ledger has taken in, as the contract tells of them."""
        onchain, chain = self.world.onchain, state.chain
        assert onchain is not None and chain is not None
        made = [amount for _, amount in onchain.final_contracts.escrow.deposits]
        if chain.deposits > len(made):
            self.fail(f"deposit {chain.deposits} is in the ledger, {len(made)} are final")
        return sum(made[: chain.deposits])


class PaidOnchain(PaidAsSigned):
    """S8 where a miner's owner is paid, and accounts get deposits."""

    def payee(self, host: Host) -> NodeId:
        """Its owner."""
        assert self.world.onchain is not None
        return self.world.onchain.contracts.registry.bonds[host.node].owner

    def given(self) -> dict[NodeId, int]:
        """What was paid in for an account."""
        assert self.world.onchain is not None
        given: dict[NodeId, int] = {}
        for account, amount in self.world.onchain.contracts.escrow.deposits:
            given[account] = given.get(account, 0) + amount
        return given


class OnchainHolds(Follower):
    """S4: the contract's accepted headers are final ones, in order, by their own committees. S7: all coin is where it
    should be after every block, and nobody is paid what the ledger does not owe. S12: only the guilty are slashed."""

    invariant = "S4"

    def __init__(self, onchain: Onchain, ledger: OneLedger) -> None:
        self.accepted = 0
        """Checkpoints in final blocks."""
        self.slashed: set[str] = set()
        """Who, by name, in blocks that are final."""
        self._onchain = onchain
        self._ledger = ledger
        self._freezes: dict[int, tuple[int, dict[NodeId, int]]] = {}
        """Seed block and candidates of an epoch."""
        self._got: dict[NodeId, int] = {}
        """What accounts were paid, in final blocks."""
        self._claims: dict[Digest, Checkpoint] = {}
        """Accepted, and not on any correct node's disk yet."""
        onchain.hooks.append(self._block)
        onchain.final_hooks.append(self._final)

    # After every block

    def _block(self, block: MadeBlock) -> None:
        contracts, coins = self._onchain.contracts, self._onchain.chain.holdings().coins
        escrow, terms = contracts.escrow, self._onchain.terms
        if sum(coins.values()) != self._onchain.chain.minted:
            self._broken("S7", f"coin was made or lost in block {block.number}")
        if coins.get(terms.addresses.escrow, 0) != (escrow.deposited - escrow.paid_out) * terms.unit:
            self._broken("S7", f"the escrow does not have what it owes after block {block.number}")
        if not block.logs:
            return
        self._check_order()
        for log in block.logs:
            match log.what:
                case Accepted(digest=digest):
                    self._check_header(Digest(digest), contracts.checkpoints.accepted(digest))
                case Paid(account=account, amount=amount, total=total):
                    self._check_paid(account, amount, total)
                case Frozen(epoch=epoch, seed_block=seed_block):
                    self._freezes[epoch] = seed_block, dict(contracts.registry.frozen_weights)
                case Drawn(epoch=epoch, members=members):
                    self._check_drawn(block, epoch, tuple(map(NodeId, members)))
                case Refunded(number=number):
                    self._check_refund(number)
                case Slashed(node=node):
                    host = self.world.by_id.get(node)
                    if host is None or host.correct:
                        self._broken("S12", f"{host.name if host else node.hex()} is slashed", host)

    def _check_order(self) -> None:
        checkpoints = self._onchain.contracts.checkpoints
        before = (0, 0)
        for kept in sorted(checkpoints.kept.values(), key=lambda each: each.sequence):
            if (kept.epoch, kept.height) <= before or kept.epoch > before[0] + 1:
                self.fail(f"a header of {kept.epoch}/{kept.height} is accepted after one of {before[0]}/{before[1]}")
            before = (kept.epoch, kept.height)
        for epoch in range(1, before[0] + 2):
            committee = self._ledger.reading.committees.get(epoch)
            if committee is not None and committee_root(committee.members) != checkpoints.epochs[epoch].root:
                self.fail(f"the contract takes others for the committee of epoch {epoch}")

    def _check_header(self, digest: Digest, kept: Checkpoint) -> None:
        header = self._ledger.headers.get((kept.epoch, kept.height))
        if header is None:
            self._claims[digest] = kept
        elif header_digest(self._ledger.reading.domain, header) != digest:
            self.fail(f"another header of {kept.epoch}/{kept.height} is accepted than the final one")

    def _check_paid(self, account: NodeId, amount: int, total: int) -> None:
        """By what the ledger owed where its window is over, or all that it had where the escrow closed."""
        escrow = self._onchain.contracts.escrow
        owed = self._owed(account, exited=account in escrow.exited)
        if total > owed or self._got.get(account, 0) + amount > owed:
            self._broken("S7", f"{account.hex()[:8]} was paid {amount} once more, the ledger owes it {owed} in all")

    def _owed(self, account: NodeId, *, exited: bool) -> int:
        closing = self._onchain.contracts.escrow.closing
        if exited and closing is not None:
            header = closing.header
            if header is None:
                return 0
            has = self._ledger.states[header.epoch, header.height].account(account)
            return has.balance_wei + has.reserved_wei + has.withdrawable_wei
        # What may leave only grows, so the newest is the most.
        found = newest_usable(self._onchain, self._ledger)
        return 0 if found is None else self._ledger.states[found[0]].account(account).withdrawable_wei

    def _check_drawn(self, block: MadeBlock, epoch: int, members: tuple[NodeId, ...]) -> None:
        """As the protocol's own function draws, from all candidates of the freeze."""
        terms = self._onchain.terms
        # The same block may freeze the next epoch's after the draw.
        number, weights = self._freezes[epoch]
        late = (block.number - 1 - number) // HASHES_KEPT
        seed_block = self._onchain.chain.blocks[number + late * HASHES_KEPT]
        pool = [Candidate(node, weight) for node, weight in weights.items()]
        seed = draw_seed(terms.domain.network_id, epoch, seed_block.hash)
        if elect(seed, pool, terms.stake_cap, (), terms.size_max) != members:
            self.fail(f"the committee of epoch {epoch} is not the one that its seed draws")

    def _check_refund(self, number: int) -> None:
        closing = self._onchain.contracts.escrow.closing
        header = None if closing is None else closing.header
        if closing is None or (header is not None and number <= header.deposits):
            self._broken("S7", f"deposit {number} goes back, though the ledger had taken it in")

    # What is final

    def _final(self, block: MadeBlock) -> None:
        for log in block.logs:
            match log.what:
                case Accepted():
                    self.accepted += 1
                case Paid(account=account, amount=amount):
                    self._got[account] = self._got.get(account, 0) + amount
                case Slashed(node=node) if node in self.world.by_id:
                    self.slashed.add(self.world.by_id[node].name)

    def entered(self, entered: Entered) -> None:
        """A header that was accepted early is on a correct node's disk now; and the ledger knows the contract's."""
        header, chain = entered.header, entered.state.chain
        digest = header_digest(self._ledger.reading.domain, header)
        for name, kept in list(self._claims.items()):
            if (kept.epoch, kept.height) == (header.epoch, header.height):
                del self._claims[name]
                if name != digest:
                    self.fail(f"another header of {kept.epoch}/{kept.height} is accepted than the final one")
        contract = self._onchain.final_contracts
        if chain is not None and chain.accepted is not None:
            said = chain.accepted
            kept = contract.checkpoints.accepted(said.digest)
            if (kept.epoch, kept.height) != (said.epoch, said.height):
                self.fail(f"the ledger says that {said.epoch}/{said.height} was accepted, and no final block did")

    def ended(self) -> None:
        """Deposits number all money that came in; nothing was accepted that nobody has."""
        for kept in self._claims.values():
            self.fail(f"{kept.epoch}/{kept.height} was accepted, and no correct node has it")
        logs = (log.what for block in self._onchain.chain.blocks for log in block.logs)
        numbers = [what.number for what in logs if isinstance(what, Deposited)]
        if numbers != list(range(1, len(numbers) + 1)):
            self._broken("S7", "deposits are not numbered one after the other")

    def _broken(self, invariant: str, what: str, host: Host | None = None) -> None:
        raise Violation(invariant, what, self.world.now_us // 1_000, host.name if host else "")
