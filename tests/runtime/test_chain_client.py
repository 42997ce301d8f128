"""The chain client on a real node: reorganisations, outages, lost and replaced transactions, crashes, a wrong chain."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from eth_account import Account
from web3 import HTTPProvider, Web3

from chain.api import Chain, EventCursor, TxId, TxState
from chain.artifacts import load_artifact
from chain.client import open_chain
from chain.deploy import check_deployed
from chain.errors import ChainError, ChainUnreachable, WrongChain
from chain.localchain import LOCAL_CHAIN_ID, Kind, open_local_chain
from chain.rpc import open_rpc
from chain.signed import Transaction
from protocol.messages.chain import Deposited
from tests.runtime.local_chain import ACCOUNT, KEYS, Network, needs_anvil, open_network

KINDS = [pytest.param("anvil", marks=needs_anvil), "embedded"]
WAIT_S = 30.0


def deposits(chain: Chain, cursor: EventCursor | None = None) -> tuple[list[tuple[int, int]], EventCursor]:
    """Numbers and amounts of all final deposits after a cursor, and where they end."""
    cursor, found, more = cursor or chain.start(), [], True
    while more:
        page = chain.events(cursor, 3)
        found += [(event.number, event.amount) for _, event in page.events if isinstance(event, Deposited)]
        cursor, more = page.cursor, page.more
    return found, cursor


# On either chain, with its own beat


@pytest.fixture(scope="module", params=KINDS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    kind: Kind = request.param
    with open_network(tmp_path_factory.mktemp(kind), kind) as network:
        yield network


def test_other_programs_can_use_it(network: Network) -> None:
    assert network.genesis.contracts is not None
    web3, account = Web3(HTTPProvider(network.local.url)), Account.from_key("0x" + "02" * 32)
    address = Web3.to_checksum_address(network.genesis.contracts.escrow)
    escrow = web3.eth.contract(address, abi=load_artifact("Escrow").abi)
    made = escrow.functions.deposit(Web3.to_checksum_address(ACCOUNT), 9).build_transaction(
        {"from": account.address, "value": 9, "nonce": web3.eth.get_transaction_count(account.address)}
    )
    hashed = web3.eth.send_raw_transaction(account.sign_transaction(made).raw_transaction)
    receipt = web3.eth.wait_for_transaction_receipt(hashed, timeout=WAIT_S)
    assert receipt["status"] == 1
    (event,) = escrow.events.Deposited().process_receipt(receipt)
    assert dict(event["args"]) == {"number": 1, "account": Web3.to_checksum_address(ACCOUNT), "amount": 9}
    assert web3.eth.get_block("latest")["number"] >= receipt["blockNumber"]


@pytest.mark.spec("CHAIN-NONCE.1")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_while_it_sends(network: Network, when: str) -> None:
    plan = {
        "url": network.local.url,
        "journal": str(network.journal),
        "when": when,
        "genesis": network.genesis.to_json(),
    }
    with network.chain() as chain:
        count = chain.deposits()
    command = [sys.executable, "-m", "tests.runtime.send_and_die", json.dumps(plan)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    with network.chain() as chain:
        chain.wait(chain.deposit(ACCOUNT, 1), WAIT_S, final=True)
        assert chain.maintain() == 0
        assert deposits(chain)[0][count:] == [(count + 1, 500), (count + 2, 1)]


def test_a_wrong_chain_is_refused(network: Network, tmp_path: Path) -> None:
    with open_local_chain(tmp_path / "other", "embedded", chain_id=5) as other:
        chain = open_chain([other.url], network.genesis, KEYS[0], tmp_path / "journal.db")
        for call in (chain.finalized, chain.latest_checkpoint, lambda: chain.deposit(ACCOUNT, 5)):
            with pytest.raises(WrongChain, match=f"is of the chain 5, the genesis names {LOCAL_CHAIN_ID}"):
                call()
        chain.close()
        both = open_chain([other.url, network.local.url], network.genesis)
        assert both.latest_checkpoint() is None
        assert [health.usable for health in both.health()] == [False, True]


def test_an_outage_is_waited_out(network: Network) -> None:
    with network.chain() as chain:
        chain.wait(chain.deposit(ACCOUNT, 5), WAIT_S, final=True)
        told, cursor = deposits(chain)
        network.stop()
        assert chain.maintain() == 0  # nothing is under way, so nobody is asked
        for call in (chain.finalized, chain.deposits, lambda: chain.deposit(ACCOUNT, 6)):
            with pytest.raises(ChainUnreachable):
                call()
        network.start()
        tx, moment = None, threading.Event()
        while tx is None:
            with suppress(ChainUnreachable):
                tx = chain.deposit(ACCOUNT, 7)
            moment.wait(0.05)
        chain.wait(tx, WAIT_S, final=True)
        assert deposits(chain, cursor)[0] == [(told[-1][0] + 1, 7)]
        check_deployed(network.local.rpc(), network.genesis)


def test_a_chain_started_anew_is_told(network: Network, tmp_path: Path) -> None:
    with open_local_chain(tmp_path, "embedded") as anew, pytest.raises(WrongChain, match="no contract registry"):
        check_deployed(anew.rpc(), network.genesis)
    network.local.kill()
    assert not network.local.running
    with network.chain() as chain, pytest.raises(ChainError):
        chain.deposits()


def test_the_chain_ends_with_who_opened_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from chain.localchain import open_local_chain\n"
        f"local = open_local_chain(Path({str(tmp_path)!r}))\n"
        "print(local.url, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as opener:
        assert opener.stdout is not None
        rpc = open_rpc([opener.stdout.readline().decode().strip()], LOCAL_CHAIN_ID)
        assert rpc.number("eth_chainId", []) == LOCAL_CHAIN_ID
        opener.kill()
    moment = threading.Event()
    with pytest.raises(ChainUnreachable):
        while not moment.wait(0.05):
            rpc.number("eth_chainId", [])


# On anvil, which can take blocks back


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Blocks are final after 16 others, and made when it is told to."""
    with open_network(tmp_path_factory.mktemp("deep"), "anvil", slots=8) as network:
        network.hold()
        network.mine(20)
        yield network


@pytest.mark.spec("CHAIN-CURSOR.1")
@needs_anvil
@pytest.mark.parametrize("depth", [1, 5, 12])
def test_a_reorganisation_loses_and_repeats_nothing(deep: Network, depth: int) -> None:
    with deep.chain() as chain:
        before, cursor = deposits(chain)
        sent: list[TxId] = []
        for amount in range(1, depth + 1):
            sent.append(chain.deposit(ACCOUNT, 100 + amount))
            deep.mine()
            chain.maintain()
        assert all(chain.status(tx).state is TxState.MINED for tx in sent)
        deep.ask("anvil_reorg", depth, [])
        chain.maintain()  # those that are gone are sent again
        assert all(chain.status(tx).state is TxState.PENDING for tx in sent)
        deep.mine()
        deep.mine(20)
        assert chain.maintain() == 0
        assert all(chain.status(tx).state is TxState.FINAL for tx in sent)
        first = before[-1][0] + 1 if before else 1
        assert deposits(chain, cursor)[0] == [(first + at, 101 + at) for at in range(depth)]
        assert chain.deposits() == first + depth - 1


@needs_anvil
def test_a_dropped_transaction_is_sent_again(deep: Network) -> None:
    with deep.chain() as chain:
        count = chain.deposits()
        tx = chain.deposit(ACCOUNT, 5)
        deep.ask("anvil_dropTransaction", f"0x{tx.hex()}")
        deep.mine()
        assert chain.deposits() == count
        chain.maintain()
        deep.mine(20)
        chain.maintain()
        assert chain.status(tx).state is TxState.FINAL
        assert chain.deposits() == count + 1


@needs_anvil
def test_a_transaction_that_another_took_the_place_of_is_not_believed_lost_at_once(deep: Network) -> None:
    with deep.chain() as chain:
        count = chain.deposits()
        tx = chain.deposit(ACCOUNT, 5)
        nonce = int(deep.ask("eth_getTransactionCount", f"0x{KEYS[0].node_id.hex()}", "latest"), 16)
        rival = Transaction(deep.local.chain_id, nonce, KEYS[1].node_id, b"", 1, 21_000, 10**12, 10**11).signed(KEYS[0])
        deep.ask("eth_sendRawTransaction", f"0x{rival.hex()}")
        deep.mine(20)
        chain.maintain()
        assert chain.status(tx).state is TxState.PENDING
        assert chain.deposits() == count
        after = chain.deposit(ACCOUNT, 6)
        deep.mine(20)
        chain.maintain()
        assert chain.status(after).state is TxState.FINAL
        assert chain.deposits() == count + 1
