"""What an oracle answers of the ledger, and `p2pnode ledger`, which believes nothing of it without its proof."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pnode.cli import entry
from p2pnode.hand_over_answers import QUESTION as HAND_OVERS
from p2pnode.hand_over_answers import shown_hand_overs
from p2pnode.identity import NodeKey, write_keystore
from p2pnode.ledger_answers import LedgerAnswers, LedgerQuestionError
from protocol.committee.members import make_committee
from protocol.committee.payload import make_header
from protocol.core.codec import decode, pack
from protocol.core.errors import P2PNodeError
from protocol.core.signing import typed_digest, verify
from protocol.ledger import Ledger
from protocol.ledger.accounts import Account
from protocol.ledger.chain import ChainState
from protocol.ledger.nodes import Node
from protocol.ledger.records import Section
from protocol.ledger.sessions import Session
from protocol.ledger.state import Earned, Share, State
from protocol.light.handovers import HandOverStore
from protocol.messages.committee import EMPTY_BODY
from protocol.messages.results import Submit
from protocol.roles.oracle.earnings import Earnings
from protocol.roles.oracle.followers import Final
from protocol.roles.oracle.outcomes import Outcomes
from tests.unit.protocol.keys import key
from tests.unit.protocol.light_at_hand import certify, hand_over_of
from tests.unit.protocol.machines import CLIENT, GENESIS, MALLORY, MINERS, ORACLES, PARAMS

WEI = 10**9
SESSIONS = (b"\xab\xcd" + bytes(30), b"\xab\xce" + bytes(30))


def state_of() -> State:
    """A ledger with two accounts, two reservations and two miners."""
    genesis = replace(
        GENESIS,
        allocation=tuple(sorted(((CLIENT.node, WEI), (MALLORY.node, 5)))),
        miners=tuple(sorted(miner.node for miner in MINERS[:2])),
    )
    domain = GENESIS.domain()
    committee = make_committee(GENESIS.network_id(), 1, GENESIS.committee)
    state = Ledger(domain, PARAMS, genesis).genesis(committee)
    assert isinstance(state, State)
    trees = list(state.trees)
    for name in SESSIONS:
        record = Session(CLIENT.node, (), bytes(32), 1, 10, 7, 500, False, bytes(32), 1, 5, spent_wei=20)
        trees[Section.SESSIONS] = trees[Section.SESSIONS].set(name, record.packed())
    return replace(state, trees=tuple(trees))


STATE = state_of()
HEADER = make_header(1, 9, bytes(32), STATE.roots, EMPTY_BODY)
EARNINGS = Earnings(lambda _: {})


def answers(state: State = STATE, **certified: Any) -> LedgerAnswers:
    final = Final(certify(HEADER, **certified), state)
    return LedgerAnswers(PARAMS, Outcomes(lambda _: {}), EARNINGS, lambda: final)


def test_records_are_found_by_name_or_first_digits() -> None:
    asked = answers()
    whole = asked.answer(f"ledger:account:0x{CLIENT.node.hex()}")
    assert whole["record"] == {"balance_wei": WEI, "reserved_wei": 0, "withdrawable_wei": 0}
    assert (whole["epoch"], whole["height"]) == (1, 9)
    assert asked.answer(f"ledger:account:{CLIENT.node.hex()[:8]}") == whole
    session = asked.answer("ledger:session:abcd")
    assert session["key"] == SESSIONS[0].hex()
    assert (session["record"]["cap_wei"], session["record"]["spent_wei"]) == (500, 20)
    miner = asked.answer(f"ledger:miner:0x{MINERS[0].node.hex()}")
    assert (miner["record"]["state"], miner["record"]["reputation_bp"]) == ("available", 5_000)
    assert asked.answer("ledger:account:0x" + "42" * 20)["record"] is None


def test_nodes_of_the_registry_and_the_anchor_are_told() -> None:
    trees = list(STATE.trees)
    record = Node(CLIENT.node, 6, 70, jailed=True).packed()
    trees[Section.NODES] = trees[Section.NODES].set(MINERS[0].node, record)
    chain = ChainState(number=16, events=9, deposits=5, deposited=70)
    asked = answers(replace(STATE, trees=tuple(trees), chain=chain))
    node = asked.answer(f"ledger:node:0x{MINERS[0].node.hex()}")["record"]
    assert node == {"owner": f"0x{CLIENT.node.hex()}", "roles": "miner, oracle", "stake": 70, "jailed": True}
    assert asked.answer("ledger:nodes")["rows"] == [{"key": f"0x{MINERS[0].node.hex()}", **node}]
    total = asked.answer("ledger")["total"]
    assert [total[name] for name in ("nodes", "anchor", "chain_events", "deposits", "deposited_wei")] == [
        1,
        16,
        9,
        5,
        70,
    ]
    assert "anchor" not in answers().answer("ledger")["total"]


def test_earnings_are_told_by_epoch() -> None:
    EARNINGS.records([replace(STATE, batches=3, earned=(Earned(CLIENT.node, Share.MINER, 7),))])
    asked = answers().answer(f"ledger:earnings:0x{CLIENT.node.hex()}")
    assert asked["earnings"] == [{"epoch": 1, "miner_wei": 7, "router_wei": 0, "oracle_wei": 0, "payments": 1}]
    assert answers().answer("ledger:earnings:0x" + "42" * 20)["earnings"] == []


def test_lists_and_totals() -> None:
    asked = answers()
    total = asked.answer("ledger")["total"]
    assert (total["accounts"], total["balance_wei"], total["sessions"], total["miners"]) == (2, WEI + 5, 2, 2)
    assert len(asked.answer("ledger:sessions")["rows"]) == 2
    assert {row["key"] for row in asked.answer("ledger:pool")["rows"]} == {f"0x{m.node.hex()}" for m in MINERS[:2]}
    assert asked.answer("ledger:registry")["rows"] == []


@pytest.mark.parametrize(
    "question",
    [
        "ledger:session:ab",
        "ledger:session:77",
        "ledger:session:",
        "ledger:account:0x" + "zz" * 20,
        "ledger:outcome:0",
        "ledger:outcome:-1",
        "ledger:outcome:" + "9" * 4_000,
        "ledger:nothing",
        "ledger:nothing:x",
        "ledgers",
    ],
)
def test_what_cannot_be_answered_is_an_error(question: str) -> None:
    with pytest.raises(LedgerQuestionError):
        answers().answer(question)


def test_before_the_first_block_there_is_nothing_to_say() -> None:
    with pytest.raises(LedgerQuestionError, match="no block is final"):
        LedgerAnswers(PARAMS, Outcomes(lambda _: {}), EARNINGS, lambda: None).answer("ledger")


# The command


Ask = Callable[[str], dict[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ask], list[str]]:
    """Has a function answer in place of a node's control socket; gives the questions."""

    def answer_with(answer: Ask) -> list[str]:
        questions: list[str] = []

        def ask(_: Path, what: str) -> dict[str, Any]:
            questions.append(what)
            return answer(what)

        monkeypatch.setattr("p2pnode.control.ask_control", ask)
        return questions

    return answer_with


@pytest.fixture
def genesis(tmp_path: Path) -> Path:
    path = tmp_path / "genesis.json"
    path.write_text(GENESIS.to_json(), encoding="utf-8")
    return path


def proving(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = entry.main(["ledger", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_record_is_proved_against_the_committee_that_is_named(
    asked: Callable[[Ask], list[str]], genesis: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(answers().answer)
    address = f"0x{CLIENT.node.hex()}"
    status, out, _ = proving(capsys, "account", address, "--prove", "--genesis", genesis)
    assert status == 0
    assert f"balance_wei: {WEI}" in out.replace("  ", " ") or str(WEI) in out
    assert "3 of its 4 members finalized block 1/9" in out
    assert f"balance_wei={WEI}" in out, "what was checked is what the proof holds, not what was told"
    status, out, _ = proving(capsys, "account", "0x" + "42" * 20, "--prove", "--genesis", genesis)
    assert (status, "nothing of this key" in out) == (0, True)


def test_hand_overs_lead_from_the_genesis_to_the_committee_that_signed(
    asked: Callable[[Ask], list[str]],
    genesis: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    new = [key(180 + number) for number in range(4)]
    header = make_header(3, 9, bytes(32), STATE.roots, EMPTY_BODY)
    final = Final(certify(header, signers=new[:3]), STATE)
    node = LedgerAnswers(PARAMS, Outcomes(lambda _: {}), EARNINGS, lambda: final)
    store = HandOverStore()
    for hand_over in (hand_over_of(1, ORACLES), hand_over_of(2, new)):
        store.keep(hand_over)

    def answer(what: str) -> dict[str, Any]:
        return shown_hand_overs(store, what) if what.startswith(HAND_OVERS) else node.answer(what)

    questions = asked(answer)
    address = f"0x{CLIENT.node.hex()}"
    status, out, _ = proving(capsys, "account", address, "--prove", "--genesis", genesis)
    assert (status, questions[1:]) == (0, ["handovers:1"])
    assert "2 hand-overs lead to that of epoch 3" in out
    status, out, _ = proving(capsys, "account", address, "--prove", "--genesis", genesis)
    assert (status, questions[2:]) == (0, [questions[0]]), "they are known from then on"
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "elsewhere"))
    store.keep(hand_over_of(2, new, signers=new[:3]))
    status, out, err = proving(capsys, "account", address, "--prove", "--genesis", genesis)
    assert (status, "does not hold" in err) == (1, True)
    asked(lambda what: {"hand_overs": [], "more": True} if what.startswith(HAND_OVERS) else node.answer(what))
    status, _, err = proving(capsys, "account", address, "--prove", "--genesis", genesis)
    assert (status, "committee of epoch 3 is not known" in err) == (1, True)


@pytest.mark.parametrize("question", ["handovers:", "handovers:-1", "handovers:x", "handovers:" + "9" * 19])
def test_hand_overs_are_asked_for_by_an_epoch(question: str) -> None:
    with pytest.raises(P2PNodeError):
        shown_hand_overs(HandOverStore(), question)


def test_a_committee_of_the_oracles_own_telling_is_named_as_that(
    asked: Callable[[Ask], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    node = answers()
    asked(lambda what: {"genesis": GENESIS.to_json()} if what == "genesis" else node.answer(what))
    status, out, _ = proving(capsys, "session", "abcd", "--prove")
    assert (status, "by this oracle's word alone" in out) == (0, True)


def lies() -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
    """What may be changed of a true answer."""
    richer = state_of()
    account = Account(balance_wei=2 * WEI).packed()
    trees = list(richer.trees)
    trees[Section.ACCOUNTS] = trees[Section.ACCOUNTS].set(CLIENT.node, account)
    richer = replace(richer, trees=tuple(trees))
    other = replace(richer, trees=richer.trees)
    return [
        lambda told: told | {"certified": pack(certify(HEADER, signers=[*ORACLES[:2], MALLORY])).hex()},
        lambda told: told | {"proof": pack(other.prove(Section.ACCOUNTS, CLIENT.node)).hex()},
        lambda told: told | {"proof": pack(STATE.prove(Section.ACCOUNTS, MALLORY.node)).hex()},
        lambda told: told | {"record": None},
        lambda told: told | {"proof": "00"},
        lambda told: told | {"certified": "zz"},
        lambda told: told | {"key": "0x" + "42" * 20},
    ]


@pytest.mark.parametrize("number", range(7))
def test_no_lie_is_taken(
    asked: Callable[[Ask], list[str]], genesis: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    asked(lambda what: lies()[number](answers().answer(what)))
    status, out, err = proving(capsys, "account", f"0x{CLIENT.node.hex()}", "--prove", "--genesis", genesis)
    assert (status, out) == (1, "")
    assert "the proof does not hold" in err


def test_a_withdrawal_is_signed_and_awaited(
    asked: Callable[[Ask], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, path = NodeKey.generate(), tmp_path / "client.json"
    write_keystore(path, key, "", scrypt_n=2)
    handed: list[Submit] = []

    def node(what: str) -> dict[str, Any]:
        if what == "genesis":
            return {"genesis": GENESIS.to_json()}
        if what == "status":
            return {"roles": ["oracle"]}
        if what.startswith("hand-in:"):
            submit = decode(bytes.fromhex(what.removeprefix("hand-in:")))
            assert isinstance(submit, Submit)
            handed.append(submit)
            return {"handed_in": True}
        left = Account(balance_wei=7, withdrawable_wei=30 if handed else 0).packed()
        trees = list(STATE.trees)
        trees[Section.ACCOUNTS] = trees[Section.ACCOUNTS].set(key.node_id, left)
        return answers(replace(STATE, trees=tuple(trees))).answer(what)

    asked(node)
    status, out, _ = proving(capsys, "withdraw", "--key", path, "--total", "30", "--json")
    assert status == 0
    assert json.loads(out)["withdrawable_wei"] == 30
    (signed,) = handed[0].withdrawals
    assert signed.withdraw == msgspec.structs.replace(signed.withdraw, account=key.node_id, total=30)
    verify(typed_digest(GENESIS.domain(), signed.withdraw), signed.signature, key.node_id, "the withdrawal")
    status, out, _ = proving(capsys, "account", path, "--json")
    assert json.loads(out)["key"] == "0x" + key.node_id.hex()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["account"], "account takes a NAME"),
        (["pool", "abcd"], "pool takes no NAME"),
        (["withdraw", "--total", "5"], "needs the account's key"),
        (["pool", "--prove"], "only single records are proved"),
    ],
)
def test_what_cannot_be_asked_is_said(
    asked: Callable[[Ask], list[str]], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    asked(answers().answer)
    status, out, err = proving(capsys, *arguments)
    assert (status, out) == (1, "")
    assert said in err
