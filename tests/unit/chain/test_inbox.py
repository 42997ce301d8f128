"""The inbox: who asks and answers, what a proof must show, and where the fee goes."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from chain.artifacts import load_artifact
from protocol.core.ids import Digest
from protocol.core.signing import typed_digest
from protocol.messages.committee import Header
from protocol.messages.results import LaneResult, Outcome, Verdict
from protocol.messages.tasks import TaskOrder
from protocol.results.mountain import NO_OUTCOMES, Place, outcome_leaf, prove
from tests.unit.chain.contracts_at_hand import ANYBODY, DEPLOYER, DOMAIN, Rig, Settings, fields_of
from tests.unit.chain.evm import Contract, Done, Kept, Refused
from tests.unit.chain.stand_ins import stand_in

ROUTER, ASKER = b"\x4a" * 20, b"\xa5" * 20
KEY, REPLY_KEY = b"\x11" * 32, b"\x22" * 32
PROMPT, MODEL, SESSION = b"\x33" * 32, b"\x44" * 32, b"\x55" * 32
FEE, PROVING_S, HOUR = 1_000, 3_000, 3_600
OPEN, ANSWERED, PROVED, RECLAIMED = 1, 2, 4, 8


@dataclass
class Inbox:
    """The contract before true checkpoints, and lanes that were decided."""

    rig: Rig = field(default_factory=lambda: Rig(Settings()))

    def __post_init__(self) -> None:
        checkpoints = self.rig.checkpoints.address
        self.evm = self.rig.evm
        self.contract: Contract = self.evm.deploy(
            load_artifact("SessionInbox"), DOMAIN.network_id, self.evm.chain_id, checkpoints, PROVING_S, sender=DEPLOYER
        )
        self.contract.send("serve", KEY, FEE, sender=ROUTER)

    def ask(self, *, router: bytes = ROUTER, fee: int = FEE, sender: bytes = ASKER, **changes: Any) -> Done:
        """Ask a question."""
        given = {"prompt": PROMPT, "model": MODEL, "reply_key": REPLY_KEY, "deadline": self.evm.time_s + HOUR}
        arguments = {**given, "sealed": b"sealed question", **changes}
        return self.contract.send("ask", router, *arguments.values(), sender=sender, value=fee)

    def answer(self, number: int = 1, *, sender: bytes = ROUTER, sealed: bytes = b"sealed answer") -> Done:
        """Answer it, by lane 1 of task 7."""
        return self.contract.send("answer", number, SESSION, 7, 1, sealed, sender=sender)

    def state(self, number: int = 1) -> int:
        """How far a question is."""
        return int(self.contract.call("questions", number)[2])

    def work(self, **changes: Any) -> "Work":
        """What the network made of the question; parts of it changed."""
        order = _changed(TaskOrder(SESSION, 7, 1, PROMPT, b"\x66" * 32, b"\x77" * 32, 512, 10**6), changes, "order_")
        result = LaneResult(typed_digest(DOMAIN, order), PROMPT, MODEL, b"\x88" * 32, b"\x99" * 32, 100)
        result = _changed(result, changes, "result_")
        root = typed_digest(DOMAIN, result)
        outcome = _changed(Outcome(SESSION, 7, 1, Verdict.OK, root, 100, 1, 50), changes, "outcome_")
        return Work(order, result, outcome)

    def settle(self, *lanes: "Work", height: int = 1, usable: bool = True) -> "Settled":
        """Have lanes accepted by the checkpoints, among others."""
        filling = [Outcome(bytes([number]) * 32, 1, 0, Verdict.OK, bytes(32), 1, 1, 1) for number in range(11)]
        outcomes = [*filling[:6], *(lane.outcome for lane in lanes), *filling[6:]]
        tree, nodes = NO_OUTCOMES, dict[Place, Digest]()
        for outcome in outcomes:
            tree, made = tree.append(outcome_leaf(outcome))
            nodes.update(made)
        header = self.rig.header(1, height, results_root=tree.root, results_count=tree.count)
        self.rig.submit(header)
        if usable:
            self.evm.advance(seconds=self.rig.settings.window_s)
        return Settled(header, {outcome: place for place, outcome in enumerate(outcomes)}, nodes)

    def prove(self, settled: "Settled", work: "Work", number: int = 1, **parts: Any) -> Done:
        """Prove the answer's lane."""
        index, count = settled.places[work.outcome], settled.header.results_count
        proof = prove(index, count, settled.nodes.__getitem__)
        given = {"header": settled.header, "outcome": work.outcome, "proof": proof, "order": work.order}
        arguments = {**given, "result": work.result, **parts}
        plain = [fields_of(part) for part in arguments.values()]
        return self.contract.send("prove", number, *plain, sender=ANYBODY)


@dataclass(frozen=True)
class Work:
    """A lane: its order, what it came to, and the verdict."""

    order: TaskOrder
    result: LaneResult
    outcome: Outcome


@dataclass(frozen=True)
class Settled:
    """An accepted header and the outcomes under it."""

    header: Header
    places: dict[Outcome, int]
    nodes: dict[Place, Digest]


def _changed(value: Any, changes: dict[str, Any], prefix: str) -> Any:
    mine = {name.removeprefix(prefix): change for name, change in changes.items() if name.startswith(prefix)}
    return msgspec.structs.replace(value, **mine)


@pytest.fixture(scope="module")
def kept() -> tuple[Inbox, Kept]:
    """Deployed once."""
    inbox = Inbox()
    return inbox, inbox.evm.keep()


@pytest.fixture
def inbox(kept: tuple[Inbox, Kept]) -> Inbox:
    """With a router that serves, and nothing asked."""
    inbox, state = kept
    inbox.evm.take_back(state)
    return inbox


def refuse(reason: str, call: Any, *arguments: Any, **named: Any) -> None:
    """Check that the contract refuses, and why."""
    with pytest.raises(Refused) as refused:
        call(*arguments, **named)
    assert refused.value.reason == reason


# The way of a question


@pytest.mark.spec("INBOX-ASK.1", "INBOX-PROVE.1")
def test_asked_answered_proved_and_paid(inbox: Inbox) -> None:
    done = inbox.ask()
    deadline = inbox.evm.time_s + HOUR
    names = f"0x{ASKER.hex()}", f"0x{ROUTER.hex()}"
    question = (PROMPT, MODEL, REPLY_KEY, deadline, FEE, b"sealed question")
    assert inbox.contract.events(done) == [("Asked", 1, *names, *question)]
    assert inbox.state() == OPEN
    done = inbox.answer()
    assert inbox.contract.events(done) == [("Answered", 1, names[1], SESSION, 7, 1, b"sealed answer")]
    assert inbox.contract.call("questions", 1) == (
        *names,
        ANSWERED,
        deadline,
        FEE,
        PROMPT,
        MODEL,
        SESSION,
        7,
        1,
    )
    work = inbox.work()
    settled = inbox.settle(work)
    before = inbox.evm.balance(ROUTER)
    done = inbox.prove(settled, work)
    assert inbox.contract.events(done) == [("Proved", 1, names[1], FEE, work.outcome.root)]
    assert (inbox.evm.balance(ROUTER) - before, inbox.evm.balance(inbox.contract.address)) == (FEE, 0)
    assert inbox.state() == PROVED
    refuse("not answered", inbox.prove, settled, work)
    inbox.evm.advance(seconds=10 * HOUR)
    refuse("not open", inbox.contract.send, "reclaim", 1, sender=ANYBODY)


@pytest.mark.spec("INBOX-ASK.1")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"router": ASKER}, "no such router"),
        ({"fee": FEE - 1}, "fee"),
        ({"prompt": bytes(32)}, "prompt"),
        ({"reply_key": bytes(32)}, "reply key"),
        ({"sealed": b""}, "empty"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": 2**256 - 1}, "deadline"),
    ],
)
def test_what_is_no_question(inbox: Inbox, changes: dict[str, Any], reason: str) -> None:
    refuse(reason, inbox.ask, **changes)
    assert inbox.contract.call("question_count") == inbox.evm.balance(inbox.contract.address) == 0


@pytest.mark.spec("INBOX-ASK.1")
def test_deadlines_are_at_most_a_month_ahead(inbox: Inbox) -> None:
    now, month = inbox.evm.time_s, 30 * 86_400
    refuse("deadline", inbox.ask, deadline=now)
    refuse("deadline", inbox.ask, deadline=now + month + 1)
    inbox.ask(deadline=now + 1)
    inbox.ask(deadline=now + month)
    with pytest.raises(Refused):
        inbox.ask(sealed=bytes(8_193))
    inbox.ask(sealed=bytes(8_192), model=bytes(32))
    assert inbox.contract.call("question_count") == 3


@pytest.mark.spec("INBOX-ASK.2")
def test_a_router_says_its_key_and_its_price(inbox: Inbox) -> None:
    assert inbox.contract.call("services", ROUTER) == (KEY, FEE)
    done = inbox.contract.send("serve", b"\x12" * 32, 5, sender=ROUTER)
    assert inbox.contract.events(done) == [("Served", f"0x{ROUTER.hex()}", b"\x12" * 32, 5)]
    inbox.ask(fee=5)
    inbox.contract.send("serve", bytes(32), 0, sender=ROUTER)
    refuse("no such router", inbox.ask, fee=5)
    inbox.answer()


# Answers


@pytest.mark.spec("INBOX-ANSWER.1")
def test_only_the_router_answers_once_and_in_time(inbox: Inbox) -> None:
    inbox.ask()
    refuse("router", inbox.answer, sender=ASKER)
    refuse("empty", inbox.answer, sealed=b"")
    refuse("not open", inbox.answer, 2)
    refuse("not open", inbox.answer, 0)
    inbox.evm.advance(seconds=HOUR)
    inbox.answer(sealed=bytes(16_384))
    refuse("not open", inbox.answer)
    inbox.ask()
    inbox.evm.advance(seconds=HOUR + 1)
    refuse("late", inbox.answer, 2)


# Proofs


@pytest.mark.spec("INBOX-PROVE.1")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outcome_verdict": Verdict.MISMATCH}, "verdict"),
        ({"outcome_verdict": Verdict.UNDECIDED}, "verdict"),
        ({"outcome_session": b"\x56" * 32}, "lane"),
        ({"outcome_task": 8}, "lane"),
        ({"outcome_lane": 0}, "lane"),
        ({"order_session": b"\x56" * 32}, "order"),
        ({"order_task": 8}, "order"),
        ({"order_prompt": b"\x34" * 32}, "prompt"),
        ({"result_order": b"\x01" * 32}, "order"),
        ({"outcome_root": b"\x01" * 32}, "result"),
        ({"result_model": b"\x45" * 32}, "model"),
    ],
)
def test_a_lane_that_is_not_what_was_asked_earns_nothing(inbox: Inbox, changes: dict[str, Any], reason: str) -> None:
    inbox.ask()
    inbox.answer()
    work = inbox.work(**changes)
    settled = inbox.settle(work)
    refuse(reason, inbox.prove, settled, work)
    assert inbox.state() == ANSWERED


@pytest.mark.spec("INBOX-PROVE.1")
def test_every_part_of_a_proof_counts(inbox: Inbox) -> None:
    inbox.ask()
    inbox.answer()
    work = inbox.work()
    settled = inbox.settle(work)
    proof = prove(settled.places[work.outcome], settled.header.results_count, settled.nodes.__getitem__)
    for changes in (
        {"index": proof.index + 1},
        {"index": 2**63},
        {"count": proof.count - 1},
        {"path": proof.path[:-1]},
        {"path": proof.path[::-1]},
        {"path": (*proof.path, bytes(32))},
        {"peaks": proof.peaks[:-1]},
        {"peaks": (*proof.peaks, bytes(32))},
    ):
        refuse("proof", inbox.prove, settled, work, proof=msgspec.structs.replace(proof, **changes))
    other = msgspec.structs.replace(work.outcome, paid_wei=51)
    refuse("proof", inbox.prove, settled, work, outcome=other)
    refuse("not usable", inbox.prove, settled, work, header=msgspec.structs.replace(settled.header, height=9))
    inbox.prove(settled, work)


@pytest.mark.spec("INBOX-PROVE.1")
def test_a_header_must_be_usable(inbox: Inbox) -> None:
    inbox.ask()
    inbox.answer()
    work = inbox.work()
    settled = inbox.settle(work, usable=False)
    refuse("not usable", inbox.prove, settled, work)
    inbox.evm.advance(seconds=inbox.rig.settings.window_s)
    inbox.prove(settled, work)


@pytest.mark.spec("INBOX-PROVE.1")
def test_griefing_fees_with_one_lane(inbox: Inbox) -> None:
    """A router cannot take every fee with one lane: each question names a prompt of its own."""
    inbox.ask()
    inbox.ask(prompt=b"\x35" * 32, sender=b"\xa6" * 20)
    work = inbox.work()
    settled = inbox.settle(work)
    inbox.answer(1)
    inbox.answer(2)
    refuse("prompt", inbox.prove, settled, work, 2)
    inbox.prove(settled, work, 1)
    refuse("not answered", inbox.prove, settled, work, 3)


@pytest.mark.spec("INBOX-PROVE.1")
def test_a_question_may_leave_the_model_open(inbox: Inbox) -> None:
    inbox.ask(model=bytes(32))
    inbox.answer()
    work = inbox.work(result_model=b"\x45" * 32)
    inbox.prove(inbox.settle(work), work)


# The fee goes back


@pytest.mark.spec("INBOX-RECLAIM.1")
def test_an_unanswered_question_gives_its_fee_back(inbox: Inbox) -> None:
    inbox.ask()
    refuse("too soon", inbox.contract.send, "reclaim", 1, sender=ANYBODY)
    inbox.evm.advance(seconds=HOUR)
    refuse("too soon", inbox.contract.send, "reclaim", 1, sender=ANYBODY)
    inbox.evm.advance(seconds=1)
    before = inbox.evm.balance(ASKER)
    done = inbox.contract.send("reclaim", 1, sender=ANYBODY)
    assert inbox.contract.events(done) == [("Reclaimed", 1, f"0x{ASKER.hex()}", FEE)]
    assert (inbox.evm.balance(ASKER) - before, inbox.state()) == (FEE, RECLAIMED)
    for again in (1, 0, 2):
        refuse("not open", inbox.contract.send, "reclaim", again, sender=ANYBODY)


@pytest.mark.spec("INBOX-RECLAIM.1")
def test_a_router_that_answered_in_time_has_time_to_prove(inbox: Inbox) -> None:
    inbox.ask()
    inbox.answer()
    work = inbox.work()
    settled = inbox.settle(work)
    inbox.evm.advance(seconds=HOUR + PROVING_S - inbox.rig.settings.window_s)
    refuse("too soon", inbox.contract.send, "reclaim", 1, sender=ASKER)
    kept = inbox.evm.keep()
    inbox.prove(settled, work)
    inbox.evm.take_back(kept)
    inbox.evm.advance(seconds=1)
    inbox.contract.send("reclaim", 1, sender=ASKER)
    refuse("not answered", inbox.prove, settled, work)
    assert inbox.evm.balance(inbox.contract.address) == 0


# Hostile payees


@pytest.mark.spec("INBOX-RECLAIM.1")
def test_reentrancy_of_an_asker(inbox: Inbox) -> None:
    """An asker that asks for its fee again while it gets it gets it once."""
    inbox.ask(fee=5 * FEE)
    thief = inbox.evm.deploy(stand_in("payee"), sender=DEPLOYER)
    question = (ROUTER, PROMPT, MODEL, REPLY_KEY, inbox.evm.time_s + HOUR, b"sealed")
    thief.send("ask", inbox.contract.address, inbox.contract.data("ask", *question), sender=ANYBODY, value=FEE)
    thief.send("be", inbox.contract.address, inbox.contract.data("reclaim", 2), False, False, sender=ANYBODY)
    inbox.evm.advance(seconds=HOUR + 1)
    inbox.contract.send("reclaim", 2, sender=ANYBODY)
    assert (thief.call("asked"), thief.call("failed"), inbox.evm.balance(thief.address)) == (1, True, FEE)
    assert inbox.evm.balance(inbox.contract.address) == 5 * FEE


def test_reentrancy_of_a_router(inbox: Inbox) -> None:
    """A router that proves again while it is paid is paid once; one that refuses its fee leaves it for the asker."""
    thief = inbox.evm.deploy(stand_in("payee"), sender=DEPLOYER)
    to = inbox.contract.address
    thief.send("ask", to, inbox.contract.data("serve", KEY, 0), sender=ANYBODY)
    for number in (1, 2):
        inbox.ask(router=thief.address)
        thief.send("ask", to, inbox.contract.data("answer", number, SESSION, 7, 1, b"sealed"), sender=ANYBODY)
    work = inbox.work()
    settled = inbox.settle(work)
    proof = prove(settled.places[work.outcome], settled.header.results_count, settled.nodes.__getitem__)
    parts = [fields_of(part) for part in (settled.header, work.outcome, proof, work.order, work.result)]
    thief.send("be", to, inbox.contract.data("prove", 1, *parts), False, False, sender=ANYBODY)
    inbox.prove(settled, work, 1)
    assert (thief.call("asked"), thief.call("failed"), inbox.evm.balance(thief.address)) == (1, True, FEE)
    thief.send("be", bytes(20), b"", True, False, sender=ANYBODY)
    refuse("payee", inbox.prove, settled, work, 2)
    inbox.evm.advance(seconds=HOUR + PROVING_S + 1)
    inbox.contract.send("reclaim", 2, sender=ANYBODY)
    assert inbox.evm.balance(to) == 0


def test_settings_that_make_no_inbox(inbox: Inbox) -> None:
    artifact, here = load_artifact("SessionInbox"), inbox.rig.checkpoints.address
    for chain_id, checkpoints, proving_s, reason in [
        (1, here, 1, "chain"),
        (inbox.evm.chain_id, bytes(20), 1, "checkpoints"),
        (inbox.evm.chain_id, here, 0, "settings"),
        (inbox.evm.chain_id, here, 2**32 + 1, "settings"),
    ]:
        with pytest.raises(Refused, match=reason):
            inbox.evm.deploy(artifact, DOMAIN.network_id, chain_id, checkpoints, proving_s, sender=DEPLOYER)
