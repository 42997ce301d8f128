"""The ledger under anything that anybody may bring: random blocks and turns, and after each of them what is promised.

S5: OK only where a correct oracle said so. S6: one outcome a lane. S7: value is conserved. S8: no more than the caps,
only signed orders, lane 0 only to the last acked token. S17: everybody comes to the same state, by way of a snapshot as
well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.core.signing import keccak, scheme
from protocol.ledger import Section
from protocol.ledger.accounts import Account
from protocol.ledger.lanes import Lane
from protocol.ledger.sessions import Session
from protocol.messages.results import Content, Observation, Opening, Outcome, Verdict
from protocol.results.mountain import outcome_leaf, prove, verify_proof
from tests.unit.protocol.ledger_at_hand import (
    CLIENT,
    GENESIS,
    HASHES,
    MINERS,
    ORACLES,
    OTHER_CLIENT,
    OTHER_ROUTER,
    OWNER,
    PARAMS,
    ROUTER,
    STRANGER,
    Books,
    Part,
    close_of,
    enlist_of,
    failure,
    name_of,
    ok,
    opening_of,
    order_of,
    report_of,
    session_of,
    signed_session,
    total_wei,
    withdraw_of,
)

CAP, ORDER_CAP = 900, 500
CLIENTS = (CLIENT, OTHER_CLIENT)
SIGNERS = (CLIENT, OTHER_CLIENT, STRANGER)
PAYEES = (*MINERS, *ORACLES[:4], ROUTER, OTHER_ROUTER, OWNER)
FAULTY = 3
"""The oracle that may say anything; the others say what is right, if they speak."""

Place = tuple[bytes, int, int]
"""Session, task and lane."""
Words = dict[int, dict[int, list[Observation]]]
"""What oracles say, by home epoch and oracle."""
FAILURES = (Verdict.LATE, Verdict.UNREVEALED, Verdict.MISMATCH)

some = st.sampled_from
rarely = some([False, False, False, True])
places = st.integers(0, 3)
tasks = st.integers(1, 3)
SESSIONS = [
    session_of(client, number, lanes=2, cap_wei=cap, audits=audits)
    for client in CLIENTS
    for number, cap, audits in ((1, CAP, False), (2, GENESIS.allocation[0][1], True))
]
"""Two of each client, of which the second takes all that it has."""
sessions = some(SESSIONS[:1] + SESSIONS)


@st.composite
def parts(draw: Any) -> tuple[Part, ...]:
    """One or two segments of 100 tokens, acknowledged by somebody up to somewhere."""
    middle = draw(some([None, 40]))
    ends = [100] if middle is None else [middle, 100]
    starts = [0, *ends[:-1]]
    return tuple(
        Part(
            draw(some(MINERS)),
            start,
            draw(some([1, 7, 11])),
            draw(some([None, start, (start + end) // 2, end])),
            draw(some([ROUTER, OTHER_ROUTER])),
            draw(some(SIGNERS)),
        )
        for start, end in zip(starts, ends, strict=True)
    )


@st.composite
def openings(draw: Any) -> Opening:
    """Of some lane, not always what its client signed."""
    opening, lane = draw(sessions), draw(st.integers(0, 1))
    order = order_of(opening, draw(tasks), draw(st.integers(1, 3)), cap_wei=draw(some([ORDER_CAP, 10_000])))
    client = draw(some([CLIENT if opening.client == CLIENT.node_id else OTHER_CLIENT] * 3 + [STRANGER]))
    segments = draw(parts())
    if lane:
        segments = tuple(Part(part.miner, part.start, part.price) for part in segments)
    return opening_of(order, segments, lane=lane, client=client)


class Walk(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._signing = scheme(HASHES)
        self._signing.__enter__()
        self.books = Books()
        self.outcomes: dict[Place, Outcome] = {}
        self.leaves: list[Outcome] = []
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.right: dict[Place, Opening] = {}
        """The true result of a lane: the first that anybody brought."""
        self.truth: dict[Place, tuple[int, Observation]] = {}
        """What correct oracles say of a lane, and its home epoch."""
        self.spoken: set[tuple[int, Place]] = set()
        """The lanes of which an oracle gave its one value."""
        self.acked: dict[Place, dict[tuple[bytes, int], int]] = {}
        """What clients really acknowledged, by lane, and by order and start of the segment."""
        self.orders: dict[tuple[bytes, int, int], set[int]] = {}
        """The caps that clients signed for a task, by its home epoch."""
        self.withdrawn: dict[bytes, int] = {}

    def teardown(self) -> None:
        self._signing.__exit__(None, None, None)

    # What happens

    def lane_of(self, opening: Opening) -> Place:
        """Which lane an opening is of."""
        return opening.order.session, opening.order.task, opening.lane

    @rule(place=places, home=st.integers(0, 2), session=sessions, signer=some([*CLIENTS, *CLIENTS, STRANGER]))
    def reserve(self, place: int, home: int, session: Any, signer: Any) -> None:
        """A session is brought."""
        self.bring(place, home, Content(sessions=(signed_session(session, signer),)))

    @rule(place=places, session=sessions, forged=rarely)
    def close(self, place: int, session: Any, forged: bool) -> None:
        """A session is closed."""
        client = CLIENT if session.client == CLIENT.node_id else OTHER_CLIENT
        self.bring(place, 0, Content(closes=(close_of(session, STRANGER if forged else client),)))

    @rule(place=places, account=some([*CLIENTS, MINERS[0], ROUTER]), forged=rarely, total=st.integers(0, 3_000))
    def withdraw(self, place: int, account: Any, forged: bool, total: int) -> None:
        """Something is to leave."""
        self.bring(place, 0, Content(withdrawals=(withdraw_of(total, account, STRANGER if forged else account),)))

    @rule(opening=openings(), speakers=st.sets(places, min_size=1), wrong=st.booleans(), home=st.integers(0, 2))
    def observe(self, opening: Opening, speakers: set[int], wrong: bool, home: int) -> None:
        """Oracles speak of a lane: correct ones of what is true of it, the faulty one as it likes, at any home."""
        lane, value = self.lane_of(opening), ok(opening)
        self.right.setdefault(lane, opening)
        self.truth.setdefault(lane, (opening.order.home_epoch, value))
        said = self.words([lane], speakers - {FAULTY} if wrong else speakers)
        if wrong and FAULTY in speakers:
            other = value if value != self.truth[lane][1] else failure(opening.order, Verdict.MISMATCH, lane[2])
            self.block([(FAULTY, Content(observations=(other,)))] * 3, home)
        self.say(said)

    @rule(
        order=st.builds(order_of, sessions, tasks, st.integers(1, 3)), speakers=st.sets(places), verdict=some(FAILURES)
    )
    def fail(self, order: Any, speakers: set[int], verdict: Verdict) -> None:
        """Oracles say that a lane has no result."""
        lane = (order.session, order.task, 0)
        self.truth.setdefault(lane, (order.home_epoch, failure(order, verdict, miner=MINERS[1])))
        self.say(self.words([lane], speakers))

    def words(self, lanes: Sequence[Place], speakers: Iterable[int]) -> Words:
        """What these oracles say of lanes in the batches of a home epoch: what is true, each once for ever."""
        words: Words = {}
        for place in speakers:
            for lane in lanes:
                home_epoch, value = self.truth[lane]
                if home_epoch in self.books.state.homes and (place, lane) not in self.spoken:
                    self.spoken.add((place, lane))
                    words.setdefault(home_epoch, {}).setdefault(place, []).append(value)
        return words

    def say(self, words: Words) -> None:
        """A block for each home epoch."""
        for home_epoch, by in sorted(words.items()):
            self.block(
                {at: Content(observations=tuple(said)) for at, said in by.items()}, self.books.epoch - home_epoch
            )

    @rule(
        session=sessions,
        task=tasks,
        lanes=st.sets(st.integers(0, 1), min_size=1),
        segments=parts(),
        cap=some([ORDER_CAP, 10_000]),
        late=st.booleans(),
    )
    def serve(self, session: Any, task: int, lanes: set[int], segments: tuple[Part, ...], cap: int, late: bool) -> None:
        """As it is meant to go: reserved, observed, opened, before the outcome or after it."""
        client = CLIENT if session.client == CLIENT.node_id else OTHER_CLIENT
        self.bring(3, 0, Content(sessions=(signed_session(session, client),)))
        order = order_of(session, task, self.books.epoch, cap_wei=cap)
        shown = []
        for lane in sorted(lanes):
            made = tuple(replace(each, acked=None if lane else each.acked, acker=client) for each in segments)
            opening = opening_of(order, made, lane=lane, client=client)
            name = self.lane_of(opening)
            opening = self.right.setdefault(name, opening)
            self.truth.setdefault(name, (opening.order.home_epoch, ok(opening)))
            shown.append(opening)
            self.learn(opening)
        names = [self.lane_of(opening) for opening in shown]
        if not late:
            self.say(self.words(names, [0]))
            self.bring(0, 0, Content(openings=tuple(shown)))
        self.say(self.words(names, range(3)))
        self.bring(1, 0, Content(openings=tuple(shown)))

    @rule(opening=openings(), true=st.booleans(), place=places, home=st.integers(0, 2), segments=parts())
    def open(self, opening: Opening, true: bool, place: int, home: int, segments: tuple[Part, ...]) -> None:
        """An opening is brought: any, or one of a lane's true result, maybe with other acks."""
        lane = self.lane_of(opening)
        if true and lane in self.right:
            opening = self.reopened(self.right[lane], segments)
        self.learn(opening)
        self.bring(place, home, Content(openings=(opening,)))

    def reopened(self, true: Opening, segments: tuple[Part, ...]) -> Opening:
        """The same result, with acks of the same segments up to other tokens."""
        keys = {miner.node_id: miner for miner in MINERS} | {ROUTER.node_id: ROUTER, OTHER_ROUTER.node_id: OTHER_ROUTER}
        ends = [*(segment.start_index for segment in true.segments[1:]), true.count]
        client = CLIENT if self.client_of(true) == CLIENT.node_id else OTHER_CLIENT
        made = []
        for at, (segment, end) in enumerate(zip(true.segments, ends, strict=True)):
            wish = segments[min(at, len(segments) - 1)].acked
            acked = None if wish is None or true.lane else max(segment.start_index, min(wish, end))
            miner, router = keys[segment.miner], keys[segment.router]
            made.append(Part(miner, segment.start_index, segment.price_wei, acked, router, client))
        signer = client if true.signature[:20] == client.node_id else STRANGER
        return opening_of(true.order, made, true.count, true.lane, signer)

    def client_of(self, opening: Opening) -> bytes:
        """Whose session it is."""
        return next(session.client for session in SESSIONS if name_of(session) == opening.order.session)

    def learn(self, opening: Opening) -> None:
        """Remember what its client really signed of it."""
        client, lane = self.client_of(opening), self.lane_of(opening)
        if opening.signature[:20] != client:
            return
        order = opening.order
        self.orders.setdefault((order.session, order.task, order.home_epoch), set()).add(order.cap_wei)
        for segment in opening.segments:
            if segment.ack is not None and segment.ack.signature[:20] == client:
                by = self.acked.setdefault(lane, {})
                name = (keccak(segment.miner + segment.router), segment.start_index)
                by[name] = max(by.get(name, 0), segment.ack.index)

    @rule(place=places, miner=some(MINERS), number=st.integers(1, 4), speed=some([50, 60]), signer=some(MINERS))
    def enlist(self, place: int, miner: Any, number: int, speed: int, signer: Any) -> None:
        """A miner enlists."""
        self.bring(place, 0, Content(enlistments=(enlist_of(miner, number, tokens_per_second=speed, signer=signer),)))

    @rule(speakers=st.sets(places), miner=some(MINERS), test=st.integers(0, 3), passed=st.booleans())
    def report(self, speakers: set[int], miner: Any, test: int, passed: bool) -> None:
        """A test is reported."""
        self.block({place: Content(reports=(report_of(miner, test, passed=passed),)) for place in speakers})

    @rule(place=places, junk=st.binary(max_size=20))
    def junk(self, place: int, junk: bytes) -> None:
        """Content that is none."""
        self.block({place: junk})

    @rule(epochs=some([0, 0, 0, 0, 0, 1, 1, 6]))
    def turn(self, epochs: int) -> None:
        """Epochs end: more seldom than a walk would choose to, and now and then many."""
        books = self.books
        for _ in range(epochs):
            committee = books._committee(books.epoch + 1)
            back = books.ledger.restore(books.state.pack())
            assert back == books.state
            turned = books.ledger.turn(books.state, committee)
            assert turned.pack() == books.ledger.turn(back, committee).pack()
            books.state = turned
            self.block({})

    def bring(self, place: int, home: int, content: Content) -> None:
        """One oracle brings something, in a batch of this home epoch or of one before."""
        self.block({place: content}, home)

    def block(self, said: Any, home: int = 0) -> None:
        """A block, executed twice: on the state, and on the state as it comes back from a snapshot."""
        books = self.books
        before = books.state
        body = books.body(said, max(1, books.epoch - home))
        first, again = (
            books.ledger.execute(before, body),
            books.ledger.execute(books.ledger.restore(before.pack()), body),
        )
        assert first.pack() == again.pack()
        assert first.roots == again.roots
        books.state = first
        self.enter()

    def enter(self) -> None:
        """What a block decided."""
        state = self.books.state
        self.nodes.update(dict(state.nodes))
        for outcome in state.decided:
            lane = (outcome.session, outcome.task, outcome.lane)
            assert lane not in self.outcomes, "S6: a lane has one outcome"
            self.outcomes[lane] = outcome
            self.leaves.append(outcome)
        assert state.mountain.count == len(self.leaves)

    # What holds

    @initialize()
    def begin(self) -> None:
        """Nothing has happened."""
        assert total_wei(self.books.state) == GENESIS.allocated()

    @invariant()
    def value_is_conserved(self) -> None:
        """S7."""
        accounts = [Account.read(data) for _, data in self.books.state.tree(Section.ACCOUNTS).items()]
        amounts = [
            amount
            for account in accounts
            for amount in (account.balance_wei, account.reserved_wei, account.withdrawable_wei)
        ]
        assert min(amounts) >= 0
        assert sum(amounts) == GENESIS.allocated()

    @invariant()
    def what_is_reserved_is_what_the_sessions_hold(self) -> None:
        """S7, by parts; and S8 for sessions."""
        held: dict[bytes, int] = {}
        for _, data in self.books.state.tree(Section.SESSIONS).items():
            session = Session.read(data)
            assert 0 <= session.spent_wei <= session.cap_wei
            held[session.client] = held.get(session.client, 0) + session.cap_wei - session.spent_wei
        for key in (*CLIENTS, *PAYEES):
            assert self.books.account(key).reserved_wei == held.get(key.node_id, 0)

    @invariant()
    def nobody_is_paid_for_what_was_not_signed(self) -> None:
        """S8 for lanes and orders."""
        state = self.books.state
        by_order: dict[tuple[bytes, int, int], int] = {}
        for section in (Section.LANES_0, Section.LANES_1, Section.LANES_2):
            for key, data in state.tree(section).items():
                lane, name = Lane.read(data), (key[:32], int.from_bytes(key[32:36], "big"), key[36])
                order = (*name[:2], lane.home_epoch)
                by_order[order] = by_order.get(order, 0) + lane.paid_wei
                if not lane.paid_wei:
                    continue
                assert lane.outcome is not None
                assert lane.outcome.verdict is Verdict.OK
                assert self.orders.get(order), "an order that its client signed"
                if name[2] == 0:
                    acked = self.acked.get(name, {})
                    most = sum(
                        max(0, acked.get((keccak(each.miner + each.router), each.start_index), 0) - each.start_index)
                        * each.price_wei
                        for each in lane.claims[0].segments
                        if each.price_wei <= 10
                    )
                    assert lane.paid_wei <= most, "only to the last acked token"
        for order, paid in by_order.items():
            assert paid <= max(self.orders.get(order, {0}))

    @invariant()
    def outcomes_are_what_is_right(self) -> None:
        """S5: with one faulty oracle of four, an outcome is what correct ones said, or nobody's."""
        for lane, outcome in self.outcomes.items():
            home_epoch, value = self.truth[lane]
            if outcome.verdict is not Verdict.UNDECIDED:
                root = value.root if value.verdict is Verdict.OK else bytes(32)
                assert (outcome.home_epoch, outcome.verdict, outcome.root) == (home_epoch, value.verdict, root)

    @invariant()
    def withdrawals_only_rise(self) -> None:
        """Nobody's total ever falls."""
        for key in (*CLIENTS, *PAYEES):
            total = self.books.account(key).withdrawable_wei
            assert total >= self.withdrawn.get(key.node_id, 0)
            self.withdrawn[key.node_id] = total

    @invariant()
    def open_lanes_are_counted(self) -> None:
        """And bounded."""
        state = self.books.state
        counted: dict[tuple[int, bytes], int] = {}
        for _, data in state.tree(Section.OPEN).items():
            lane = Lane.read(data)
            opener = (lane.home_epoch, state.homes[lane.home_epoch][lane.opener])
            counted[opener] = counted.get(opener, 0) + 1
        assert counted == dict(state.opened)
        assert max(counted.values(), default=0) <= PARAMS.lanes_observed_max

    @invariant()
    def every_outcome_can_be_proved(self) -> None:
        """The latest one and the first."""
        for index in {0, len(self.leaves) - 1} if self.leaves else ():
            root, count = self.books.state.roots.results_root, len(self.leaves)
            proof = prove(index, count, self.nodes.__getitem__)
            assert verify_proof(root, outcome_leaf(self.leaves[index]), proof)


Walk.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


@pytest.mark.spec("LEDGER-CONSERVED.1", "OUTCOME-ONE.1", "LEDGER-CAP.1")
class TestWalk(Walk.TestCase):  # type: ignore[name-defined,misc]
    """Runs it."""
