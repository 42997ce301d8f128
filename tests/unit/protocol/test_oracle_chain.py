"""Four production oracles whose network settles on a chain: what they say of it, and what they send to it."""

from dataclasses import replace

import msgspec
import pytest

from protocol.committee.cut import Cut
from protocol.committee.storage import CHAIN, unpack_block
from protocol.core.codec import unpack
from protocol.light.evm import anchored_block
from protocol.messages.chain import NO_EVENTS, Accepted, ChainEvent, ChainWord, Drawn
from protocol.messages.committee import Statement, StatementKind, statement_digest
from protocol.messages.evidence import CommitteeNews, ConflictingStatements
from protocol.messages.handover import HandOver
from protocol.messages.results import Content
from protocol.roles.oracle import AnchorsSeen, ChainLost, ChainSeen, ContractSeen
from protocol.settlement.duty import RecordDraw, ReportEvidence, SubmitHeader
from tests.unit.protocol.chain_at_hand import (
    CONTRACTS,
    STRIDE,
    TrueChain,
    block,
    block_hash,
    block_header,
    changed,
    deposited,
)
from tests.unit.protocol.committee_at_hand import KEYS, keyed  # noqa: F401
from tests.unit.protocol.oracles_in_a_room import OracleHost, Room
from tests.unit.protocol.results_at_hand import CLIENT, PARAMS, genesis_of

CHAIN_PARAMS = replace(
    PARAMS, anchor_stride=STRIDE, epoch_blocks=16, checkpoint_ms=5_000, checkpoint_idle_ms=60_000, turn_ms=1_000
).validate()
GENESIS = replace(genesis_of(CHAIN_PARAMS), chain_id=1, allocation=(), contracts=CONTRACTS)


class Scene:
    """A room of oracles, and the chain that each of them watches."""

    def __init__(self, size: int = 4) -> None:
        self.chain = TrueChain()
        self.room = Room(GENESIS, size=size)
        self.deposits = 0
        self._next_ms = 0

    def see(self, host: OracleHost, chain: TrueChain | None = None) -> None:
        """An oracle's node reads on."""
        chain, seen = chain or self.chain, host.machine.chain
        after, events = seen.through, chain.page(seen.through, chain.height)
        if after < chain.height and not seen.full:
            host.tell(ChainSeen(after, chain.height, *events))

    def mine(self, *events: ChainEvent, blocks: int = STRIDE) -> None:
        """Some blocks with the events in the first of them; whoever is up sees them at once."""
        self.chain.mine(*events)
        for _ in range(blocks - 1):
            self.chain.mine()
        for host in self.room.hosts:
            if host.up:
                self.see(host)

    def deposit(self) -> None:
        """Somebody deposits, every two seconds."""
        if self.room.now_ms >= self._next_ms:
            self._next_ms = self.room.now_ms + 2_000
            self.deposits += 1
            self.mine(deposited(self.deposits, 1, CLIENT.node_id))

    def numbers(self) -> list[int]:
        """Where each oracle's ledger is anchored."""
        return [host.state.roots.anchor_number for host in self.room.hosts]

    def anchored(self, number: int, *places: int) -> bool:
        """Wait until they all are there."""
        hosts = [self.room.hosts[place] for place in places] or self.room.hosts
        return self.room.run(20_000, lambda: all(host.state.roots.anchor_number == number for host in hosts))

    def sent(self, kind: type) -> list[object]:
        """What oracles would have sent."""
        return [effect for host in self.room.hosts for effect in host.sent if isinstance(effect, kind)]


@pytest.mark.spec("CHAIN-SAY.1", "BATCH-CONTENT.1")
def test_a_deposit_comes_into_the_ledger_once() -> None:
    scene = Scene()
    scene.mine(deposited(1, 500, CLIENT.node_id))
    assert scene.anchored(4)
    assert [host.state.account(CLIENT.node_id).balance_wei for host in scene.room.hosts] == [500] * 4
    scene.mine(deposited(2, 70, CLIENT.node_id))
    assert scene.anchored(8)
    state = scene.room.hosts[2].state
    assert (state.account(CLIENT.node_id).balance_wei, state.roots.deposits) == (570, 2)
    scene.room.run(20_000)
    words = [word for place in range(4) for word in said_by(scene, place)]
    assert len(words) <= 8, "a word a boundary is enough"


def said_by(scene: Scene, place: int) -> list[ChainWord]:
    """All words that an oracle has brought into the blocks, in order."""
    found: list[ChainWord] = []
    for _, data in sorted(scene.room.hosts[0].load(CHAIN).items()):
        body = unpack_block(data).body
        batches = unpack(Cut, body, limit_bytes=1 << 20).batches if body else ()
        for signed in batches:
            if signed.batch.oracle == KEYS[place].node_id:
                found += unpack(Content, signed.content, limit_bytes=1 << 16).words
    return found


@pytest.mark.spec("CHAIN-SAY.1", "BATCH-CONTENT.1")
def test_words_that_do_not_follow_any_more_do_not_go_out() -> None:
    scene = Scene(size=7)
    old = ChainWord(0, (), 4, block(4).hash, NO_EVENTS)
    scene.mine(deposited(1, 5, CLIENT.node_id))
    assert scene.anchored(4)
    true = ChainWord(1, (), 8, block(8).hash, scene.room.hosts[0].state.chain.digest)  # type: ignore[union-attr]
    for place, word in ((0, old), (1, true), (5, true)):
        scene.room.hosts[place].machine.results.outbox.word(word)
    scene.room.run(5_000)
    assert old not in said_by(scene, 0), "the ledger has moved"
    assert said_by(scene, 1)[-1] == true
    assert said_by(scene, 5) == [], "it is no member"
    assert scene.numbers() == [4] * 7


@pytest.mark.spec("CHAIN-SAY.1")
def test_oracles_that_saw_different_blocks_find_together() -> None:
    scene = Scene()
    for number in range(1, 14):
        scene.chain.mine(deposited(number, 1, CLIENT.node_id))
    for host, through in zip(scene.room.hosts, (5, 8, 13, 0), strict=True):
        if through:
            host.tell(ChainSeen(0, through, *scene.chain.page(0, through)))
    assert scene.anchored(8) or scene.anchored(4), scene.numbers()
    for host in scene.room.hosts:
        scene.see(host)
    assert scene.anchored(12)
    assert scene.room.hosts[3].state.roots.deposits == 12


@pytest.mark.spec("CHAIN-APPLY.1")
def test_one_oracle_that_is_lied_to_moves_nothing() -> None:
    scene, false = Scene(), TrueChain()
    false.mine(deposited(1, 10**9, CLIENT.node_id))
    for _ in range(7):
        false.mine()
    scene.see(scene.room.hosts[0], false)
    scene.room.run(20_000)
    assert scene.numbers() == [0] * 4
    scene.chain.mine(deposited(1, 5, CLIENT.node_id))
    for _ in range(7):
        scene.chain.mine()
    for host in scene.room.hosts[1:]:
        scene.see(host)
    assert scene.anchored(8)
    assert [host.state.account(CLIENT.node_id).balance_wei for host in scene.room.hosts] == [5] * 4
    (note,) = [note for note in scene.room.hosts[0].notes if note.what == "oracle.chain"]
    assert "than f+1 oracles have" in str(note.fields)
    scene.chain.mine()
    scene.see(scene.room.hosts[0])
    assert scene.room.hosts[0].machine.chain.through == 9, "it reads on from the anchor"


@pytest.mark.spec("CHAIN-SAY.1")
def test_what_an_oracle_saw_is_read_again_after_a_crash() -> None:
    scene = Scene()
    scene.mine(deposited(1, 5, CLIENT.node_id))
    assert scene.anchored(4)
    host = scene.room.hosts[1]
    host.crash()
    scene.mine(deposited(2, 5, CLIENT.node_id))
    assert scene.anchored(8, 0, 2, 3), "three go on"
    host.start()
    assert host.machine.chain.cursor == block(host.state.roots.anchor_number)
    host.tell(ChainLost())
    scene.see(host)
    scene.mine(deposited(3, 5, CLIENT.node_id))
    assert scene.anchored(12)
    assert len({each.state.roots.ledger_root for each in scene.room.hosts}) == 1


@pytest.mark.spec("ANCHOR-HEADERS.1", "HANDOVER-KEPT.1")
def test_hand_overs_carry_the_block_that_their_header_anchors() -> None:
    scene = Scene()
    told, late = scene.room.hosts[:3], scene.room.hosts[3]

    def kept(host: OracleHost) -> HandOver | None:
        return host.machine.results.hand_overs.store.get(2)

    def step() -> bool:
        for host in told:
            host.tell(AnchorsSeen((b"nonsense", block_header(scene.chain.height // STRIDE * STRIDE))))
        scene.deposit()
        return all(kept(host) is not None for host in scene.room.hosts)

    assert scene.room.run(120_000, step)
    for host in told:
        hand_over = kept(host)
        assert hand_over is not None
        assert hand_over.certified.header is not None
        block_shown = anchored_block(hand_over.certified.header, hand_over.anchor)
        assert block_shown.time_s == 1_800_000_000 + block_shown.number > 1_800_000_000
        assert not host.machine.chain.knows(block_hash(scene.chain.height + STRIDE))
    bare = kept(late)
    assert bare is not None
    assert bare.certified.header is not None
    assert bare.anchor == b""
    header = block_header(bare.certified.header.anchor_number)
    late.tell(AnchorsSeen((header,)))
    assert kept(late) == msgspec.structs.replace(bare, anchor=header)
    late.crash()
    late.start()
    assert kept(late) == msgspec.structs.replace(bare, anchor=header), "it is durable"


def test_a_page_that_leaves_a_gap_is_refused_and_said() -> None:
    scene = Scene()
    host = scene.room.hosts[0]
    host.tell(ChainSeen(3, 9, (), ()))
    assert [note.what for note in host.notes] == ["oracle.chain"]
    assert host.machine.chain.through == 0


def test_where_nothing_settles_nothing_is_seen() -> None:
    room = Room()
    host = room.hosts[0]
    assert (host.machine.chain.through, host.machine.chain.full) == (0, True)
    for event in (ChainSeen(0, 9, (), (block(4),)), ChainLost(), ContractSeen(None, 3)):
        host.tell(event)
    room.run(10_000)
    assert (host.sent, host.notes) == ([], [])
    assert room.hosts[1].state.chain is None


# What is sent


@pytest.mark.spec("SETTLE-HEADER.1", "SETTLE-TURNS.1")
def test_the_committee_sends_its_newest_header_and_in_the_normal_case_once() -> None:
    scene = Scene()
    scene.mine(deposited(1, 5, CLIENT.node_id))
    assert scene.anchored(4)
    for host in scene.room.hosts:
        host.tell(ContractSeen(None, None))
    (first,) = scene.sent(SubmitHeader)
    assert isinstance(first, SubmitHeader)
    header = first.certified.header
    assert header is not None
    assert (header.epoch, header.anchor_number, first.members) == (1, 4, GENESIS.committee)
    done = accepts(first)
    for host in scene.room.hosts:
        host.tell(ContractSeen(done, None))
    scene.mine(done)
    assert scene.anchored(8)
    assert scene.room.hosts[0].state.chain is not None
    assert scene.room.hosts[0].state.chain.accepted == done
    scene.room.run(4_000)
    assert len(scene.sent(SubmitHeader)) == 1
    scene.mine(deposited(2, 5, CLIENT.node_id))
    scene.room.run(6_000)
    assert len(scene.sent(SubmitHeader)) > 1


def accepts(sent: SubmitHeader) -> Accepted:
    """The contract's word on a header that it was sent."""
    certificate = sent.certified.certificate
    return Accepted(certificate.epoch, certificate.height, certificate.header)


@pytest.mark.spec("CHAIN-COMMITTEE.1", "SETTLE-DRAW.1", "SETTLE-HEADER.1")
def test_a_drawn_committee_takes_over_and_goes_on() -> None:
    scene = Scene(size=7)
    room = scene.room
    members = tuple(key.node_id for key in KEYS[3:7])
    for host in room.hosts[:4]:
        host.tell(ContractSeen(None, 3))
    assert scene.sent(RecordDraw) == [] == scene.sent(SubmitHeader), "before anything is final"
    scene.mine(Drawn(3, members))
    assert scene.anchored(4, 0, 1, 2, 3)
    assert RecordDraw(3) in scene.sent(RecordDraw)
    room.watch = scene.deposit
    assert room.run(300_000, lambda: all(host.machine.simplex.committee.epoch >= 3 for host in room.hosts))
    assert {host.state.homes[3] for host in room.hosts} == {members}
    assert scene.sent(SubmitHeader), "hand-overs are due"
    before = room.hosts[6].state.roots.deposits
    assert room.run(60_000, lambda: room.hosts[6].state.roots.deposits > before + 1), "the new members go on"
    last = room.hosts[6].state
    assert last.account(CLIENT.node_id).balance_wei == last.roots.deposits


@pytest.mark.spec("SETTLE-EVIDENCE.1")
def test_an_oracle_that_equivocates_is_reported() -> None:
    scene = Scene()
    guilty = KEYS[3]
    scene.mine(changed(guilty.node_id, 4))
    assert scene.anchored(4)
    said = []
    for header in (b"\1" * 32, b"\2" * 32):
        digest = statement_digest(GENESIS.domain(), StatementKind.VOTE, 1, 9, header)
        said.append(Statement(StatementKind.VOTE, 1, 9, header, guilty.sign(digest)))
    for host in scene.room.hosts:
        host.tell(ContractSeen(None, None))
    conflict = ConflictingStatements(*said)
    news = CommitteeNews(CLIENT.node_id, scene.room.now_ms, conflicting_statements=(conflict,))
    scene.room.gossip(CLIENT, "committee", news)
    scene.room.run(9_000)
    reports = scene.sent(ReportEvidence)
    assert set(reports) == {ReportEvidence(guilty.node_id, conflict)}
    assert [host.machine.chain.evidence for host in scene.room.hosts] == [1] * 4
    crashed = scene.room.hosts[0]
    crashed.crash()
    crashed.start()
    assert crashed.machine.chain.evidence == 1, "it is durable"
    scene.mine(changed(guilty.node_id, 4, jailed=True))
    assert scene.anchored(8)
    reports = scene.sent(ReportEvidence)
    scene.room.run(9_000)
    assert scene.sent(ReportEvidence) == reports, "it is jailed"
