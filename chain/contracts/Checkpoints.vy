# pragma version 0.4.3
"""
@title Checkpoints
@license Apache-2.0
@notice The finalized headers of a network: who may name the next one, since when each stands, what it holds.
@dev A header is believed because 2f+1 members of its epoch's committee finalized it, and is usable once nobody has
     shown in time that a committee contradicted itself. The first header of an epoch hands over to the next committee.
"""

import certificates
import headers
import signing
import trees

initializes: signing
initializes: certificates[signing := signing]


interface Registry:
    def drawn_root(epoch: uint256) -> bytes32: view
    def freeze(epoch: uint256, renewed: bool): nonpayable


event Accepted:
    epoch: indexed(uint256)
    height: indexed(uint256)
    digest: indexed(bytes32)


event Halted:
    at: uint256
    dead: bool


event Paused:
    until: uint256


struct Certified:
    header: headers.Header
    members: DynArray[address, 31]
    signers: uint256
    signatures: DynArray[bytes32[2], 21]


struct Checkpoint:
    time: uint256
    epoch: uint256
    height: uint256
    sequence: uint256


struct Epoch:
    root: bytes32
    opened: uint256
    terms: uint256


REGISTRY: public(immutable(address))
GUARDIAN: public(immutable(address))
TERMS_MAX: public(immutable(uint256))
WINDOW_S: public(immutable(uint256))
DEAD_S: public(immutable(uint256))
PAUSE_MAX_S: public(immutable(uint256))

WORD: constant(uint256) = 2**64 - 1

latest: public(bytes32)
epochs: public(HashMap[uint256, Epoch])
paused_until: public(uint256)

_accepted: HashMap[bytes32, uint256]  # time, epoch, height, sequence: 64 bits each
_halted: uint256  # frozen at, dead at: 64 bits each; no header is taken once it is not zero
_pause_free_at: uint256
_deployed: uint256


@deploy
def __init__(
    network_id: bytes32,
    chain_id: uint256,
    registry: address,
    guardian: address,
    terms_max: uint256,
    window_s: uint256,
    dead_s: uint256,
    pause_max_s: uint256,
):
    """
    @param registry Is deployed already, and names the committee of the first epoch.
    @param guardian May pause withdrawals; zero for nobody.
    @param terms_max For how many epochs in a row a committee may stay when no other was drawn in time.
    @param window_s A header is usable so long after it was accepted.
    @param dead_s Without a header for so long, the exit opens.
    """
    signing.__init__(network_id, chain_id)
    assert terms_max > 0 and window_s > 0 and window_s < dead_s and dead_s <= 2**32, "settings"
    REGISTRY = registry
    GUARDIAN = guardian
    TERMS_MAX = terms_max
    WINDOW_S = window_s
    DEAD_S = dead_s
    PAUSE_MAX_S = pause_max_s
    root: bytes32 = staticcall Registry(registry).drawn_root(1)
    assert root != empty(bytes32), "committee"
    self.epochs[1].root = root
    self._deployed = block.timestamp


# Taking headers


@external
def submit(
    header: headers.Header,
    members: DynArray[address, 31],
    signers: uint256,
    signatures: DynArray[bytes32[2], 21],
):
    """
    @notice Accept a finalized header. Anybody may bring it.
    @param members The committee of the header's epoch.
    @param signers A bit for each of the 2f+1 members that signed; their signatures in the same order.
    @dev Spec: [CHECKPOINT-ACCEPT.1]
    """
    assert self._halted == 0, "halted"
    last: uint256 = self._accepted[self.latest]
    epoch: uint256 = convert(header.epoch, uint256)
    height: uint256 = convert(header.height, uint256)
    name: bytes32 = signing._digest(headers._hash(header))
    certificates._check(self.epochs[epoch].root, header, name, members, signers, signatures)
    if epoch == (last >> 64) & WORD:
        assert height > (last >> 128) & WORD, "old"
        assert header.next_committee == self.epochs[epoch + 1].root, "next committee"
    else:
        assert epoch == ((last >> 64) & WORD) + 1, "epoch"
        self._hand_over(epoch, header.next_committee)
    self._accepted[name] = block.timestamp | (epoch << 64) | (height << 128) | ((last >> 192) + 1 << 192)
    self.latest = name
    log Accepted(epoch=epoch, height=height, digest=name)


@internal
def _hand_over(epoch: uint256, next: bytes32):
    """
    @notice The first header of an epoch: it names the next committee, the drawn one or the same again, and the
        candidates for the one after that are those as of now.
    @dev Spec: [CHECKPOINT-HANDOVER.1]
    """
    present: Epoch = self.epochs[epoch]
    drawn: bytes32 = staticcall Registry(REGISTRY).drawn_root(epoch + 1)
    renewed: bool = drawn != empty(bytes32) and next == drawn
    terms: uint256 = 0
    if not renewed:
        terms = present.terms + 1
        assert next == present.root, "next committee"
        assert terms <= TERMS_MAX, "terms"
    self.epochs[epoch].opened = block.timestamp
    self.epochs[epoch + 1] = Epoch(root=next, opened=0, terms=terms)
    extcall Registry(REGISTRY).freeze(epoch + 2, renewed)


# Stopping


@external
def challenge(first: Certified, second: Certified):
    """
    @notice Freeze: two headers, each finalized by its epoch's committee, that cannot both be. What is not usable by
        now never will be.
    @param first The one of the lower epoch and height; of one slot, either.
    @dev Spec: [CHECKPOINT-FREEZE.1]
    """
    assert self._halted & WORD == 0, "frozen"
    one: bytes32 = self._judged(first)
    other: bytes32 = self._judged(second)
    assert one != other, "same"
    assert self._contradict(first.header, one, second.header), "no contradiction"
    self._halted |= block.timestamp
    log Halted(at=block.timestamp, dead=False)


@internal
@view
def _judged(certified: Certified) -> bytes32:
    """
    @notice The name of a header that 2f+1 of a committee in force within the window have finalized.
    @dev A committee that is replaced, and whose headers are all usable, can stop nothing any more.
    """
    epoch: uint256 = convert(certified.header.epoch, uint256)
    replaced: uint256 = self.epochs[epoch + 1].opened
    assert replaced == 0 or block.timestamp < replaced + WINDOW_S, "past"
    name: bytes32 = signing._digest(headers._hash(certified.header))
    certificates._check(
        self.epochs[epoch].root,
        certified.header,
        name,
        certified.members,
        certified.signers,
        certified.signatures,
    )
    return name


@internal
@pure
def _contradict(low: headers.Header, name: bytes32, high: headers.Header) -> bool:
    """
    @notice Whether no chain of blocks has both, the first one not after the second.
    """
    if low.epoch == high.epoch:
        if low.height == high.height:
            return True
        assert low.height < high.height, "order"
        if low.next_committee != high.next_committee or low.params_digest != high.params_digest:
            return True
        if high.height == low.height + 1 and high.parent != name:
            return True
    else:
        assert low.epoch < high.epoch, "order"
    return (
        low.results_count > high.results_count
        or low.deposits > high.deposits
        or low.anchor_number > high.anchor_number
    )


@external
def declare_dead():
    """
    @notice Open the exit for ever: no header was accepted for too long. Nothing happens where it is open already.
    @dev Spec: [CHECKPOINT-DEAD.1]
    """
    if self._halted >> 64 != 0:
        return
    assert self._is_dead(), "alive"
    self._halted |= block.timestamp << 64
    log Halted(at=block.timestamp, dead=True)


@external
def pause(seconds: uint256):
    """
    @notice Stop withdrawals for a while. Not again before as long a time has passed without a pause.
    @dev Spec: [CHECKPOINT-PAUSE.1]
    """
    assert msg.sender == GUARDIAN, "guardian"
    assert seconds > 0 and seconds <= PAUSE_MAX_S, "seconds"
    assert block.timestamp >= self._pause_free_at, "too soon"
    self.paused_until = block.timestamp + seconds
    self._pause_free_at = block.timestamp + 2 * seconds
    log Paused(until=self.paused_until)


# What stands


@external
@view
def accepted(digest: bytes32) -> Checkpoint:
    """
    @notice When a header was accepted, and as which one of all; zeros if it was not.
    """
    return self._unpacked(digest)


@external
@view
def usable(digest: bytes32) -> bool:
    """
    @notice Whether withdrawals can stand on a header.
    @dev Spec: [CHECKPOINT-WINDOW.1]
    """
    return self._is_usable(digest)


@external
@view
def last_usable(digest: bytes32, next: bytes32) -> bool:
    """
    @notice Whether a header is usable, and the one accepted after it, if there is one, is not.
    @param digest Zero for the state before the first header, which is always usable.
    @param next Zero where no header was accepted after it.
    """
    if digest != empty(bytes32) and not self._is_usable(digest):
        return False
    if next == empty(bytes32):
        return digest == self.latest
    after: Checkpoint = self._unpacked(next)
    return after.sequence == self._unpacked(digest).sequence + 1 and not self._is_usable(next)


@external
@view
def dead() -> bool:
    """
    @notice Whether the exit is open, or can be opened by `declare_dead`.
    """
    return self._is_dead()


@external
@view
def frozen_at() -> uint256:
    """
    @notice When a contradiction was shown; 0 if none was.
    """
    return self._halted & WORD


@external
@view
def dead_at() -> uint256:
    """
    @notice When the exit was opened for ever; 0 if it was not.
    """
    return self._halted >> 64


@external
@view
def paused() -> bool:
    """
    @notice Whether the guardian has stopped withdrawals.
    """
    return block.timestamp < self.paused_until


@external
@view
def root(epoch: uint256) -> bytes32:
    """
    @notice What the committee of an epoch is named by; zero where it is not known yet.
    """
    return self.epochs[epoch].root


@external
@view
def name_of(header: headers.Header) -> bytes32:
    """
    @notice A header's digest.
    """
    return signing._digest(headers._hash(header))


@external
@view
def includes_outcome(
    header: headers.Header, outcome: trees.Outcome, proof: trees.ResultProof
) -> bool:
    """
    @notice Whether an accepted header's results hold an outcome.
    """
    if self._accepted[signing._digest(headers._hash(header))] == 0:
        return False
    return trees._results_hold(header.results_root, header.results_count, outcome, proof)


@external
@view
def ledger_holds(
    header: headers.Header,
    section: uint256,
    key: Bytes[64],
    record: Bytes[8192],
    siblings: DynArray[bytes32, trees.SIBLINGS_MAX],
    sections: DynArray[bytes32, trees.SECTIONS_MAX],
) -> bool:
    """
    @notice Whether an accepted header's ledger has a record for a key of a section.
    """
    if self._accepted[signing._digest(headers._hash(header))] == 0:
        return False
    return trees._ledger_holds(
        header.ledger_root, section, keccak256(key), keccak256(record), siblings, sections
    )


@internal
@view
def _unpacked(digest: bytes32) -> Checkpoint:
    packed: uint256 = self._accepted[digest]
    return Checkpoint(
        time=packed & WORD,
        epoch=(packed >> 64) & WORD,
        height=(packed >> 128) & WORD,
        sequence=packed >> 192,
    )


@internal
@view
def _is_usable(digest: bytes32) -> bool:
    since: uint256 = self._accepted[digest] & WORD
    until: uint256 = self._halted & WORD
    if until == 0:
        until = block.timestamp
    return since != 0 and since + WINDOW_S <= until


@internal
@view
def _is_dead() -> bool:
    since: uint256 = max(self._accepted[self.latest] & WORD, self._deployed)
    return self._halted >> 64 != 0 or block.timestamp > since + DEAD_S
