"""What the committee puts on the chain, from when on it is due, and whose turn it is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.sim.crypto import Key
from protocol.core.errors import DecodeError
from protocol.core.ids import NodeId
from protocol.ledger import LedgerState
from protocol.ledger.accounts import Account
from protocol.ledger.nodes import Node
from protocol.ledger.records import Section
from protocol.messages.chain import Accepted
from protocol.messages.committee import (
    Certificate,
    CertificateKind,
    Certified,
    Statement,
    StatementKind,
    statement_digest,
)
from protocol.messages.evidence import ConflictingStatements
from protocol.messages.handover import HandOver
from protocol.results.evidence import evidence_id
from protocol.settlement.docket import AT_ONCE_MAX, EVIDENCE, PIECES_MAX, Docket
from protocol.settlement.duty import (
    NO_SLOT,
    RecordDraw,
    ReportEvidence,
    Settle,
    Slot,
    Standing,
    SubmitHeader,
    due_ms,
    is_pressing,
)
from protocol.settlement.settler import Settler
from protocol.settlement.turns import begins_ms, turn_order
from tests.unit.protocol.chain_at_hand import CHAIN_PARAMS, Anchored, accepted, changed
from tests.unit.protocol.ledger_at_hand import DOMAIN, ORACLES, STRANGER, keyed  # noqa: F401

PARAMS = replace(
    CHAIN_PARAMS, checkpoint_blocks=10, checkpoint_ms=60_000, checkpoint_idle_ms=600_000, turn_ms=1_000
).validate()
MEMBERS = tuple(key.node_id for key in ORACLES[:4])
LATER = tuple(key.node_id for key in ORACLES[3:7])


# When


@pytest.mark.spec("SETTLE-DUE.1")
@pytest.mark.parametrize(
    ("accepted", "newest", "changed", "pressing_ms", "expected"),
    [
        ((1, 5), (1, 5), (1, 5), None, None),
        ((1, 5), (1, 4), (1, 4), None, None),
        ((2, 1), (1, 9), (1, 9), 10, None),
        ((1, 5), (1, 6), (1, 6), None, 60_100),
        ((1, 5), (1, 6), (1, 5), None, 600_100),
        ((1, 5), (1, 15), (1, 6), 200, 200),
        ((1, 5), (2, 1), (1, 5), 50, 100),
        (NO_SLOT, (1, 1), (1, 1), 300, 300),
    ],
)
def test_when_a_header_is_due(
    accepted: Slot, newest: Slot, changed: Slot, pressing_ms: int | None, expected: int | None
) -> None:
    assert due_ms(PARAMS, Standing(accepted, 100, newest, changed, pressing_ms)) == expected


@pytest.mark.spec("SETTLE-DUE.1")
def test_what_does_not_wait_for_its_time() -> None:
    assert is_pressing(PARAMS, NO_SLOT, (1, 1), (1, 1))
    assert is_pressing(PARAMS, (1, 5), (2, 1), (1, 5)), "a hand-over, even if nothing changed"
    assert is_pressing(PARAMS, (1, 5), (1, 15), (1, 6))
    assert not is_pressing(PARAMS, (1, 5), (1, 14), (1, 6))
    assert not is_pressing(PARAMS, (1, 5), (1, 99), (1, 5)), "nothing to settle"
    assert not is_pressing(PARAMS, (1, 5), (1, 5), (1, 5))
    assert not is_pressing(PARAMS, NO_SLOT, NO_SLOT, NO_SLOT)


# Whose turn


@pytest.mark.spec("SETTLE-TURNS.1")
def test_everybody_has_a_turn_and_another_one_each_time() -> None:
    orders = [turn_order(DOMAIN.network_id, bytes([number]), MEMBERS) for number in range(64)]
    assert all(sorted(order) == sorted(MEMBERS) for order in orders)
    assert {order[0] for order in orders} == set(MEMBERS)
    assert len(set(orders)) > 12, "of the 24 that there are"
    assert turn_order(DOMAIN.network_id, b"\0", tuple(reversed(MEMBERS))) == orders[0]
    order = orders[0]
    assert [begins_ms(order, member, 500, 100) for member in order] == [500, 600, 700, 800]
    assert begins_ms(order, STRANGER.node_id, 500, 100) is None


@given(st.binary(max_size=9), st.permutations(MEMBERS), st.integers(0, 10**6), st.integers(1, 10**4))
def test_no_two_members_have_one_turn(subject: bytes, members: list[NodeId], since: int, turn_ms: int) -> None:
    order = turn_order(DOMAIN.network_id, subject, members)
    assert len({begins_ms(order, member, since, turn_ms) for member in members}) == 4


# What


def settler_of(member: NodeId, hand_overs: dict[int, HandOver]) -> Settler:
    """A node's, with nothing on its disk."""
    return Settler(PARAMS, DOMAIN.network_id, member, MEMBERS, hand_overs.get, Docket(DOMAIN, {}, 0))


def two_votes(key: Key, height: int = 1) -> ConflictingStatements:
    """Evidence against a key."""
    kind, said = StatementKind.VOTE, []
    for header in (b"\1" * 32, b"\2" * 32):
        signature = key.sign(statement_digest(DOMAIN, kind, 1, height, header))
        said.append(Statement(kind, 1, height, header, signature))
    return ConflictingStatements(*said)


class Scene:
    """A committee's members, each with its settler, and the chain as they see it."""

    def __init__(self) -> None:
        self.books = Anchored()
        self.hand_overs: dict[int, HandOver] = {}
        self.settlers = {member: settler_of(member, self.hand_overs) for member in (*MEMBERS, STRANGER.node_id)}
        self.now_ms = 1_000

    def final(self, height: int, state: LedgerState | None = None) -> Certified:
        """A header is final."""
        state = state or self.books.state
        header = replace_header(self.books, state, height)
        certified = Certified(Certificate(CertificateKind.FINALIZATION, state.epoch, height, bytes(32), ()), header)
        for settler in self.settlers.values():
            settler.finalized(certified, state, self.now_ms)
        return certified

    def contract(self, accepted: Accepted | None = None, undrawn: int | None = None) -> None:
        """What the contracts say."""
        for settler in self.settlers.values():
            settler.contract(accepted, undrawn, self.now_ms)

    def convict(self, key: Key, height: int = 1) -> ReportEvidence:
        """Somebody is convicted; what is to be reported of it."""
        for settler in self.settlers.values():
            settler.convicted(key.node_id, two_votes(key, height), self.books.state, self.now_ms)
        return ReportEvidence(key.node_id, two_votes(key, height))

    def pass_ms(self, ms: int) -> list[tuple[int, NodeId, Settle]]:
        """Time passes: who sends what, and when."""
        end_ms, found = self.now_ms + ms, []
        while True:
            clocks = [(at, node) for node, each in self.settlers.items() if (at := each.next_deadline()) is not None]
            at_ms = min((at for at, _ in clocks), default=end_ms + 1)
            if at_ms > end_ms:
                self.now_ms = end_ms
                return found
            self.now_ms = max(at_ms, self.now_ms)
            for node, settler in self.settlers.items():
                found += [(self.now_ms, node, settle) for settle in settler.due(self.now_ms)]


def replace_header(books: Anchored, state: LedgerState, height: int) -> object:
    """A header of a state."""
    before, books.state = books.state, state
    header = books.header()
    books.state = before
    return type(header)(*(height if name == "height" else getattr(header, name) for name in header.__struct_fields__))


def richer(state: LedgerState, wei: int = 1) -> LedgerState:
    """Something to settle."""
    trees = list(state.trees)
    trees[Section.ACCOUNTS] = trees[Section.ACCOUNTS].set(STRANGER.node_id, Account(wei).packed())
    return replace(state, trees=tuple(trees))


@pytest.mark.spec("SETTLE-HEADER.1", "SETTLE-TURNS.1")
def test_the_first_header_is_sent_at_once_by_one_member_then_by_the_next() -> None:
    scene = Scene()
    scene.final(1)
    assert scene.pass_ms(5_000) == [], "the contracts were not seen yet"
    scene.contract()
    sent = scene.pass_ms(0)
    assert len(sent) == 1
    newest = scene.final(2)
    sent += scene.pass_ms(2_500)
    assert [at for at, _, _ in sent] == [6_000, 7_000, 7_000, 8_000, 8_000, 8_000]
    nodes = tuple(dict.fromkeys(node for _, node, _ in sent))
    order = turn_order(DOMAIN.network_id, b"header" + bytes(16), MEMBERS)
    assert set(nodes) == set(order[:3]), "one after the other, and each again in its next turn"
    assert nodes[0] == order[0]
    assert [settle for _, _, settle in sent[1:]] == [SubmitHeader(newest, MEMBERS)] * 5
    scene.contract(accepted(1, 2))
    assert scene.pass_ms(50_000) == []


@pytest.mark.spec("SETTLE-DUE.1", "SETTLE-HEADER.1")
def test_later_ones_wait_for_their_time_and_the_newest_is_sent() -> None:
    scene = Scene()
    scene.final(1)
    scene.contract(accepted(1, 1))
    scene.final(2, richer(scene.books.state))
    assert scene.pass_ms(59_999) == []
    newest = scene.final(3, richer(scene.books.state))
    ((at_ms, _, settle),) = scene.pass_ms(1)
    assert (at_ms, settle) == (61_000, SubmitHeader(newest, MEMBERS))


@pytest.mark.spec("SETTLE-DUE.1")
def test_enough_blocks_are_due_at_once_and_idle_ones_late() -> None:
    scene = Scene()
    scene.final(1)
    scene.contract(accepted(1, 1))
    scene.final(40)
    assert scene.pass_ms(599_999) == [], "forty blocks in which nothing changed"
    assert len(scene.pass_ms(1)) == 1
    scene.contract(accepted(1, 40))
    scene.final(41, richer(scene.books.state))
    scene.final(49, richer(scene.books.state))
    assert scene.pass_ms(0) == []
    scene.final(50, richer(scene.books.state))
    assert len(scene.pass_ms(0)) == 1


@pytest.mark.spec("SETTLE-HEADER.1")
def test_hand_overs_come_first_one_an_epoch_then_the_newest() -> None:
    scene = Scene()
    books = scene.books
    first = scene.final(7)
    scene.hand_overs[1] = HandOver(first, LATER)
    for epoch in (2, 3):
        books.turn()
        books.state = replace(books.state, homes={**books.state.homes, epoch: LATER}, epoch=epoch)
        certified = scene.final(5)
        scene.hand_overs[epoch] = HandOver(certified, LATER if epoch == 2 else MEMBERS)
    for member in LATER:
        scene.settlers[member] = settler_of(member, scene.hand_overs)
    newest = scene.final(9)
    expected = [(None, first, MEMBERS), (accepted(1, 7), scene.hand_overs[2].certified, LATER)]
    expected += [(accepted(2, 5), newest, LATER), (accepted(3, 1), newest, LATER)]
    for number, (before, certified, members) in enumerate(expected):
        scene.contract(before)
        sent = scene.pass_ms(0 if number < 3 else 60_000)
        assert [settle for _, _, settle in sent] == [SubmitHeader(certified, members)]
    scene.contract(accepted(3, 9))
    assert scene.pass_ms(10**7) == []


def test_without_the_hand_over_nothing_of_a_later_epoch_is_sent() -> None:
    scene = Scene()
    scene.books.turn(2)
    scene.final(1)
    scene.contract()
    assert scene.pass_ms(10_000) == []
    header = scene.final(2)
    scene.hand_overs[1] = HandOver(header, MEMBERS)
    scene.contract()
    assert {settle for _, _, settle in scene.pass_ms(3_000)} == {SubmitHeader(header, MEMBERS)}


@pytest.mark.spec("SETTLE-HEADER.1")
def test_a_reorganised_checkpoint_is_sent_again() -> None:
    scene = Scene()
    scene.final(1)
    scene.contract()
    assert len(scene.pass_ms(0)) == 1
    scene.contract(accepted(1, 1))
    assert scene.pass_ms(500) == []
    scene.contract()
    assert len(scene.pass_ms(0)) == 1


@pytest.mark.spec("SETTLE-DRAW.1")
def test_a_draw_is_recorded_in_turns() -> None:
    scene = Scene()
    scene.final(1)
    scene.contract(accepted(1, 1), undrawn=3)
    ((_, first, settle),) = scene.pass_ms(500)
    assert settle == RecordDraw(3)
    scene.contract(accepted(1, 1), undrawn=3)
    assert scene.pass_ms(499) == []
    sent = scene.pass_ms(1)
    order = turn_order(DOMAIN.network_id, b"draw" + (3).to_bytes(8, "big"), MEMBERS)
    assert first == order[0]
    assert {node for _, node, _ in sent} == set(order[:2]), "the first once more, and the next"
    scene.contract(accepted(1, 1), undrawn=4)
    assert {settle for _, _, settle in scene.pass_ms(0)} == {RecordDraw(4)}
    scene.contract(accepted(1, 1))
    assert scene.pass_ms(50_000) == []


@pytest.mark.spec("SETTLE-EVIDENCE.1")
def test_who_is_registered_is_reported_until_it_is_jailed() -> None:
    scene = Scene()
    oracle, miner = MEMBERS[3], ORACLES[6].node_id
    scene.books.take(changed(miner))
    scene.contract(accepted(1, 1))
    _, report, _ = (scene.convict(key) for key in (ORACLES[3], ORACLES[6], STRANGER))
    scene.final(1)
    ((_, _, settle),) = scene.pass_ms(0)
    assert settle == report, "the oracle is not registered"
    scene.books.take(changed(oracle, 4))
    scene.final(2)
    assert {settle.convicted for _, _, settle in scene.pass_ms(4_000) if isinstance(settle, ReportEvidence)} == {
        oracle,
        miner,
    }
    assert scene.convict(ORACLES[6], 9) != report
    scene.books.take(changed(oracle, 4, jailed=True), changed(miner, jailed=True))
    scene.final(3)
    assert scene.pass_ms(50_000) == []
    assert [len(settler.docket) for settler in scene.settlers.values()] == [0] * 5


@pytest.mark.spec("SETTLE-EVIDENCE.1", "SETTLE-TURNS.1")
def test_evidence_is_reported_in_turns_from_when_it_was_found() -> None:
    scene = Scene()
    scene.books.take(changed(MEMBERS[3], 4))
    scene.contract(accepted(1, 1))
    scene.final(1)
    assert scene.pass_ms(5_000) == []
    report = scene.convict(ORACLES[3])
    order = turn_order(DOMAIN.network_id, b"evidence" + evidence_id(DOMAIN, MEMBERS[3], report.evidence), MEMBERS)
    assert scene.pass_ms(999) == [(6_000, order[0], report)]


@pytest.mark.spec("SETTLE-EVIDENCE.1")
def test_evidence_is_bounded_and_reported_some_at_a_time() -> None:
    scene = Scene()
    settler = scene.settlers[MEMBERS[0]]
    books = scene.books
    nodes = [bytes([1, number % 256, number // 256]) + bytes(17) for number in range(PIECES_MAX + 2)]
    trees = list(books.state.trees)
    record = Node(STRANGER.node_id, 2, 5, False).packed()
    for node in nodes:
        trees[Section.NODES] = trees[Section.NODES].set(node, record)
    books.state = replace(books.state, trees=tuple(trees))
    for node in nodes:
        settler.convicted(NodeId(node), two_votes(STRANGER), books.state, 1_000)
    assert len(settler.docket) == PIECES_MAX
    assert len(settler.docket.open(books.state)) == AT_ONCE_MAX


@pytest.mark.spec("SETTLE-EVIDENCE.1")
def test_evidence_is_durable_until_it_is_of_no_use() -> None:
    books, docket, guilty = Anchored(), Docket(DOMAIN, {}, 0), ORACLES[2]
    ((name, record),) = docket.add(guilty.node_id, two_votes(guilty), books.state, 5)
    assert docket.add(guilty.node_id, two_votes(guilty, 2), books.state, 6) == []
    assert name == EVIDENCE + guilty.node_id
    assert record is not None
    books.take(changed(guilty.node_id, 4))
    again = Docket(DOMAIN, {name: record}, 9)
    ((identity, report, since_ms),) = again.open(books.state)
    assert (report, since_ms) == (ReportEvidence(guilty.node_id, two_votes(guilty)), 9)
    assert identity == docket.open(books.state)[0][0]
    assert again.settle(books.state) == []
    books.take(changed(guilty.node_id, 4, jailed=True))
    assert again.settle(books.state) == [(name, None)]
    assert len(again) == 0
    for broken in (b"", b"\6" + record[1:], record[:-1]):
        with pytest.raises(DecodeError):
            Docket(DOMAIN, {name: broken}, 0)
