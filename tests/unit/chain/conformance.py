"""What every chain behind the seam does, the real one and the model: checks over a rig, which each side brings.

A check begins on a chain with the contracts just deployed; everybody in it has coin.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from chain.api import (
    Answer,
    AnswerProof,
    Chain,
    EventCursor,
    InboxService,
    Question,
    Role,
    TxId,
    TxState,
)
from chain.deploy import Terms
from chain.errors import ChainUnreachable, NoFunds, NoKey, Reverted, TransactionFailed
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.ledger.records import Section
from protocol.messages.chain import Accepted, ChainEvent, Consent, Deposited, Drawn, NodeChanged
from protocol.messages.committee import Certified, Statement, StatementKind, header_digest, statement_digest
from protocol.messages.evidence import ConflictingStatements
from protocol.messages.results import LaneResult, Outcome, Verdict
from protocol.messages.tasks import TaskOrder
from protocol.results.evidence import evidence_id
from tests.unit.chain.small_ledger import Book, finalized, root_of
from tests.unit.protocol.keys import Key, key

COMMITTEE = [key(number) for number in range(4)]
OWNER, ROUTER, POOR = key(100), key(101), key(102)
ORACLES = [key(200 + number) for number in range(5)]
ACCOUNT, OTHER = NodeId(b"\xa1" * 20), NodeId(b"\xa2" * 20)
NOWHERE = TxId(b"\x99" * 32)

TERMS = Terms(unit=3, deposit_min=5, window_s=600, dead_s=5_000, stake_min=100, stake_cap=1_000, unbonding_s=10_000)


class Rig(Protocol):
    """A chain whose time is in the test's hands."""

    genesis: Genesis

    def client(self, payer: Key | None) -> Chain:
        """A client with a key, or one that only looks."""

    def mine(self, blocks: int = 1) -> None:
        """Blocks are made, of all that waits."""

    def skip(self, seconds: int) -> None:
        """Time passes: the next block is so much later."""


@dataclass
class Scene:
    """A network on a rig's chain: who does what to it, and what its ledger holds."""

    rig: Rig
    book: Book = field(default_factory=Book)

    def __post_init__(self) -> None:
        self.domain: Domain = self.rig.genesis.domain()
        self.chain = self.rig.client(OWNER)

    def done(self, tx: TxId, chain: Chain | None = None) -> None:
        """A transaction is in a block that is final."""
        chain = chain or self.chain
        self.rig.mine()
        chain.maintain()
        assert chain.status(tx).state is TxState.FINAL, chain.status(tx)

    def submitted(self, epoch: int, height: int) -> Certified:
        """The committee finalizes a header, and the contract accepts it."""
        certified, members = self.finalized(epoch, height)
        self.done(self.chain.submit_checkpoint(certified, members))
        return certified

    def finalized(self, epoch: int, height: int, book: Book | None = None) -> tuple[Certified, tuple[NodeId, ...]]:
        """A header over the ledger."""
        header = (book or self.book).header(epoch, height, root_of(COMMITTEE))
        return finalized(self.domain, header, COMMITTEE)

    def deposited(self, account: NodeId, amount: int) -> None:
        """Money comes in, and the ledger has it."""
        self.done(self.chain.deposit(account, amount))
        self.book = self.book.credited(account, balance=amount).counting(self.book.deposits + 1)

    def registered(self, node: Key, stake: int = 500, roles: Role = Role.ORACLE) -> None:
        """A node is registered."""
        consent = node.sign(typed_digest(self.domain, Consent(node.node, OWNER.node)))
        self.done(self.chain.register(node.node, roles, stake, consent))

    def events(self) -> list[ChainEvent]:
        """All that the contracts ever said."""
        return [event for _, event in self.chain.events(self.chain.start(), 10_000).events]

    def digest(self, certified: Certified) -> Digest:
        """A header's name."""
        assert certified.header is not None
        return header_digest(self.domain, certified.header)


Check = Callable[[Scene], None]


# Reading


def nothing_has_happened(scene: Scene) -> None:
    chain = scene.chain
    assert chain.latest_checkpoint() is None
    assert chain.accepted(Digest(keccak(b"header"))) is None
    assert chain.undrawn() is None
    assert not chain.dead()
    assert not chain.usable(Digest(keccak(b"header")))
    assert chain.node(ORACLES[0].node) is None
    assert chain.deposits() == 0
    assert chain.deposited(1) is None
    assert chain.paid(ACCOUNT) == 0
    assert not chain.exited(ACCOUNT)
    assert chain.question(1) is None
    assert chain.service(ROUTER.node) is None
    assert chain.name_head("tiny") is None
    assert chain.name_alias("tiny", "stable") is None
    page = chain.events(chain.start(), 10)
    assert (page.events, page.more) == ((), False)
    assert page.through == chain.finalized().number


def blocks_have_numbers_and_times(scene: Scene) -> None:
    before = scene.chain.finalized()
    scene.rig.skip(100)
    scene.rig.mine(3)
    after = scene.chain.finalized()
    assert after.number == before.number + 3
    assert after.time_s >= before.time_s + 100
    assert scene.chain.block_at(before.number) == before
    with pytest.raises(ChainUnreachable):
        scene.chain.block_at(after.number + 1)


def events_come_in_pages_of_whole_blocks(scene: Scene) -> None:
    for amount in (5, 6, 7):
        scene.deposited(ACCOUNT, amount)
        scene.rig.mine()
    deposits = [Deposited(number, ACCOUNT, amount) for number, amount in ((1, 5), (2, 6), (3, 7))]
    page = scene.chain.events(scene.chain.start(), 2)
    assert [event for _, event in page.events] == deposits[:2]
    assert page.more
    cursor = EventCursor.read(page.cursor.packed())
    rest = scene.rig.client(None).events(cursor, 2)
    assert [event for _, event in rest.events] == deposits[2:]
    assert not rest.more
    assert rest.through == scene.chain.finalized().number
    assert scene.chain.events(rest.cursor, 2).events == ()
    numbers = [number for number, _ in (*page.events, *rest.events)]
    assert numbers == sorted(set(numbers))
    assert page.events[-1][0] <= page.through < rest.events[0][0]


def a_block_s_events_are_never_parted(scene: Scene) -> None:
    for amount in (5, 6, 7):
        scene.chain.deposit(ACCOUNT, amount)
    scene.rig.mine()
    page = scene.chain.events(scene.chain.start(), 1)
    assert [event.number for _, event in page.events if isinstance(event, Deposited)] == [1, 2, 3]


# Sending


def who_has_no_key_sends_nothing(scene: Scene) -> None:
    viewer = scene.rig.client(None)
    assert viewer.sender() is None
    with pytest.raises(NoKey):
        viewer.deposit(ACCOUNT, 5)
    assert viewer.maintain() == 0


def who_has_no_coin_sends_nothing(scene: Scene) -> None:
    poor = scene.rig.client(POOR)
    assert poor.coin(POOR.node) == 0
    with pytest.raises(NoFunds):
        poor.deposit(ACCOUNT, 5)


def what_the_contract_refuses_is_not_sent(scene: Scene) -> None:
    has = scene.chain.coin(OWNER.node)
    with pytest.raises(Reverted) as refused:
        scene.chain.deposit(ACCOUNT, 4)
    assert refused.value.reason == "too little"
    scene.rig.mine()
    assert scene.chain.coin(OWNER.node) == has
    assert scene.chain.maintain() == 0


def the_same_is_under_way_once(scene: Scene) -> None:
    certified, members = scene.finalized(1, 1)
    first = scene.chain.submit_checkpoint(certified, members)
    assert scene.chain.submit_checkpoint(certified, members) == first
    assert scene.chain.status(first).state is TxState.PENDING
    scene.done(first)
    with pytest.raises(Reverted) as refused:
        scene.chain.submit_checkpoint(certified, members)
    assert refused.value.reason == "old"


def a_later_checkpoint_takes_the_place_of_one_that_waits(scene: Scene) -> None:
    scene.submitted(1, 1)
    earlier = scene.chain.submit_checkpoint(*scene.finalized(1, 2))
    certified, members = scene.finalized(1, 3)
    later = scene.chain.submit_checkpoint(certified, members)
    scene.done(later)
    scene.chain.maintain()
    assert scene.chain.status(earlier).state is TxState.FAILED
    latest = scene.chain.latest_checkpoint()
    assert latest is not None
    assert (latest.epoch, latest.height, latest.sequence) == (1, 3, 2)
    assert scene.chain.maintain() == 0


def each_deposit_is_one_of_its_own(scene: Scene) -> None:
    first, second = scene.chain.deposit(ACCOUNT, 5), scene.chain.deposit(ACCOUNT, 5)
    assert first != second
    scene.rig.mine()
    assert scene.chain.deposits() == 2


def a_revert_in_a_block_is_told(scene: Scene) -> None:
    one, other = scene.chain, scene.rig.client(ROUTER)
    certified, members = scene.finalized(1, 1)
    sent = [(chain, chain.submit_checkpoint(certified, members)) for chain in (one, other)]
    scene.rig.mine()
    for chain, _ in sent:
        chain.maintain()
    states = [chain.status(tx).state for chain, tx in sent]
    assert sorted(state.value for state in states) == ["failed", "final"]
    for chain, tx in sent:
        if chain.status(tx).state is TxState.FAILED:
            assert "old" in chain.status(tx).reason
            with pytest.raises(TransactionFailed):
                chain.wait(tx, 0)


def what_was_never_sent_is_not_known(scene: Scene) -> None:
    with pytest.raises(TransactionFailed):
        scene.chain.status(NOWHERE)


# Checkpoints


def headers_are_accepted_in_order(scene: Scene) -> None:
    first = scene.submitted(1, 2)
    kept = scene.chain.accepted(scene.digest(first))
    assert kept is not None
    assert (kept.epoch, kept.height, kept.sequence) == (1, 2, 1)
    assert scene.chain.latest_checkpoint() == kept
    with pytest.raises(Reverted) as refused:
        scene.chain.submit_checkpoint(*scene.finalized(1, 1))
    assert refused.value.reason == "old"
    second = scene.submitted(2, 1)
    names = [scene.digest(certified) for certified in (first, second)]
    accepted = [event for event in scene.events() if isinstance(event, Accepted)]
    assert accepted == [Accepted(1, 2, names[0]), Accepted(2, 1, names[1])]


def too_few_signatures_are_refused(scene: Scene) -> None:
    header = scene.book.header(1, 1, root_of(COMMITTEE))
    with pytest.raises(Reverted) as refused:
        scene.chain.submit_checkpoint(*finalized(scene.domain, header, COMMITTEE, range(2)))
    assert refused.value.reason == "quorum"


def a_header_is_usable_after_its_window(scene: Scene) -> None:
    digest = scene.digest(scene.submitted(1, 1))
    assert not scene.chain.usable(digest)
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    assert scene.chain.usable(digest)


def a_contradiction_stops_it_all(scene: Scene) -> None:
    first = scene.submitted(1, 1)
    other, members = scene.finalized(1, 1, scene.book.credited(ACCOUNT, balance=1))
    scene.done(scene.chain.challenge(first, other, members))
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    assert not scene.chain.usable(scene.digest(first))
    with pytest.raises(Reverted) as refused:
        scene.chain.submit_checkpoint(*scene.finalized(1, 2))
    assert refused.value.reason == "halted"


# The registry


def nodes_come_and_go(scene: Scene) -> None:
    node = ORACLES[0]
    scene.registered(node, 500, Role.ORACLE | Role.MINER)
    scene.done(scene.chain.add_stake(node.node, 20))
    record = scene.chain.node(node.node)
    assert record is not None
    assert (record.owner, record.roles, record.stake, record.jailed) == (OWNER.node, 6, 520, False)
    scene.done(scene.chain.begin_unbonding(node.node))
    with pytest.raises(Reverted) as refused:
        scene.chain.finish_unbonding(node.node)
    assert refused.value.reason == "too soon"
    scene.rig.skip(TERMS.unbonding_s)
    scene.rig.mine()
    scene.done(scene.chain.finish_unbonding(node.node))
    told = [(event.roles, event.stake) for event in scene.events() if isinstance(event, NodeChanged)]
    assert told == [(6, 500), (6, 520), (0, 520), (0, 0)]


def a_key_is_replaced(scene: Scene) -> None:
    old, new = ORACLES[:2]
    scene.registered(old)
    consent = new.sign(typed_digest(scene.domain, Consent(new.node, OWNER.node)))
    scene.done(scene.chain.rotate(old.node, new.node, consent))
    assert scene.chain.node(old.node) is None
    record = scene.chain.node(new.node)
    assert record is not None
    assert record.stake == 500


def a_committee_is_drawn(scene: Scene) -> None:
    for node in ORACLES:
        scene.registered(node)
    scene.submitted(1, 1)
    scene.rig.mine(8)
    assert scene.chain.undrawn() is None, "the seed block is not past"
    scene.rig.mine()
    due = scene.chain.undrawn()
    assert due is not None
    assert (due.epoch, due.candidates) == (3, tuple(sorted(node.node for node in ORACLES)))
    scene.done(scene.chain.draw(due))
    assert scene.chain.undrawn() is None
    (drawn,) = [event for event in scene.events() if isinstance(event, Drawn)]
    assert drawn.epoch == 3
    assert len(set(drawn.members)) == 4
    assert set(drawn.members) <= {node.node for node in ORACLES}


def evidence_costs_the_guilty(scene: Scene) -> None:
    node = ORACLES[0]
    scene.registered(node)

    def vote(header: bytes) -> Statement:
        digest = statement_digest(scene.domain, StatementKind.VOTE, 1, 1, header)
        return Statement(StatementKind.VOTE, 1, 1, header, node.sign(digest))

    evidence = ConflictingStatements(vote(keccak(b"a")), vote(keccak(b"b")))
    name = evidence_id(scene.domain, node.node, evidence)
    assert not scene.chain.slashed(name)
    scene.done(scene.chain.slash(evidence, ACCOUNT))
    assert scene.chain.slashed(name)
    record = scene.chain.node(node.node)
    assert record is not None
    assert (record.stake, record.jailed) == (250, True)
    with pytest.raises(Reverted) as refused:
        scene.chain.slash(evidence, OTHER)
    assert refused.value.reason == "slashed"
    same = ConflictingStatements(evidence.first, evidence.first)
    with pytest.raises(Reverted) as refused:
        scene.chain.slash(same, OTHER)
    assert refused.value.reason == "conflict"


# Money


def money_comes_in_and_goes_out(scene: Scene) -> None:
    has = scene.chain.coin(OWNER.node)
    scene.deposited(ACCOUNT, 50)
    assert scene.chain.coin(OWNER.node) <= has - 150
    assert scene.chain.deposited(1) == (ACCOUNT, 50)
    scene.book = scene.book.credited(ACCOUNT, balance=-20, withdrawable=20)
    certified = scene.submitted(1, 1)
    header, proof = certified.header, scene.book.prove(Section.ACCOUNTS, ACCOUNT)
    assert header is not None
    with pytest.raises(Reverted) as refused:
        scene.chain.withdraw(header, proof)
    assert refused.value.reason == "not usable"
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    before = scene.chain.coin(ACCOUNT)
    scene.done(scene.chain.withdraw(header, proof))
    assert scene.chain.coin(ACCOUNT) == before + 60
    assert scene.chain.paid(ACCOUNT) == 20
    with pytest.raises(Reverted) as refused:
        scene.chain.withdraw(header, proof)
    assert refused.value.reason == "nothing to pay"


def all_goes_back_when_the_committee_is_dead(scene: Scene) -> None:
    scene.deposited(ACCOUNT, 50)
    certified = scene.submitted(1, 1)
    scene.done(scene.chain.deposit(OTHER, 30))
    header, proof = certified.header, scene.book.prove(Section.ACCOUNTS, ACCOUNT)
    assert header is not None
    with pytest.raises(Reverted) as refused:
        scene.chain.exit(header, ZERO_DIGEST, proof)
    assert refused.value.reason == "alive"
    scene.rig.skip(TERMS.dead_s + 60)
    scene.rig.mine()
    assert scene.chain.dead()
    before = [scene.chain.coin(account) for account in (ACCOUNT, OTHER)]
    scene.done(scene.chain.exit(header, ZERO_DIGEST, proof))
    scene.done(scene.chain.refund(2, header, ZERO_DIGEST))
    assert [scene.chain.coin(account) for account in (ACCOUNT, OTHER)] == [before[0] + 150, before[1] + 90]
    assert scene.chain.exited(ACCOUNT)
    assert scene.chain.deposited(2) is None
    for again, reason in (
        (lambda: scene.chain.exit(header, ZERO_DIGEST, proof), "exited"),
        (lambda: scene.chain.refund(2, header, ZERO_DIGEST), "no deposit"),
        (lambda: scene.chain.refund(1, header, ZERO_DIGEST), "taken in"),
        (lambda: scene.chain.submit_checkpoint(*scene.finalized(1, 2)), "halted"),
        (lambda: scene.chain.deposit(ACCOUNT, 9), "dead"),
    ):
        with pytest.raises(Reverted) as refused:
            again()
        assert refused.value.reason == reason


def all_goes_back_where_no_header_ever_came(scene: Scene) -> None:
    scene.done(scene.chain.deposit(ACCOUNT, 30))
    scene.rig.skip(TERMS.dead_s + 60)
    scene.rig.mine()
    scene.done(scene.chain.refund(1, None, ZERO_DIGEST))
    assert scene.chain.deposited(1) is None


# Questions and names


def a_question_is_asked_answered_and_paid(scene: Scene) -> None:
    router = scene.rig.client(ROUTER)
    scene.done(router.serve(InboxService(b"k" * 32, 7)), router)
    assert scene.chain.service(ROUTER.node) == InboxService(b"k" * 32, 7)
    question = _question(scene)
    scene.done(scene.chain.ask(question))
    open_one = scene.chain.question(1)
    assert open_one is not None
    assert (open_one.asker, open_one.fee, open_one.answered, open_one.sealed) == (OWNER.node, 9, False, b"")
    order, result, outcome = _task(scene.domain)
    answer = Answer(1, Digest(order.session), 1, 0, b"answer")
    scene.done(router.answer(answer), router)
    scene.book = scene.book.decided(outcome)
    certified = scene.submitted(1, 1)
    assert certified.header is not None
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    has = scene.chain.coin(ROUTER.node)
    shown = AnswerProof(1, certified.header, outcome, scene.book.prove_outcome(0), order, result)
    scene.done(scene.chain.prove_answer(shown))
    assert scene.chain.coin(ROUTER.node) == has + 9
    assert scene.chain.question(1) is None
    page = scene.chain.inbox(scene.chain.start(), 100, ROUTER.node)
    asked, answered, proved = page.items
    assert isinstance(asked, Question)
    assert (asked.number, asked.asker, asked.sealed, asked.reply_key) == (1, OWNER.node, b"sealed", b"r" * 32)
    assert answered == answer
    assert (proved.number, getattr(proved, "fee", None)) == (1, 9)
    assert scene.chain.inbox(scene.chain.start(), 100, ACCOUNT).items == ()


def an_unanswered_question_is_taken_back(scene: Scene) -> None:
    router = scene.rig.client(ROUTER)
    scene.done(router.serve(InboxService(b"k" * 32, 0)), router)
    scene.done(scene.chain.ask(_question(scene)))
    with pytest.raises(Reverted) as refused:
        scene.chain.reclaim(1)
    assert refused.value.reason == "too soon"
    scene.rig.skip(1_000)
    scene.rig.mine()
    scene.done(scene.chain.reclaim(1))
    assert scene.chain.question(1) is None


def the_head_of_a_name_is_brought(scene: Scene) -> None:
    scene.book = scene.book.named("tiny", OWNER.node, 3, "stable")
    certified = scene.submitted(1, 1)
    assert certified.header is not None
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    proof = scene.book.prove(Section.NAMES, b"tiny")
    scene.done(scene.chain.prove_name(certified.header, proof))
    model = Digest(keccak(b"tiny\x03"))
    assert scene.chain.name_head("tiny") == (3, keccak(model))
    assert scene.chain.name_alias("tiny", "stable") == model
    with pytest.raises(Reverted) as refused:
        scene.chain.prove_name(certified.header, proof)
    assert refused.value.reason == "old"


def _question(scene: Scene) -> Question:
    fields: dict[str, Any] = {"prompt": Digest(keccak(b"prompt")), "model": ZERO_DIGEST, "reply_key": b"r" * 32}
    deadline_s = scene.chain.finalized().time_s + 900
    return Question(0, OWNER.node, ROUTER.node, deadline_s=deadline_s, fee=9, sealed=b"sealed", **fields)


def _task(domain: Domain) -> tuple[TaskOrder, LaneResult, Outcome]:
    order = TaskOrder(keccak(b"session"), 1, 1, keccak(b"prompt"), bytes(32), bytes(32), 9, 9)
    result = LaneResult(typed_digest(domain, order), order.prompt, keccak(b"model"), bytes(32), keccak(b"chain"), 7)
    return order, result, Outcome(order.session, 1, 0, Verdict.OK, typed_digest(domain, result), 7, 1, 5)


CHECKS: tuple[Check, ...] = (
    nothing_has_happened,
    blocks_have_numbers_and_times,
    events_come_in_pages_of_whole_blocks,
    a_block_s_events_are_never_parted,
    who_has_no_key_sends_nothing,
    who_has_no_coin_sends_nothing,
    what_the_contract_refuses_is_not_sent,
    the_same_is_under_way_once,
    a_later_checkpoint_takes_the_place_of_one_that_waits,
    each_deposit_is_one_of_its_own,
    a_revert_in_a_block_is_told,
    what_was_never_sent_is_not_known,
    headers_are_accepted_in_order,
    too_few_signatures_are_refused,
    a_header_is_usable_after_its_window,
    a_contradiction_stops_it_all,
    nodes_come_and_go,
    a_key_is_replaced,
    a_committee_is_drawn,
    evidence_costs_the_guilty,
    money_comes_in_and_goes_out,
    all_goes_back_when_the_committee_is_dead,
    all_goes_back_where_no_header_ever_came,
    a_question_is_asked_answered_and_paid,
    an_unanswered_question_is_taken_back,
    the_head_of_a_name_is_brought,
)
