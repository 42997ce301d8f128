"""What every chain behind the seam does, the real one and the model: checks over a rig, which each side brings."""

import pytest

from chain.api import (
    EventCursor,
    Role,
    TxState,
)
from chain.errors import ChainUnreachable, NoFunds, NoKey, Reverted, TransactionFailed
from protocol.committee.election import committee_root
from protocol.core.ids import Digest
from protocol.core.signing import keccak, typed_digest
from protocol.light.evm import read_block
from protocol.messages.chain import Accepted, Consent, Deposited, Drawn, NodeChanged
from protocol.messages.committee import Statement, StatementKind, statement_digest
from protocol.messages.evidence import ConflictingStatements
from protocol.results.evidence import evidence_id
from tests.unit.chain.conformance_money import MONEY_CHECKS
from tests.unit.chain.conformance_scene import (
    ACCOUNT,
    COMMITTEE,
    NOWHERE,
    ORACLES,
    OTHER,
    OWNER,
    POOR,
    ROUTER,
    TERMS,
    Check,
    Scene,
)
from tests.unit.chain.small_ledger import finalized, root_of

# Reading


def nothing_has_happened(scene: Scene) -> None:
    chain = scene.chain
    assert chain.latest_checkpoint() is None
    first = chain.committee()
    assert (first.epoch, first.root) == (1, committee_root(tuple(member.node for member in COMMITTEE)))
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


def blocks_give_their_headers(scene: Scene) -> None:
    scene.rig.mine(3)
    block = scene.chain.finalized()
    header = scene.chain.block_header(block.hash)
    assert keccak(header) == block.hash
    read = read_block(header)
    assert (read.number, read.time_s) == (block.number, block.time_s)
    with pytest.raises(ChainUnreachable, match="no block 0x99"):
        scene.chain.block_header(Digest(NOWHERE))


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
    named, header = scene.chain.committee(), second.header
    assert header is not None
    assert (named.epoch, named.root) == (3, header.next_committee)
    assert named.time_s == scene.chain.finalized().time_s


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


CHECKS: tuple[Check, ...] = (
    nothing_has_happened,
    blocks_have_numbers_and_times,
    blocks_give_their_headers,
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
    *MONEY_CHECKS,
)
