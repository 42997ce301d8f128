"""The checkpoints of the model: which headers were accepted, when, and whether money may move by them."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

from chain.model.calls import Call, Revert, require
from chain.model.registry import ModelRegistry
from chain.model.terms import Terms
from protocol.committee.election import committee_root
from protocol.core.errors import SignatureError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.params import COMMITTEE_SIZES
from protocol.core.signing import recover
from protocol.messages.chain import Accepted
from protocol.messages.committee import Certified, Header, StatementKind, header_digest, statement_digest


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is kept of an accepted header."""

    time_s: int
    epoch: int
    height: int
    sequence: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What is known of an epoch's committee."""

    root: Digest
    opened_s: int = 0
    """When its first header was accepted; 0: not yet."""
    terms: int = 0
    """How often in a row it has followed itself."""


@dataclass(frozen=True, slots=True)
class Halted:
    """Nothing is accepted from now on: a contradiction was shown, or the exit opened."""

    at_s: int
    dead: bool


@dataclass(frozen=True, slots=True)
class Paused:
    """The guardian stops withdrawals."""

    until_s: int


NO_CHECKPOINT = Checkpoint(0, 0, 0, 0)
NO_EPOCH = Epoch(ZERO_DIGEST)


@dataclass(slots=True)
class ModelCheckpoints:
    """See the module."""

    terms: Terms
    registry: ModelRegistry
    deployed_s: int
    kept: dict[Digest, Checkpoint] = field(default_factory=dict)
    latest: Digest = ZERO_DIGEST
    epochs: dict[int, Epoch] = field(default_factory=dict)
    frozen_at_s: int = 0
    dead_at_s: int = 0
    paused_until_s: int = 0
    pause_free_at_s: int = 0

    def __post_init__(self) -> None:
        self.epochs.setdefault(1, Epoch(self.registry.drawn_root(1)))

    def copy(self, registry: ModelRegistry) -> "ModelCheckpoints":
        """One that changes by itself, beside a registry."""
        return replace(self, registry=registry, kept=dict(self.kept), epochs=dict(self.epochs))

    # What can be asked

    def accepted(self, digest: bytes) -> Checkpoint:
        """A header as it was accepted; zeros if it was not."""
        return self.kept.get(Digest(digest), NO_CHECKPOINT)

    def usable(self, call: Call, digest: bytes) -> bool:
        """Whether money may move by a header: its window is over, and was before all was frozen."""
        since_s, until_s = self.accepted(digest).time_s, self.frozen_at_s or call.time_s
        return since_s != 0 and since_s + self.terms.window_s <= until_s

    def last_usable(self, call: Call, digest: bytes, following: bytes) -> bool:
        """Whether a header is usable and the one accepted after it is not. Zero stands for the state before the first
        header, and for no header."""
        if digest != ZERO_DIGEST and not self.usable(call, digest):
            return False
        if following == ZERO_DIGEST:
            return digest == self.latest
        after = self.accepted(following)
        return after.sequence == self.accepted(digest).sequence + 1 and not self.usable(call, following)

    def dead(self, call: Call) -> bool:
        """Whether nothing was accepted for too long."""
        since_s = max(self.accepted(self.latest).time_s, self.deployed_s)
        return self.dead_at_s != 0 or call.time_s > since_s + self.terms.dead_s

    def paused(self, call: Call) -> bool:
        """Whether the guardian keeps money from leaving."""
        return call.time_s < self.paused_until_s

    # What can be done

    def submit(self, call: Call, certified: Certified, members: tuple[NodeId, ...]) -> None:
        """Accept a finalized header."""
        require(not self.frozen_at_s and not self.dead_at_s, "halted")
        last, header = self.accepted(self.latest), _header(certified)
        digest = self._check(certified, members)
        if header.epoch == last.epoch:
            require(header.height > last.height, "old")
            require(header.next_committee == self._epoch(header.epoch + 1).root, "next committee")
        else:
            require(header.epoch == last.epoch + 1, "epoch")
            self._hand_over(call, header)
        self.kept[digest] = Checkpoint(call.time_s, header.epoch, header.height, last.sequence + 1)
        self.latest = digest
        call.emit("checkpoints", Accepted(header.epoch, header.height, digest))

    def challenge(
        self,
        call: Call,
        first: Certified,
        first_members: tuple[NodeId, ...],
        second: Certified,
        second_members: tuple[NodeId, ...],
    ) -> None:
        """Freeze all by two certified headers that cannot both be, the one of the lower place first."""
        require(not self.frozen_at_s, "frozen")
        one = self._judged(call, first, first_members)
        other = self._judged(call, second, second_members)
        require(one != other, "same")
        require(_contradict(_header(first), one, _header(second)), "no contradiction")
        self.frozen_at_s = call.time_s
        call.emit("checkpoints", Halted(call.time_s, False))

    def declare_dead(self, call: Call) -> None:
        """Open the exit for ever."""
        if self.dead_at_s:
            return
        require(self.dead(call), "alive")
        self.dead_at_s, self.registry.dead = call.time_s, True
        call.emit("checkpoints", Halted(call.time_s, True))

    def pause(self, call: Call, seconds: int) -> None:
        """The guardian stops withdrawals for a while, and not again before as long a while without is over."""
        require(call.sender == self.terms.guardian, "guardian")
        require(0 < seconds <= self.terms.pause_max_s, "seconds")
        require(call.time_s >= self.pause_free_at_s, "too soon")
        self.paused_until_s = call.time_s + seconds
        self.pause_free_at_s = call.time_s + 2 * seconds
        call.emit("checkpoints", Paused(self.paused_until_s))

    # How

    def _epoch(self, epoch: int) -> Epoch:
        return self.epochs.get(epoch, NO_EPOCH)

    def _check(self, certified: Certified, members: tuple[NodeId, ...]) -> Digest:
        """The digest of a header that 2f+1 members of its epoch's committee finalized."""
        header, count = _header(certified), len(members)
        digest = header_digest(self.terms.domain, header)
        require(count in COMMITTEE_SIZES, "size")
        require(committee_root(members) == self._epoch(header.epoch).root, "committee")
        signed = certified.certificate.signatures
        require(len(signed) == count - count // 3, "quorum")
        places = [each.index for each in signed]
        require(all(low < high for low, high in pairwise(places)) and places[-1] < count, "signers")
        said = statement_digest(self.terms.domain, StatementKind.FINALIZE, header.epoch, header.height, digest)
        for each in signed:
            try:
                signer = recover(said, each.signature)
            except SignatureError as error:
                raise Revert("signature") from error
            require(signer == members[each.index], "signature")
        return digest

    def _hand_over(self, call: Call, header: Header) -> None:
        """The first header of an epoch names the next committee: the drawn one, or the same again."""
        present = self._epoch(header.epoch)
        drawn = self.registry.drawn_root(header.epoch + 1)
        renewed = drawn != ZERO_DIGEST and header.next_committee == drawn
        if not renewed:
            require(header.next_committee == present.root, "next committee")
            require(present.terms + 1 <= self.terms.terms_max, "terms")
        self.epochs[header.epoch] = Epoch(present.root, call.time_s, present.terms)
        following = Epoch(Digest(header.next_committee), 0, 0 if renewed else present.terms + 1)
        self.epochs[header.epoch + 1] = following
        self.registry.freeze(call.by(self.terms.addresses.checkpoints), header.epoch + 2, renewed)

    def _judged(self, call: Call, certified: Certified, members: tuple[NodeId, ...]) -> Digest:
        replaced_s = self._epoch(_header(certified).epoch + 1).opened_s
        require(not replaced_s or call.time_s < replaced_s + self.terms.window_s, "past")
        return self._check(certified, members)


def _header(certified: Certified) -> Header:
    assert certified.header is not None, "what is called always has its header"
    return certified.header


def _contradict(low: Header, digest: Digest, high: Header) -> bool:
    """Whether no chain of blocks has both, the first one not after the second."""
    if low.epoch == high.epoch:
        if low.height == high.height:
            return True
        require(low.height < high.height, "order")
        if low.next_committee != high.next_committee or low.params_digest != high.params_digest:
            return True
        if high.height == low.height + 1 and high.parent != digest:
            return True
    else:
        require(low.epoch < high.epoch, "order")
    return (
        low.results_count > high.results_count or low.deposits > high.deposits or low.anchor_number > high.anchor_number
    )
