"""What walks of both sides have in common: a network whose committees finalize headers, and time."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.messages.chain import Consent
from protocol.messages.committee import Certified, Header, header_digest
from tests.unit.chain.side_by_side import Pair
from tests.unit.chain.small_ledger import Book, finalized, root_of
from tests.unit.protocol.keys import Key, key

NODES = [key(number) for number in range(12)]
BY_NODE = {each.node: each for each in NODES}
OWNERS = [NodeId(bytes([0x0E]) * 20), NodeId(bytes([0x0F]) * 20)]
ACCOUNTS = [NodeId(bytes([0xA0 + number]) * 20) for number in range(3)]
ANYBODY = NodeId(b"\xab" * 20)

rarely = st.sampled_from((False,) * 7 + (True,))
"""A mistake, now and then."""
picks = st.integers(0, 40)
"""Which of several, counted from the last."""


def consent(node: Key, owner: bytes, domain: Domain) -> Signature:
    """A key agrees to be an owner's."""
    return node.sign(typed_digest(domain, Consent(node.node, owner)))


class Walk(RuleBasedStateMachine):
    """Every rule is one call of both sides; some calls are wrong in one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.domain = self.pair.terms.domain
        self.book = Book()
        self.made: list[tuple[Certified, Book]] = []
        """Accepted headers, with what stands below them."""
        self.members = {1: tuple(NODES[:4])}
        """Committees by epoch, as far as accepted headers name them."""

    def do(self, contract: str, function: str, *arguments: Any, sender: bytes = ANYBODY, value: int = 0) -> str | None:
        """See Pair."""
        return self.pair.do(contract, function, *arguments, sender=sender, value=value)

    @property
    def dead(self) -> bool:
        """Whether the exit is open."""
        return self.pair.model.checkpoints.dead(self.pair.view())

    def digest(self, header: Header | None) -> Digest:
        """A header's name."""
        assert header is not None
        return header_digest(self.domain, header)

    def picked(self, pick: int) -> tuple[Certified, Book]:
        """One of the accepted headers."""
        return self.made[-1 - pick % len(self.made)]

    # Time

    @rule(seconds=st.sampled_from((12, 300, 600, 2_000)), blocks=st.sampled_from((1, 9, 9, 300)))
    def time_passes(self, seconds: int, blocks: int) -> None:
        self.pair.evm.advance(seconds, blocks)

    # Headers

    def next_slot(self, turn: bool) -> tuple[int, int]:
        """Of the header after the last accepted one."""
        checkpoints = self.pair.model.checkpoints
        last = checkpoints.accepted(checkpoints.latest)
        return (last.epoch + 1, 1) if turn or not last.epoch else (last.epoch, last.height + 1)

    def following(self, epoch: int, same: bool) -> tuple[Key, ...]:
        """Who is to follow an epoch's committee: whom its headers named, else the drawn ones, else the same again."""
        drawn = self.pair.model.registry.drawn.get(epoch + 1)
        if epoch + 1 in self.members:
            return self.members[epoch + 1]
        return self.members[epoch] if same or drawn is None else tuple(BY_NODE[node] for node in drawn)

    @precondition(lambda self: not self.dead)
    @rule(
        turn=st.sampled_from((False, True, True)),
        same=rarely,
        wrong=st.sampled_from((None,) * 9 + ("next", "few", "foreign", "old", "epoch")),
    )
    def submit(self, turn: bool, same: bool, wrong: str | None) -> None:
        epoch, height = self.next_slot(turn)
        keys, following = list(self.members[epoch]), self.following(epoch, same)
        if wrong == "foreign":
            keys[0] = next(node for node in NODES if node not in keys)
        if wrong in ("old", "epoch"):
            epoch, height = (epoch, 0) if wrong == "old" else (epoch + 1, height)
        next_root = Digest(keccak(b"nobody")) if wrong == "next" else root_of(following)
        quorum = len(keys) - len(keys) // 3
        header = self.book.header(epoch, height, next_root)
        certified, members = finalized(self.domain, header, keys, range(quorum - (wrong == "few")))
        if self.do("checkpoints", "submit", certified, members) is None:
            self.made.append((certified, self.book))
            self.members.setdefault(epoch + 1, following)

    # What has to hold

    @invariant()
    def both_stand_where_they_stood(self) -> None:
        self.pair.check_heads()

    def teardown(self) -> None:
        digests = [self.digest(made.header) for made, _ in self.made]
        self.pair.check_all([each.node for each in NODES], ACCOUNTS, digests)
