"""Transactions that are done once, whatever ends, drops, or is reorganised in between."""

from pathlib import Path

import pytest

from chain.api import TxState
from chain.errors import ChainUnreachable, NoFunds, Reverted, RpcNonsense, TransactionFailed
from chain.rpc import RETRY_MAX_S
from chain.transactions import BUMP_AFTER_S, DEADLINE_S, FEE_MAX, LOST_S, OPEN_MAX
from tests.unit.chain.scripted import Sent
from tests.unit.chain.sending import KEY, TO, Rig, order


def test_a_transaction_is_sent_mined_and_final() -> None:
    rig = Rig(depth=2)
    tx = rig.sender.send(order("one"))
    assert rig.sender.status(tx).state is TxState.PENDING
    rig.chain.mine()
    assert rig.sender.maintain() == 1
    status = rig.sender.status(tx)
    assert (status.state, status.block_number, status.gas_used) == (TxState.MINED, 1, 40_000)
    rig.chain.mine(count=2)
    assert rig.sender.maintain() == 0
    assert rig.sender.status(tx).state is TxState.FINAL
    assert rig.chain.done == [b"one"]


def test_waiting_ends_in_a_block_or_a_final_one() -> None:
    rig = Rig(depth=3)
    tx = rig.sender.send(order("one"))
    assert rig.sender.wait(tx, 60).state is TxState.MINED
    assert rig.sender.wait(tx, 60, final=True).state is TxState.FINAL
    rig.chain.base_fee = FEE_MAX * 2
    with pytest.raises(ChainUnreachable, match="not in a block after 0 s"):
        rig.sender.wait(rig.sender.send(order("two")), 0)


@pytest.mark.spec("CHAIN-NONCE.1")
def test_the_same_thing_is_not_under_way_twice() -> None:
    rig = Rig(depth=1)
    tx = rig.sender.send(order("one"))
    assert rig.sender.send(order("one")) == tx
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.send(order("one")) == tx  # in a block, which may still go away
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.send(order("one")) != tx  # it is done; who asks again wants it again
    assert rig.sender.send(order("two")) not in (tx, rig.sender.send(order("one")))


def test_several_have_nonces_in_order() -> None:
    rig = Rig()
    for name in ("one", "two", "three"):
        rig.sender.send(order(name))
    rig.chain.mine()
    assert rig.chain.done == [b"one", b"two", b"three"]


def test_what_the_chain_would_refuse_is_not_sent() -> None:
    rig = Rig()
    rig.chain.reverting.add(b"bad")
    with pytest.raises(Reverted, match="bad: the contract refuses: execution reverted: no"):
        rig.sender.send(order("bad"))
    rig.chain.balance = 1_000
    with pytest.raises(NoFunds, match=KEY.node_id.hex()):
        rig.sender.send(order("good"))
    rig.endpoint.refuse = lambda method: "insufficient funds for transfer" if method == "eth_estimateGas" else None
    with pytest.raises(NoFunds):
        rig.sender.send(order("good"))
    assert rig.chain.pool == {}
    assert rig.sender.maintain() == 0


def test_what_reverts_in_its_block_failed() -> None:
    rig = Rig()
    tx = rig.sender.send(order("bad"))
    rig.chain.reverting.add(b"bad")
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FAILED
    assert rig.sender.status(tx).reason == "reverted: execution reverted: no"
    with pytest.raises(TransactionFailed, match="bad: reverted"):
        rig.sender.wait(tx, 1)


def test_nobody_to_send_to() -> None:
    rig = Rig()
    rig.endpoint.down = True
    with pytest.raises(ChainUnreachable):
        rig.sender.send(order("one"))  # nobody says what nonce and gas: nothing is promised
    rig.endpoint.down = False
    rig.later(RETRY_MAX_S)
    assert rig.sender.maintain() == 0


def test_an_outage_between_signing_and_sending() -> None:
    rig = Rig()
    rig.endpoint.deaf = True
    tx = rig.sender.send(order("one"))
    assert rig.chain.pool == {}
    rig.endpoint.deaf = False
    rig.sender.maintain()
    assert [sent.hash for sent in rig.chain.pool.values()] == [tx]


@pytest.mark.spec("CHAIN-NONCE.1")
def test_a_process_that_ends_between_signing_and_sending(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "journal.db")
    rig.endpoint.deaf = True
    tx = rig.sender.send(order("one"))
    rig.endpoint.deaf = False
    rig.restart()
    assert rig.sender.send(order("one")) == tx
    assert rig.sender.send(order("two")) != tx  # the nonce is taken, though no chain has seen it
    rig.sender.maintain()
    rig.chain.mine()
    assert rig.chain.done == [b"one", b"two"]


def test_a_dropped_transaction_is_sent_again() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one"))
    rig.chain.pool.clear()
    rig.sender.maintain()
    assert [sent.hash for sent in rig.chain.pool.values()] == [tx]


def test_a_reorganisation_that_drops_it_has_it_sent_again() -> None:
    rig = Rig(depth=12)
    tx = rig.sender.send(order("one"))
    rig.chain.mine()
    rig.chain.mine(count=10)
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.MINED
    rig.chain.reorganise(11, drop=True)
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.PENDING
    rig.chain.mine()
    rig.chain.mine(count=12)
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FINAL
    assert rig.chain.done == [b"one"]


@pytest.mark.spec("CHAIN-NONCE.1")
def test_the_fee_rises_until_it_is_mined_and_no_further_than_is_allowed() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one"))
    rig.chain.base_fee = 1_000
    fees = []
    for _ in range(12):
        rig.later(BUMP_AFTER_S)
        rig.sender.maintain()
        fees += [sent.fee for sent in rig.chain.pool.values()]
    assert fees == sorted(fees)
    assert fees[0] >= 2 * rig.chain.base_fee
    rig.chain.mine()
    rig.sender.maintain()
    status = rig.sender.status(tx)
    assert status.state is TxState.FINAL
    assert status.hash != tx  # another form of the same
    assert rig.chain.done == [b"one"]
    rig.chain.base_fee = FEE_MAX
    rig.sender.send(order("two"))
    for _ in range(40):
        rig.later(BUMP_AFTER_S)
        rig.sender.maintain()
    assert {sent.fee for sent in rig.chain.pool.values()} == {FEE_MAX}


def test_a_rival_of_the_same_nonce_is_outbid() -> None:
    rig = Rig()
    rig.chain.pool = {b"x": Sent(b"x", 0, 40, 4, TO, b"not ours")}
    rig.endpoint.false["eth_getTransactionCount"] = "0x0"  # it does not count what waits
    rig.sender.send(order("one"))
    for _ in range(2):
        rig.sender.maintain()
    del rig.endpoint.false["eth_getTransactionCount"]
    rig.chain.mine()
    assert rig.chain.done == [b"one"]


@pytest.mark.spec("CHAIN-NONCE.1")
def test_what_is_not_mined_in_time_is_given_up_and_its_nonce_used() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one", within_s=100))
    rig.sender.send(order("two", within_s=10 * DEADLINE_S))
    rig.later(100)
    rig.sender.maintain()
    assert [sent.data for sent in sorted(rig.chain.pool.values(), key=lambda sent: sent.nonce)] == [b"", b"two"]
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FAILED
    assert rig.sender.status(tx).reason == "given up at its deadline"
    assert rig.chain.done == [b"", b"two"]


def test_what_is_mined_after_it_was_given_up_is_done() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one", within_s=100))
    rig.later(100)
    rig.endpoint.deaf = True  # the one that gives it up gets lost
    rig.sender.maintain()
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FINAL


@pytest.mark.spec("CHAIN-NONCE.1")
def test_a_newer_one_of_a_group_takes_the_place_of_an_older_one() -> None:
    rig = Rig()
    older = rig.sender.send(order("checkpoint 1", group="checkpoint"))
    newer = rig.sender.send(order("checkpoint 2", group="checkpoint"))
    for _ in range(3):
        assert [sent.data for sent in rig.chain.pool.values()] == [b"checkpoint 2"]
        rig.later(BUMP_AFTER_S)
        rig.sender.maintain()
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.status(newer).state is TxState.FINAL
    rig.sender.maintain()
    rig.sender.maintain()
    assert rig.sender.status(older).state is TxState.FAILED
    assert rig.sender.maintain() == 0
    assert rig.chain.done == [b"checkpoint 2"]


def test_of_a_group_one_is_done_whichever_is_mined() -> None:
    rig = Rig()
    older = rig.sender.send(order("checkpoint 1", group="checkpoint"))
    kept = dict(rig.chain.pool)
    newer = rig.sender.send(order("checkpoint 2", group="checkpoint"))
    rig.chain.pool = kept
    rig.chain.mine()
    for _ in range(3):
        rig.sender.maintain()
    assert rig.sender.status(older).state is TxState.FINAL
    assert rig.sender.status(newer).state is TxState.FAILED
    assert rig.chain.done == [b"checkpoint 1"]
    again = rig.sender.send(order("checkpoint 2", group="checkpoint"))
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.status(again).state is TxState.FINAL


def test_one_in_a_block_is_not_replaced() -> None:
    rig = Rig(depth=5)
    rig.sender.send(order("checkpoint 1", group="checkpoint"))
    rig.chain.mine()
    rig.sender.maintain()
    rig.sender.send(order("checkpoint 2", group="checkpoint"))
    rig.chain.mine()
    assert rig.chain.done == [b"checkpoint 1", b"checkpoint 2"]


def test_a_nonce_that_another_program_used() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one"))
    other = next(iter(rig.chain.pool.values()))
    rig.chain.pool = {b"x": type(other)(b"x", other.nonce, other.fee, other.tip, TO, b"not ours")}
    rig.chain.mine()
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.PENDING  # believed when it has lasted
    assert rig.sender.send(order("one")) == tx
    rig.later(LOST_S)
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FAILED
    assert "another transaction" in rig.sender.status(tx).reason
    rig.sender.send(order("one"))
    rig.chain.mine()
    assert rig.chain.done == [b"not ours", b"one"]


def test_an_endpoint_that_does_not_know_its_receipts_makes_us_do_nothing_twice() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one"))
    rig.chain.mine()
    rig.endpoint.no_receipts = True
    rig.sender.maintain()
    rig.later(LOST_S - 1)
    rig.sender.maintain()
    assert rig.sender.send(order("one")) == tx
    rig.endpoint.no_receipts = False
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FINAL
    assert rig.chain.done == [b"one"]


def test_any_endpoint_may_know_the_receipt() -> None:
    rig = Rig(endpoints=2)
    tx = rig.sender.send(order("one"))
    rig.chain.mine()
    rig.endpoint.no_receipts = True
    rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.FINAL


def test_a_receipt_of_a_block_that_is_not_in_the_chain_is_refused() -> None:
    rig = Rig()
    tx = rig.sender.send(order("one"))
    rig.chain.mine()
    truth = rig.endpoint._eth_getTransactionReceipt(f"0x{tx.hex()}")
    assert truth is not None
    rig.endpoint.false["eth_getTransactionReceipt"] = {**truth, "blockHash": "0x" + "66" * 32}
    with pytest.raises(RpcNonsense, match="another block"):
        rig.sender.maintain()
    rig.endpoint.false["eth_getTransactionReceipt"] = {**truth, "transactionHash": "0x" + "66" * 32}
    with pytest.raises(RpcNonsense, match="another transaction"):
        rig.sender.maintain()
    assert rig.sender.status(tx).state is TxState.PENDING


def test_a_stale_endpoint_does_not_give_a_nonce_twice() -> None:
    rig = Rig()
    for name in ("one", "two"):
        rig.sender.wait(rig.sender.send(order(name)), 10, final=True)
    rig.endpoint.stopped_at = 0
    rig.sender.send(order("three"))
    rig.endpoint.stopped_at = None
    rig.chain.mine()
    assert rig.chain.done == [b"one", b"two", b"three"]


def test_every_endpoint_is_told() -> None:
    rig = Rig(endpoints=2)
    rig.endpoint.deaf = True
    rig.sender.send(order("one"))
    rig.chain.mine()
    assert rig.chain.done == [b"one"]


def test_too_many_at_once_are_refused() -> None:
    rig = Rig()
    for number in range(OPEN_MAX):
        rig.sender.send(order(str(number)))
    with pytest.raises(TransactionFailed, match=f"{OPEN_MAX} transactions are under way"):
        rig.sender.send(order("one more"))


def test_a_lost_journal_does_not_use_a_waiting_nonce_again() -> None:
    rig = Rig()
    rig.sender.send(order("one"))
    rig.restart()  # a journal in memory is gone
    rig.sender.send(order("two"))
    rig.chain.mine()
    assert rig.chain.done == [b"one", b"two"]
