"""A day of a network in less than a minute: sessions, deposits, withdrawals, a question on the chain, epochs that turn.

Afterwards every unit is looked for: what was paid in is on the ledger or was paid out, and what left one account came
to another.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from chain.api import Chain
from p2pnode.chain_access import open_paying
from p2pnode.client import RequestFailed, connect
from p2pnode.identity import NodeKey
from p2pnode.testnet import CLIENT_WEI as GIVEN_WEI
from p2pnode.testnet import QUICK_ON_CHAIN, TESTNET, Child, Testnet, TestnetPlan
from p2pnode.testnet_chain import ChainPlan
from p2pnode.wallet import Wallet
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NodeId
from tests.runtime.plain_web3 import Asked, Inbox

CLIENTS = 3
CLIENT_WEI = 1_000_000
PRICE_WEI = 3
FEE = 12_345
EPOCH_BLOCKS = 24
WINDOW_S = 3
QUESTION = "Where does a bear live?"
STORY = "Tell me a story about a rabbit."
ARTIFACTS = Path(__file__).parents[2] / "chain" / "artifacts"


def plan_of(folder: Path, kind: str, clients: Sequence[NodeKey]) -> TestnetPlan:
    """A network of short epochs, in which clients have paid in."""
    from chain.deploy import Terms

    params = replace(QUICK_ON_CHAIN, epoch_blocks=EPOCH_BLOCKS)
    allocation = tuple(sorted((key.node_id, CLIENT_WEI) for key in clients))
    genesis = Genesis(TESTNET, params=params, allocation=allocation)
    chain = ChainPlan(kind, Terms(window_s=WINDOW_S, dead_s=86_400))
    return TestnetPlan(folder, miners=2, oracles=4, genesis=genesis, price_wei=PRICE_WEI, chain=chain, inbox=True)


@dataclass
class Day:
    """What happens to a running network."""

    net: Testnet
    clients: Sequence[NodeKey]
    folder: Path
    answers: int = 0
    refused: int = 0
    deposited: int = 0
    """Beside what the accounts began with."""
    withdrawn: dict[bytes, int] = field(default_factory=dict)

    @property
    def genesis(self) -> Genesis:
        """The network's."""
        return parse_genesis((self.net.plan.folder / "genesis.json").read_text(encoding="utf-8"))

    def chain(self, key: NodeKey) -> Chain:
        """The chain, with somebody's key, who gets some coin."""
        assert self.net.chain is not None
        self.net.chain.local.fund([key.node_id])
        journal = self.folder / f"{key.node_id.hex()}.db"
        return open_paying(self.genesis, [self.net.chain.url], key, journal)

    def wallet(self, key: NodeKey) -> Wallet:
        """Somebody's wallet."""
        ask = self.net.oracles[0].ask
        return Wallet(self.genesis, self.chain(key), ask, self.folder / "proofs", lambda _: None, 60)

    # What happens

    async def lives_on(self, seconds: float) -> None:
        """Clients ask, one pays in more, one takes out."""
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(seconds):
                for key in self.clients:
                    nursery.start_soon(self._asks, key, trio.current_time() + seconds)
                await trio.sleep_forever()

    async def _asks(self, key: NodeKey, until: float) -> None:
        async with connect(*self.net.addresses, key=key) as net:
            while trio.current_time() < until:
                try:
                    async with net.session(tokens=64) as session:
                        for prompt in (QUESTION, STORY):
                            async with session.ask(prompt, max_tokens=32) as answer:
                                await answer.read()
                            self.answers += await answer.wait_for("finalized", timeout_ms=20_000)
                except RequestFailed as error:
                    self.refused += 1
                    await trio.sleep(max(0.1, error.retry_after_ms / 1_000))

    async def pays_in(self, key: NodeKey, account: NodeId, units: int) -> None:
        """A deposit, until the ledger has it."""
        wallet = await trio.to_thread.run_sync(self.wallet, key)
        before = await trio.to_thread.run_sync(wallet.record, account)
        await trio.to_thread.run_sync(wallet.deposit, account, units)
        self.deposited += units
        await trio.to_thread.run_sync(wallet.await_balance, account, units, before)
        _close(wallet.chain)

    async def takes_out(self, key: NodeKey, units: int | None) -> None:
        """A withdrawal, until the escrow has paid it."""
        wallet = await trio.to_thread.run_sync(self.wallet, key)

        def out() -> int:
            total = wallet.sign_away(key, units)
            proved = wallet.await_proof(key.node_id, total)
            wallet.await_usable(proved)
            wallet.pay_out(proved)
            return wallet.chain.paid(key.node_id)

        self.withdrawn[key.node_id] = await trio.to_thread.run_sync(out)
        _close(wallet.chain)

    async def asks_on_chain(self, key: NodeKey) -> Asked:
        """A question by plain web3."""
        assert self.net.chain is not None
        url, router = self.net.chain.url, await self.inbox_address()
        genesis = (self.net.plan.folder / "genesis.json").read_text(encoding="utf-8")
        abi = json.loads((ARTIFACTS / "SessionInbox.json").read_text(encoding="utf-8"))["abi"]
        self.net.chain.local.fund([key.node_id])

        def ask() -> Asked:
            return Inbox(url, genesis, abi, key.secret.hex()).ask(router, QUESTION, 32, FEE)

        return await trio.to_thread.run_sync(ask)

    async def inbox_address(self) -> str:
        """Of the router, once its terms are on the chain."""
        while True:
            status = await trio.to_thread.run_sync(self.net.router.ask, "status")
            router = status["inbox"]["router"]
            chain = await trio.to_thread.run_sync(self.chain, NodeKey.generate())
            service = await trio.to_thread.run_sync(chain.service, NodeId(bytes.fromhex(router[2:])))
            _close(chain)
            if service is not None:
                return str(router)
            await trio.sleep(0.5)

    # What is left of it

    def ledger(self, what: str = "", oracle: int = 0) -> dict[str, Any]:
        """What an oracle says of the ledger."""
        return self.net.oracles[oracle].ask(f"ledger:{what}" if what else "ledger")

    def looks_for_every_unit(self) -> dict[str, int]:
        """Raises AssertionError where one is missing, or there is one too many."""
        total = self.ledger()["total"]
        paid_in = CLIENTS * CLIENT_WEI + GIVEN_WEI + self.deposited
        held = sum(total[name] for name in ("balance_wei", "reserved_wei", "withdrawable_wei"))
        assert held == total["deposited_wei"] == paid_in
        paid_out = sum(self.withdrawn.values())
        assert self._escrow() == paid_in - paid_out
        spent = sum(CLIENT_WEI - self._has(key.node_id) for key in self.clients)
        rows = {child.name: self._earned(child) for child in self.net.children}
        for name, (has, earned) in rows.items():
            assert has == earned or name == "router", f"{name} has {has}, and earned {earned}"
        # The router paid for what it was asked on the chain from what was paid in for it.
        has, earned = rows["router"]
        spent += self.deposited + earned - has
        assert spent == sum(earned for _, earned in rows.values())
        return {"paid_in": paid_in, "paid_out": paid_out, "spent": spent}

    def _escrow(self) -> int:
        """What lies in the contract; the unit is the coin's smallest."""
        assert self.net.chain is not None
        assert self.genesis.contracts is not None
        chain = self.chain(NodeKey.generate())
        coin = chain.coin(self.genesis.contracts.escrow)
        _close(chain)
        return coin

    def _has(self, account: bytes) -> int:
        record = self.ledger(f"account:0x{account.hex()}")["record"] or {}
        return sum(record.get(name, 0) for name in ("balance_wei", "reserved_wei", "withdrawable_wei"))

    def _earned(self, child: Child) -> tuple[int, int]:
        """What a node has, and what it was paid by the oracle's books: at one moment, as payments may come in."""
        node = child.ready["node"]
        while True:
            before, has = self._books(node), self._has(bytes.fromhex(node[2:]))
            if before == self._books(node):
                return has, before

    def _books(self, node: str) -> int:
        rows = self.ledger(f"earnings:{node}")["earnings"]
        return sum(row["miner_wei"] + row["router_wei"] + row["oracle_wei"] for row in rows)


def _close(chain: Any) -> None:
    chain.close()
