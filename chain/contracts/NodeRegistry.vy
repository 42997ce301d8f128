# pragma version 0.4.3
"""
@title NodeRegistry
@license Apache-2.0
@notice Who takes part: node keys, the stake that an owner has bound to them, and the committees drawn from them.
@dev A bond is an owner's stake under a key that may be rotated; it is named by its first key for ever. A key is
     registered once: one that was given up, replaced or jailed never comes back. Amounts are in the ledger's units.
"""

import certificates
import election
import money
import signing

initializes: signing
initializes: money
initializes: certificates[signing := signing]


interface Checkpoints:
    def dead_at() -> uint256: view


event NodeChanged:
    node: indexed(address)
    owner: indexed(address)
    roles: uint256
    stake: uint256
    jailed: bool


event Drawn:
    epoch: indexed(uint256)
    members: DynArray[address, 31]


event Frozen:
    epoch: indexed(uint256)
    seed_block: uint256


event Slashed:
    node: indexed(address)
    evidence: bytes32
    reporter: address
    amount: uint256


struct Bond:
    node: address  # its present key
    owner: address
    roles: uint256
    stake: uint256
    jailed: bool
    unbonding_from: uint256  # a time; 0 if its owner did not ask
    free_after: uint256  # with unbonding_from: it may still be drawn for this epoch


struct Key:
    bond: address
    until: uint256  # replaced: slashable up to then; 0 for a present key


struct Node:
    owner: address
    roles: uint256
    stake: uint256
    jailed: bool
    unbonding_from: uint256


struct Freeze:
    epoch: uint256  # whose candidates they are; 0 before the first
    seed_block: uint256
    count: uint256  # of candidates


ORACLE: constant(uint256) = 4
ROLES_MAX: constant(uint256) = 7
CANDIDATES_MAX: constant(uint256) = 128
PAGE_MAX: constant(uint256) = 1024
SEED_BLOCKS: constant(uint256) = 8
HASHES_KEPT: constant(uint256) = 256
BP: constant(uint256) = 10_000
WORD: constant(uint256) = 2**64 - 1
CONSENT_TYPE: constant(bytes32) = keccak256("Consent(address node,address owner)")

EVIDENCE: public(immutable(address))
CHECKPOINTS: public(immutable(address))
SIZE_MAX: public(immutable(uint256))
STAKE_MIN: public(immutable(uint256))
STAKE_CAP: public(immutable(uint256))
UNBONDING_S: public(immutable(uint256))
SLASH_BP: public(immutable(uint256))
REWARD_BP: public(immutable(uint256))

bonds: public(HashMap[address, Bond])
keys: public(HashMap[address, Key])
slashed: public(HashMap[bytes32, bool])
rewards: public(HashMap[address, uint256])

candidate_count: public(uint256)
oracle_count: public(uint256)
oracles: public(HashMap[uint256, address])  # every key that ever was a candidate, numbered from 0

frozen: public(Freeze)
drawn_root: public(HashMap[uint256, bytes32])
served: public(HashMap[uint256, uint256])  # an epoch's committee: the epoch that it was drawn for
drawn: public(HashMap[address, uint256])  # a bond: the latest epoch that it was drawn for

# A key's weight now, the one before, the epoch frozen last when it changed, and whether it is among the oracles:
# 64 bits each.
_weights: HashMap[address, uint256]


@deploy
def __init__(
    network_id: bytes32,
    chain_id: uint256,
    evidence: address,
    checkpoints: address,
    token: address,
    unit: uint256,
    committee: DynArray[address, 31],
    size_max: uint256,
    stake_min: uint256,
    stake_cap: uint256,
    unbonding_s: uint256,
    slash_bp: uint256,
    reward_bp: uint256,
):
    """
    @param evidence The only one that slashes. Not deployed yet, like `checkpoints`.
    @param checkpoints The only one that freezes candidates.
    @param committee Of the first epoch, as the genesis names it.
    @param size_max The largest committee that is drawn.
    @param stake_min The least stake of a node.
    @param stake_cap Stake beyond this adds no weight to a candidate.
    @param slash_bp What of its stake a node loses; of that, `reward_bp` goes to the reporter.
    """
    signing.__init__(network_id, chain_id)
    money.__init__(token, unit)
    assert certificates._is_size(len(committee)) and certificates._is_size(size_max), "size"
    assert stake_min > 0 and stake_min <= stake_cap and stake_cap <= money.UNITS_MAX, "stake"
    assert unbonding_s > 0 and slash_bp > 0 and slash_bp <= BP and reward_bp <= BP, "settings"
    EVIDENCE = evidence
    CHECKPOINTS = checkpoints
    SIZE_MAX = size_max
    STAKE_MIN = stake_min
    STAKE_CAP = stake_cap
    UNBONDING_S = unbonding_s
    SLASH_BP = slash_bp
    REWARD_BP = reward_bp
    for member: address in committee:
        assert member != empty(address) and self.drawn[member] == 0, "twice"
        self.drawn[member] = 1
    self.drawn_root[1] = certificates._root(committee)
    self.served[1] = 1


# Nodes and their owners


@external
@payable
@nonreentrant
def register(node: address, roles: uint256, stake: uint256, consent: bytes32[2]):
    """
    @notice Bind stake to a node key. The sender is its owner: the key can neither unbond nor be paid.
    @param roles Bits: 1 router, 2 miner, 4 oracle.
    @param consent The node key's signature of Consent(node, owner).
    @dev Spec: [REGISTRY-KEY.1], [REGISTRY-CONSENT.1]
    """
    assert roles > 0 and roles <= ROLES_MAX, "roles"
    assert stake >= STAKE_MIN and stake <= money.UNITS_MAX, "stake"
    self._enter(node, node, msg.sender, consent)
    money._take(stake)
    self.bonds[node] = Bond(
        node=node, owner=msg.sender, roles=roles, stake=stake, jailed=False, unbonding_from=0, free_after=0
    )
    if roles & ORACLE != 0 and self.candidate_count < CANDIDATES_MAX:
        self.candidate_count += 1
        self._weigh(node, min(stake, STAKE_CAP))
    self._tell(node)


@external
@payable
@nonreentrant
def add_stake(node: address, stake: uint256):
    """
    @notice More stake for a node. Anybody may give it; it is the owner's.
    """
    bond: address = self._active(node)
    money._take(stake)
    total: uint256 = self.bonds[bond].stake + stake
    assert total <= money.UNITS_MAX, "stake"
    self.bonds[bond].stake = total
    if self._weight(node) > 0:
        self._weigh(node, min(total, STAKE_CAP))
    self._tell(bond)


@external
def stand(node: address, instead_of: address):
    """
    @notice Make an oracle a candidate: for it there was no place when it was registered.
    @param instead_of A candidate with less stake, which gives its place up; zero where a place is free.
    """
    bond: Bond = self.bonds[self._active(node)]
    assert bond.roles & ORACLE != 0 and self._weight(node) == 0, "candidate"
    if instead_of == empty(address):
        assert self.candidate_count < CANDIDATES_MAX, "full"
        self.candidate_count += 1
    else:
        assert self.candidate_count == CANDIDATES_MAX, "not full"
        assert self._weight(instead_of) > 0, "no candidate"
        assert self.bonds[self.keys[instead_of].bond].stake < bond.stake, "stake"
        self._weigh(instead_of, 0)
    self._weigh(node, min(bond.stake, STAKE_CAP))


@external
def rotate(old: address, new: address, consent: bytes32[2]):
    """
    @notice Give a bond another key, which stands for it from the next freeze on. For the old key the stake goes on to
        be liable for as long as unbonding takes.
    @param consent The new key's signature of Consent(node, owner).
    @dev Spec: [REGISTRY-ROTATE.1]
    """
    bond: address = self._active(old)
    assert msg.sender == self.bonds[bond].owner, "owner"
    self._enter(new, bond, msg.sender, consent)
    self.keys[old].until = block.timestamp + UNBONDING_S
    self.bonds[bond].node = new
    self.drawn[bond] = max(self.drawn[bond], self.drawn[new])
    weight: uint256 = self._weight(old)
    if weight > 0:
        self._weigh(old, 0)
        self._weigh(new, weight)
    log NodeChanged(node=old, owner=msg.sender, roles=0, stake=0, jailed=False)
    self._tell(bond)


@external
def set_owner(node: address, owner: address):
    """
    @notice Hand a node over to another owner, jailed and unbonding ones as well.
    """
    bond: address = self.keys[node].bond
    assert bond != empty(address) and msg.sender == self.bonds[bond].owner, "owner"
    assert owner != empty(address), "owner"
    self.bonds[bond].owner = owner
    self._tell(bond)


@external
def begin_unbonding(node: address):
    """
    @notice Leave: the node takes part in nothing new, and its stake is free after a time.
    """
    bond: address = self._present(node)
    assert msg.sender == self.bonds[bond].owner, "owner"
    assert self.bonds[bond].unbonding_from == 0, "unbonding"
    self.bonds[bond].unbonding_from = block.timestamp
    self.bonds[bond].free_after = self.frozen.epoch
    self._dismiss(node)
    self._tell(bond)


@external
@nonreentrant
def finish_unbonding(node: address):
    """
    @notice Pay the stake back to the owner. Anybody may call.
    @dev Spec: [REGISTRY-UNBOND.1]
    """
    bond: address = self._present(node)
    leaving: Bond = self.bonds[bond]
    assert leaving.unbonding_from != 0, "not unbonding"
    assert block.timestamp >= leaving.unbonding_from + UNBONDING_S, "too soon"
    assert not self._is_needed(bond), "committee"
    assert leaving.stake > 0, "nothing"
    self.bonds[bond].stake = 0
    self._tell(bond)
    money._pay(leaving.owner, leaving.stake)


@internal
@view
def _is_needed(bond: address) -> bool:
    """
    @notice Whether a bond may still be drawn, or is in a committee of the last accepted epoch - 2 or a later one.
    @dev Nothing depends on committees any more once the exit is open.
    """
    if staticcall Checkpoints(CHECKPOINTS).dead_at() != 0:
        return False
    epoch: uint256 = self.frozen.epoch
    if self.bonds[bond].free_after != 0 and self.bonds[bond].free_after == epoch:
        return True
    # The last accepted epoch is epoch - 2, and committees are in force in the order in which they were drawn.
    return self.drawn[bond] >= self.served[max(epoch, 5) - 4]


@internal
def _enter(node: address, bond: address, owner: address, consent: bytes32[2]):
    """
    @notice A key that is new here, and that its holder wants to be the owner's.
    """
    assert self.keys[node].bond == empty(address), "known"
    digest: bytes32 = signing._digest(keccak256(abi_encode(CONSENT_TYPE, node, owner)))
    assert signing._recover(digest, consent) == node, "consent"
    self.keys[node].bond = bond


@internal
@view
def _present(node: address) -> address:
    """
    @notice The bond whose present key this is.
    """
    key: Key = self.keys[node]
    assert key.bond != empty(address) and key.until == 0, "unknown"
    return key.bond


@internal
@view
def _active(node: address) -> address:
    """
    @notice The same, neither jailed nor unbonding.
    """
    bond: address = self._present(node)
    assert not self.bonds[bond].jailed, "jailed"
    assert self.bonds[bond].unbonding_from == 0, "unbonding"
    return bond


@internal
def _tell(bond: address):
    """
    @notice Say what a bond is now. One that is leaving has no roles any more.
    """
    told: Bond = self.bonds[bond]
    roles: uint256 = told.roles if told.unbonding_from == 0 else 0
    log NodeChanged(node=told.node, owner=told.owner, roles=roles, stake=told.stake, jailed=told.jailed)


# Slashing


@external
def slash(node: address, evidence: bytes32, reporter: address):
    """
    @notice Take a share of a convicted node's stake, and jail it for ever. Once for each evidence.
    @dev Spec: [REGISTRY-SLASH.1]
    """
    assert msg.sender == EVIDENCE, "evidence"
    assert self._is_liable(node), "unknown"
    assert not self.slashed[evidence], "slashed"
    self.slashed[evidence] = True
    bond: address = self.keys[node].bond
    amount: uint256 = self.bonds[bond].stake * SLASH_BP // BP
    self.bonds[bond].stake -= amount
    self.bonds[bond].jailed = True
    # Paid only when it is asked for: who gets it cannot stand in the way of the slash. The rest stays here for ever.
    self.rewards[reporter] += amount * REWARD_BP // BP
    self._dismiss(self.bonds[bond].node)
    log Slashed(node=node, evidence=evidence, reporter=reporter, amount=amount)
    self._tell(bond)


@external
@nonreentrant
def claim(reporter: address):
    """
    @notice Pay a reporter its rewards. Anybody may call.
    """
    reward: uint256 = self.rewards[reporter]
    assert reward > 0, "nothing"
    self.rewards[reporter] = 0
    money._pay(reporter, reward)


@internal
@view
def _is_liable(node: address) -> bool:
    key: Key = self.keys[node]
    if key.bond == empty(address) or (key.until != 0 and block.timestamp >= key.until):
        return False
    return self.bonds[key.bond].stake > 0


# Committees


@external
def freeze(epoch: uint256, renewed: bool):
    """
    @notice The first header of epoch - 2 is accepted: the candidates of this epoch are those as of now.
    @param renewed Whether that header names the committee drawn for epoch - 1, or its own again.
    @dev Spec: [REGISTRY-CANDIDATES.1]
    """
    assert msg.sender == CHECKPOINTS, "checkpoints"
    self.served[epoch - 1] = epoch - 1 if renewed else self.served[epoch - 2]
    seed_block: uint256 = block.number + SEED_BLOCKS
    self.frozen = Freeze(epoch=epoch, seed_block=seed_block, count=self.candidate_count)
    log Frozen(epoch=epoch, seed_block=seed_block)


@external
def draw(epoch: uint256, candidates: DynArray[address, CANDIDATES_MAX]):
    """
    @notice Draw the committee of the frozen epoch. Anybody may call, once the seed block is past.
    @param candidates All of them, by rising address.
    """
    now: Freeze = self.frozen
    assert epoch == now.epoch and epoch != 0, "epoch"
    assert self.drawn_root[epoch] == empty(bytes32), "drawn"
    assert block.number > now.seed_block, "too soon"
    assert len(candidates) == now.count, "count"
    weights: DynArray[uint256, CANDIDATES_MAX] = []
    before: address = empty(address)
    for candidate: address in candidates:
        assert convert(candidate, uint160) > convert(before, uint160), "order"
        weight: uint256 = self._frozen_weight(candidate)
        assert weight > 0, "no candidate"
        weights.append(weight)
        before = candidate
    seed: bytes32 = election._seed(signing.NETWORK_ID, epoch, self._seed_hash(now.seed_block))
    places: DynArray[uint256, 31] = election._elect(seed, weights, SIZE_MAX)
    members: DynArray[address, 31] = []
    for place: uint256 in places:
        member: address = candidates[place]
        self.drawn[self.keys[member].bond] = epoch
        members.append(member)
    assert len(members) > 0, "too few"
    self.drawn_root[epoch] = certificates._root(members)
    log Drawn(epoch=epoch, members=members)


@internal
@view
def _seed_hash(seed_block: uint256) -> bytes32:
    """
    @notice The hash of the seed block; where the EVM has forgotten it, of the newest block 256·k after it.
    """
    late: uint256 = (block.number - 1 - seed_block) // HASHES_KEPT
    return blockhash(seed_block + late * HASHES_KEPT)


@internal
def _weigh(node: address, weight: uint256):
    """
    @notice Give a key a weight from the next freeze on.
    """
    packed: uint256 = self._weights[node]
    before: uint256 = self._frozen_weight(node)
    self._weights[node] = weight | (before << 64) | (self.frozen.epoch << 128) | (1 << 192)
    if packed == 0:
        self.oracles[self.oracle_count] = node
        self.oracle_count += 1


@internal
def _dismiss(node: address):
    """
    @notice Take a key from the candidates, if it is one.
    """
    if self._weight(node) > 0:
        self.candidate_count -= 1
        self._weigh(node, 0)


@internal
@view
def _weight(node: address) -> uint256:
    """
    @notice A key's weight; 0 if it is no candidate.
    """
    return self._weights[node] & WORD


@internal
@view
def _frozen_weight(node: address) -> uint256:
    """
    @notice A key's weight as of the last freeze.
    """
    packed: uint256 = self._weights[node]
    if (packed >> 128) & WORD == self.frozen.epoch:
        return (packed >> 64) & WORD
    return packed & WORD


# What stands


@external
@view
def node(key: address) -> Node:
    """
    @notice A present key's record. Zeros for any other key; its bond is in `keys`.
    """
    if self.keys[key].until != 0:
        return empty(Node)
    bond: Bond = self.bonds[self.keys[key].bond]
    return Node(
        owner=bond.owner,
        roles=bond.roles,
        stake=bond.stake,
        jailed=bond.jailed,
        unbonding_from=bond.unbonding_from,
    )


@external
@view
def liable(node: address) -> bool:
    """
    @notice Whether there is stake that this key can be slashed for.
    """
    return self._is_liable(node)


@external
@view
def weight(node: address) -> uint256:
    """
    @notice A key's weight in the next freeze; 0 if it is no candidate.
    """
    return self._weight(node)


@external
@view
def frozen_candidates(first: uint256, last: uint256) -> DynArray[address, CANDIDATES_MAX]:
    """
    @notice The frozen candidates among the oracles from number `first` up to before `last`, at most 1,024 of them.
    """
    assert first <= last and last <= first + PAGE_MAX, "page"
    found: DynArray[address, CANDIDATES_MAX] = []
    for number: uint256 in range(first, last, bound=PAGE_MAX):
        node: address = self.oracles[number]
        if self._frozen_weight(node) > 0:
            found.append(node)
    return found
