"""The registry of the model: node keys, the stake bound to them, and the committees drawn from them.

A bond is an owner's stake under a key that may be replaced; it is named by its first key for ever. A key is registered
once. Candidates have a weight; what it was at the last freeze is what a draw goes by. Amounts are in the ledger's
units.
"""

from dataclasses import dataclass, field, replace

from chain.model.calls import Call, Revert, require
from chain.model.terms import Terms
from protocol.committee.election import Candidate, committee_root, draw_seed, elect
from protocol.core.errors import SignatureError
from protocol.core.ids import NOBODY, ZERO_DIGEST, Digest, NodeId, Signature
from protocol.core.params import COMMITTEE_SIZES
from protocol.core.signing import recover, typed_digest
from protocol.messages.chain import Consent, Drawn, NodeChanged

ORACLE = 4
ROLES_MAX = 7
CANDIDATES_MAX = 128
SEED_BLOCKS = 8
HASHES_KEPT = 256
BP = 10_000
UNITS_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Frozen:
    """An epoch's candidates are fixed; the hash of a block to come draws from them."""

    epoch: int
    seed_block: int


@dataclass(frozen=True, slots=True)
class Slashed:
    """Evidence has cost a node part of its stake."""

    node: NodeId
    evidence: Digest
    reporter: NodeId
    amount: int


@dataclass(slots=True)
class Bond:
    """An owner's stake under a key."""

    node: NodeId
    """Its present key."""
    owner: NodeId
    roles: int
    stake: int
    jailed: bool = False
    unbonding_from_s: int = 0
    free_after: int = 0
    """The epoch whose candidates were fixed last when it began to leave."""


@dataclass(slots=True)
class Key:
    """Which bond a key is of. ``until_s``: replaced, and slashable up to then."""

    bond: NodeId
    until_s: int = 0


@dataclass(slots=True)
class ModelRegistry:
    """See the module."""

    terms: Terms
    bonds: dict[NodeId, Bond] = field(default_factory=dict)
    keys: dict[NodeId, Key] = field(default_factory=dict)
    used: set[Digest] = field(default_factory=set)
    """Evidence that has cost somebody something."""
    rewards: dict[NodeId, int] = field(default_factory=dict)
    weights: dict[NodeId, int] = field(default_factory=dict)
    """Of the candidates, from the next freeze on."""
    frozen_weights: dict[NodeId, int] = field(default_factory=dict)
    """As of the last freeze."""
    frozen: Frozen = Frozen(0, 0)
    drawn: dict[int, tuple[NodeId, ...]] = field(default_factory=dict)
    served: dict[int, int] = field(default_factory=dict)
    """The epoch for which an epoch's committee was drawn."""
    drawn_for: dict[NodeId, int] = field(default_factory=dict)
    """The latest epoch that a bond was drawn for."""
    dead: bool = False
    """The exit is open: nothing depends on committees any more. The checkpoints say so."""

    def __post_init__(self) -> None:
        if not self.drawn:
            require(len(self.terms.committee) in COMMITTEE_SIZES, "size")
            self.drawn[1], self.served[1] = self.terms.committee, 1
            self.drawn_for.update(dict.fromkeys(self.terms.committee, 1))

    def copy(self) -> "ModelRegistry":
        """One that changes by itself."""
        return replace(
            self,
            bonds={name: replace(bond) for name, bond in self.bonds.items()},
            keys={name: replace(key) for name, key in self.keys.items()},
            used=set(self.used),
            rewards=dict(self.rewards),
            weights=dict(self.weights),
            drawn=dict(self.drawn),
            served=dict(self.served),
            drawn_for=dict(self.drawn_for),
        )

    # Nodes and their owners

    def register(self, call: Call, node: NodeId, roles: int, stake: int, consent: Signature) -> None:
        """Bind stake to a node key, which agrees; the sender is its owner."""
        require(0 < roles <= ROLES_MAX, "roles")
        require(self.terms.stake_min <= stake <= UNITS_MAX, "stake")
        self._enter(node, node, call.sender, consent)
        self._take(call, stake)
        self.bonds[node] = Bond(node, call.sender, roles, stake)
        if roles & ORACLE and len(self.weights) < CANDIDATES_MAX:
            self.weights[node] = min(stake, self.terms.stake_cap)
        self._tell(call, node)

    def add_stake(self, call: Call, node: NodeId, stake: int) -> None:
        """More stake for a node."""
        bond = self.bonds[self._active(node)]
        self._take(call, stake)
        require(bond.stake + stake <= UNITS_MAX, "stake")
        bond.stake += stake
        if node in self.weights:
            self.weights[node] = min(bond.stake, self.terms.stake_cap)
        self._tell(call, self.keys[node].bond)

    def stand(self, call: Call, node: NodeId, instead_of: NodeId) -> None:
        """Make an oracle a candidate, where a place is free or in the place of one with less stake."""
        bond = self.bonds[self._active(node)]
        require(bond.roles & ORACLE and node not in self.weights, "candidate")
        if instead_of == NOBODY:
            require(len(self.weights) < CANDIDATES_MAX, "full")
        else:
            require(len(self.weights) == CANDIDATES_MAX, "not full")
            require(instead_of in self.weights, "no candidate")
            require(self.bonds[self.keys[instead_of].bond].stake < bond.stake, "stake")
            del self.weights[instead_of]
        self.weights[node] = min(bond.stake, self.terms.stake_cap)

    def rotate(self, call: Call, old: NodeId, new: NodeId, consent: Signature) -> None:
        """Give a bond another key, which stands for it from the next freeze on."""
        name = self._active(old)
        bond = self.bonds[name]
        require(call.sender == bond.owner, "owner")
        self._enter(new, name, call.sender, consent)
        self.keys[old].until_s = call.time_s + self.terms.unbonding_s
        bond.node = new
        self.drawn_for[name] = max(self.drawn_for.get(name, 0), self.drawn_for.get(new, 0))
        if old in self.weights:
            self.weights[new] = self.weights.pop(old)
        call.emit("registry", NodeChanged(old, call.sender, 0, 0, False))
        self._tell(call, name)

    def set_owner(self, call: Call, node: NodeId, owner: NodeId) -> None:
        """Hand a node over to another owner."""
        key = self.keys.get(node)
        require(key is not None and call.sender == self.bonds[key.bond].owner, "owner")
        require(owner != NOBODY, "owner")
        assert key is not None
        self.bonds[key.bond].owner = owner
        self._tell(call, key.bond)

    def begin_unbonding(self, call: Call, node: NodeId) -> None:
        """Leave: the node takes part in nothing new, and its stake is free after a time."""
        name = self._present(node)
        bond = self.bonds[name]
        require(call.sender == bond.owner, "owner")
        require(not bond.unbonding_from_s, "unbonding")
        bond.unbonding_from_s, bond.free_after = call.time_s, self.frozen.epoch
        self.weights.pop(node, None)
        self._tell(call, name)

    def finish_unbonding(self, call: Call, node: NodeId) -> None:
        """Pay the stake back to the owner."""
        name = self._present(node)
        bond = self.bonds[name]
        require(bond.unbonding_from_s, "not unbonding")
        require(call.time_s >= bond.unbonding_from_s + self.terms.unbonding_s, "too soon")
        require(not self._is_needed(name), "committee")
        require(bond.stake > 0, "nothing")
        stake, bond.stake = bond.stake, 0
        self._tell(call, name)
        self._pay(call, bond.owner, stake)

    # Slashing

    def slash(self, call: Call, node: NodeId, evidence: Digest, reporter: NodeId) -> None:
        """Take a share of a convicted node's stake, and jail it for ever. Once for each evidence."""
        require(call.sender == self.terms.addresses.evidence, "evidence")
        require(self.is_liable(call, node), "unknown")
        require(evidence not in self.used, "slashed")
        self.used.add(evidence)
        name = self.keys[node].bond
        bond = self.bonds[name]
        amount = bond.stake * self.terms.slash_bp // BP
        bond.stake -= amount
        bond.jailed = True
        self.rewards[reporter] = self.rewards.get(reporter, 0) + amount * self.terms.reward_bp // BP
        self.weights.pop(bond.node, None)
        call.emit("registry", Slashed(node, evidence, reporter, amount))
        self._tell(call, name)

    def claim(self, call: Call, reporter: NodeId) -> None:
        """Pay a reporter its rewards."""
        reward = self.rewards.get(reporter, 0)
        require(reward > 0, "nothing")
        self.rewards[reporter] = 0
        self._pay(call, reporter, reward)

    def is_liable(self, call: Call, node: NodeId) -> bool:
        """Whether there is stake that a key can be slashed for."""
        key = self.keys.get(node)
        if key is None or (key.until_s and call.time_s >= key.until_s):
            return False
        return self.bonds[key.bond].stake > 0

    # Committees

    def drawn_root(self, epoch: int) -> Digest:
        """The root of the committee that was drawn for an epoch; zero if none was."""
        return committee_root(self.drawn[epoch]) if epoch in self.drawn else ZERO_DIGEST

    def freeze(self, call: Call, epoch: int, renewed: bool) -> None:
        """The first header of epoch - 2 is accepted: the candidates of this epoch are those as of now."""
        require(call.sender == self.terms.addresses.checkpoints, "checkpoints")
        self.served[epoch - 1] = epoch - 1 if renewed else self.served[epoch - 2]
        self.frozen = Frozen(epoch, call.number + SEED_BLOCKS)
        self.frozen_weights = dict(self.weights)
        call.emit("registry", self.frozen)

    def draw(self, call: Call, epoch: int, candidates: tuple[NodeId, ...]) -> None:
        """Draw the committee of the frozen epoch, from all its candidates by rising address."""
        require(epoch == self.frozen.epoch and epoch, "epoch")
        require(epoch not in self.drawn, "drawn")
        require(call.number > self.frozen.seed_block, "too soon")
        require(len(candidates) == len(self.frozen_weights), "count")
        before = NOBODY
        for candidate in candidates:
            require(candidate > before, "order")
            require(self.frozen_weights.get(candidate, 0) > 0, "no candidate")
            before = candidate
        late = (call.number - 1 - self.frozen.seed_block) // HASHES_KEPT
        seed_hash = call.hash_of(self.frozen.seed_block + late * HASHES_KEPT)
        pool = [Candidate(node, weight) for node, weight in self.frozen_weights.items()]
        seed = draw_seed(self.terms.domain.network_id, epoch, seed_hash)
        members = elect(seed, pool, self.terms.stake_cap, (), self.terms.size_max)
        require(members, "too few")
        self.drawn_for.update({self.keys[member].bond: epoch for member in members})
        self.drawn[epoch] = members
        call.emit("registry", Drawn(epoch, members))

    # How

    def _enter(self, node: NodeId, bond: NodeId, owner: NodeId, consent: Signature) -> None:
        require(node not in self.keys, "known")
        try:
            signer = recover(typed_digest(self.terms.domain, Consent(node, owner)), consent)
        except SignatureError as error:
            raise Revert("signature") from error
        require(signer == node, "consent")
        self.keys[node] = Key(bond)

    def _take(self, call: Call, units: int) -> None:
        require(0 < units <= UNITS_MAX, "amount")
        require(call.value == units * self.terms.unit, "value")

    def _pay(self, call: Call, to: NodeId, units: int) -> None:
        call.pay(self.terms.addresses.registry, to, units * self.terms.unit)

    def _present(self, node: NodeId) -> NodeId:
        """The bond whose present key this is."""
        key = self.keys.get(node)
        require(key is not None and not key.until_s, "unknown")
        assert key is not None
        return key.bond

    def _active(self, node: NodeId) -> NodeId:
        """The same, neither jailed nor unbonding."""
        name = self._present(node)
        require(not self.bonds[name].jailed, "jailed")
        require(not self.bonds[name].unbonding_from_s, "unbonding")
        return name

    def _is_needed(self, bond: NodeId) -> bool:
        """Whether a bond may still be drawn, or is in a committee of the last accepted epoch - 2 or a later one."""
        if self.dead:
            return False
        epoch = self.frozen.epoch
        if self.bonds[bond].free_after and self.bonds[bond].free_after == epoch:
            return True
        return self.drawn_for.get(bond, 0) >= self.served[max(epoch, 5) - 4]

    def _tell(self, call: Call, name: NodeId) -> None:
        """Say what a bond is now. One that is leaving has no roles any more."""
        bond = self.bonds[name]
        roles = 0 if bond.unbonding_from_s else bond.roles
        call.emit("registry", NodeChanged(bond.node, bond.owner, roles, bond.stake, bond.jailed))
