"""Property-based: nodes, committees, evidence and checkpoints are the same on chain and in the model."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from chain.model.registry import CANDIDATES_MAX
from protocol.core.ids import NOBODY, Digest, NodeId
from protocol.core.signing import keccak
from protocol.messages.committee import Statement, StatementKind, statement_digest
from protocol.messages.evidence import ConflictingStatements
from tests.unit.chain.contracts_at_hand import GUARDIAN
from tests.unit.chain.side_by_side import Pair
from tests.unit.chain.small_ledger import finalized, root_of
from tests.unit.chain.walking import ACCOUNTS, ANYBODY, NODES, OWNERS, Walk, consent, picks, rarely
from tests.unit.protocol.keys import Key, key

nodes = st.sampled_from(NODES)
owners = st.sampled_from((OWNERS[0],) * 4 + (OWNERS[1],))


class Nodes(Walk):
    """Nodes come and go, are convicted and drawn."""

    @initialize(count=st.integers(0, 10), first=st.integers(0, 2), stake=st.integers(100, 1_100))
    def begin(self, count: int, first: int, stake: int) -> None:
        for number, node in enumerate(NODES[first : first + count]):
            self._register(node, OWNERS[0], 4, stake + 13 * number)

    def _register(self, node: Key, owner: NodeId, roles: int, stake: int, by: bytes | None = None) -> None:
        signed = consent(node, owner, self.domain)
        self.do("registry", "register", node.node, roles, stake, signed, sender=by or owner, value=3 * stake)

    @rule(node=nodes, roles=st.sampled_from((4, 4, 6, 2, 0, 8)), stake=st.integers(98, 1_400), wrong=rarely)
    def register(self, node: Key, roles: int, stake: int, wrong: bool) -> None:
        self._register(node, OWNERS[0], roles, stake, OWNERS[1] if wrong else None)

    @rule(node=nodes, stake=st.integers(0, 900), wrong=rarely)
    def add_stake(self, node: Key, stake: int, wrong: bool) -> None:
        self.do("registry", "add_stake", node.node, stake, value=3 * stake + wrong)

    @rule(node=nodes, instead_of=st.one_of(st.none(), nodes))
    def stand(self, node: Key, instead_of: Key | None) -> None:
        self.do("registry", "stand", node.node, NOBODY if instead_of is None else instead_of.node)

    @rule(old=nodes, new=nodes, owner=owners, wrong=rarely)
    def rotate(self, old: Key, new: Key, owner: NodeId, wrong: bool) -> None:
        signed = consent(old if wrong else new, owner, self.domain)
        self.do("registry", "rotate", old.node, new.node, signed, sender=owner)

    @rule(node=nodes, owner=owners, to=st.sampled_from((*OWNERS, NOBODY)))
    def set_owner(self, node: Key, owner: NodeId, to: NodeId) -> None:
        self.do("registry", "set_owner", node.node, to, sender=owner)

    @rule(node=nodes, owner=owners)
    def begin_unbonding(self, node: Key, owner: NodeId) -> None:
        self.do("registry", "begin_unbonding", node.node, sender=owner)

    @precondition(lambda self: any(bond.unbonding_from_s for bond in self.pair.model.registry.bonds.values()))
    @rule(pick=picks, waits=st.sampled_from((0, 9_999, 10_000)))
    def finish_unbonding(self, pick: int, waits: int) -> None:
        leaving = [bond.node for bond in self.pair.model.registry.bonds.values() if bond.unbonding_from_s]
        self.pair.evm.advance(waits, waits // 12)
        self.do("registry", "finish_unbonding", leaving[pick % len(leaving)])

    # Evidence

    @rule(node=nodes, wrong=st.sampled_from((None,) * 4 + ("same", "another", "place")), height=st.integers(1, 3))
    def judge(self, node: Key, wrong: str | None, height: int) -> None:
        other = NODES[(NODES.index(node) + 1) % len(NODES)] if wrong == "another" else node
        first = self._vote(node, height, b"a")
        second = self._vote(other, height + (wrong == "place"), b"a" if wrong == "same" else b"b")
        self.do("evidence", "judge", ConflictingStatements(first, second), ACCOUNTS[0])

    def _vote(self, by: Key, height: int, what: bytes) -> Statement:
        header = keccak(what)
        digest = statement_digest(self.domain, StatementKind.VOTE, 1, height, header)
        return Statement(StatementKind.VOTE, 1, height, header, by.sign(digest))

    @precondition(lambda self: self.pair.model.registry.rewards)
    @rule(reporter=st.sampled_from(ACCOUNTS[:2]))
    def claim(self, reporter: NodeId) -> None:
        self.do("registry", "claim", reporter)

    # Committees

    @precondition(lambda self: self.pair.model.registry.frozen.epoch)
    @rule(waits=st.sampled_from((8, 9, 9, 9, 300)), wrong=st.sampled_from((None,) * 6 + ("few", "other", "epoch")))
    def draw(self, waits: int, wrong: str | None) -> None:
        registry = self.pair.model.registry
        self.pair.evm.advance(12 * waits, waits)
        candidates = sorted(registry.frozen_weights)[wrong == "few" :]
        if wrong == "other":
            candidates[-1:] = [NodeId(b"\xff" * 20)]
        self.do("registry", "draw", registry.frozen.epoch + (wrong == "epoch"), tuple(candidates))

    @precondition(lambda self: self.made)
    @rule(pick=picks, other=st.sampled_from(("same", "slot", "falls", "next", "parent", "grows", "before")))
    def challenge(self, pick: int, other: str) -> None:
        first, book = self.picked(pick)
        header = first.header
        assert header is not None
        root, height, epoch = Digest(header.next_committee), header.height, header.epoch
        changed = book.credited(ACCOUNTS[0], balance=1)
        made = {
            "same": header,
            "slot": changed.header(epoch, height, root),
            "falls": self.made[0][1].header(epoch, height + 1, root),
            "next": book.header(epoch, height + 2, root_of(NODES[5:9])),
            "parent": changed.header(epoch, height + 1, root, keccak(b"another")),
            "grows": changed.header(epoch, height + 5, root),
            "before": changed.header(epoch, max(1, height) - 1, root),
        }[other]
        second, members = finalized(self.domain, made, self.members[epoch])
        self.do("checkpoints", "challenge", first, members, second, members)

    @precondition(lambda self: self.dead)
    @rule()
    def declare_dead(self) -> None:
        self.do("checkpoints", "declare_dead")

    @rule(seconds=st.sampled_from((0, 1, 300, 301)), wrong=rarely)
    def pause(self, seconds: int, wrong: bool) -> None:
        self.do("checkpoints", "pause", seconds, sender=ANYBODY if wrong else NodeId(GUARDIAN))


class TestNodes(Nodes.TestCase):
    """Hundreds of calls."""

    settings = settings(
        max_examples=20,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )


@pytest.mark.long
class TestNodesForLong(Nodes.TestCase):
    """Many thousands."""

    settings = settings(
        max_examples=1_500, stateful_step_count=100, deadline=None, suppress_health_check=list(HealthCheck)
    )


def test_the_pool_of_candidates_is_bounded() -> None:
    """All places are taken; who has more stake than another takes its place."""
    pair, owner = Pair(), OWNERS[0]
    pool = [key(1_000 + number) for number in range(CANDIDATES_MAX + 1)]
    for number, node in enumerate(pool):
        signed, stake = consent(node, owner, pair.terms.domain), 100 + number
        assert pair.do("registry", "register", node.node, 4, stake, signed, sender=owner, value=3 * stake) is None
    last, first, second = pool[-1].node, pool[0].node, pool[1].node
    assert pair.do("registry", "stand", last, NOBODY, sender=ANYBODY) == "full"
    assert pair.do("registry", "stand", last, last, sender=ANYBODY) == "no candidate"
    assert pair.do("registry", "stand", last, first, sender=ANYBODY) is None
    assert pair.do("registry", "stand", first, second, sender=ANYBODY) == "stake"
    assert pair.model.registry.weights.keys() == {node.node for node in pool[1:]}
    pair.check_all([node.node for node in pool], [], [])


def test_what_contracts_do_to_each_other_nobody_else_may() -> None:
    pair = Pair()
    for sender in (ANYBODY, GUARDIAN, NODES[0].node):
        assert pair.do("registry", "slash", NODES[0].node, keccak(b"evidence"), ANYBODY, sender=sender) == "evidence"
        assert pair.do("registry", "freeze", 3, True, sender=sender) == "checkpoints"
