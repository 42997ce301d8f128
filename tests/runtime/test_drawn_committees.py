"""Committees that the contract draws, followed by every node: more oracles are registered than are members, one of the
members never comes back, and where too few are left to draw from, the committee stays."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from chain.client import open_chain
from p2pnode.client import connect
from p2pnode.control import ControlError
from p2pnode.testnet import Child, TestnetPlan, client_key, make_key
from p2pnode.testnet_chain import ChainPlan
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from protocol.messages.chain import Drawn
from tests.runtime.local_chain import needs_anvil
from tests.runtime.settling_net import OnChain, settling, until

pytestmark = needs_anvil
PARAMS = Params(
    delta_ms=300,
    resend_interval_ms=600,
    heartbeat_ms=500,
    epoch_blocks=24,
    anchor_stride=4,
    checkpoint_ms=1_000,
    checkpoint_idle_ms=3_000,
    turn_ms=2_000,
    committee_size_max=4,
).validate()
MINED_S = 0.25
"""Between two blocks of the chain: seeds and final blocks come four times as soon as by anvil's own beat."""
EPOCH_S = 110.0
DRAWN = (3, 4, 5)
"""The first epoch whose candidates the contract froze, and those that follow it."""


@pytest.fixture
def on_chain(tmp_path: Path) -> Iterator[OnChain]:
    plan = TestnetPlan(
        tmp_path / "net",
        miners=1,
        oracles=6,
        members=4,
        genesis=Genesis("drawn", params=PARAMS),
        chain=ChainPlan("anvil"),
    )
    with settling(plan) as found, mining(found):
        yield found


@contextmanager
def mining(on_chain: OnChain) -> Iterator[None]:
    """Blocks come sooner than anvil makes them."""
    over = threading.Event()

    def mine() -> None:
        while not over.wait(MINED_S):
            on_chain.mine(1)

    thread = threading.Thread(target=mine)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def drawn(on_chain: OnChain) -> dict[int, set[str]]:
    """The committees that the contract has drawn, by epoch."""
    cursor, found, more = on_chain.contracts.start(), {}, True
    while more:
        page = on_chain.contracts.events(cursor, 1_000)
        cursor, more = page.cursor, page.more
        for _, event in page.events:
            if isinstance(event, Drawn):
                found[event.epoch] = {"0x" + member.hex() for member in event.members}
    return found


def seen(oracle: Child) -> tuple[int, set[str]]:
    """The epoch that an oracle is in, and its committee; no epoch where it does not run."""
    try:
        committee = oracle.ask("committee")
    except ControlError:
        return 0, set()
    return committee["epoch"], {member["node"] for member in committee["members"]}


class Epochs:
    """What the oracles said of each epoch's committee while a test went on."""

    def __init__(self, on_chain: OnChain) -> None:
        self._on_chain = on_chain
        self.members: dict[int, set[str]] = {}

    def reach(self, epoch: int) -> None:
        """Wait until some oracle is in an epoch, and note those before it."""
        until(lambda: self.look() >= epoch, EPOCH_S, f"epoch {epoch}")

    def look(self) -> int:
        """The latest epoch that an oracle is in."""
        for oracle in self._on_chain.net.oracles:
            epoch, members = seen(oracle)
            assert self.members.setdefault(epoch, members) == members, f"two committees of epoch {epoch}"
        return max(self.members)


async def answered(on_chain: OnChain) -> None:
    """A question is answered, and the answer final, for a client that starts from the genesis."""
    net = on_chain.net
    async with (
        connect(net.address, key=client_key(net.plan.folder), rpc=net.rpc) as client,
        client.session(tokens=512) as session,
    ):
        async with session.ask("Where does a bear live?", max_tokens=32) as answer:
            await answer.read()
        assert await answer.wait_for("settled", timeout_ms=30_000), answer.levels


def leave(on_chain: OnChain, oracles: Sequence[Child]) -> None:
    """Some oracles that are candidates ask for their stake back."""
    for oracle in oracles:
        key = make_key(oracle.folder)
        chain = open_chain(on_chain.net.rpc, on_chain.genesis, key)
        chain.wait(chain.begin_unbonding(key.node_id), 30.0)


@pytest.mark.long
def test_three_epochs_of_drawn_committees_without_one_member_and_then_too_few_candidates(on_chain: OnChain) -> None:
    net, epochs = on_chain.net, Epochs(on_chain)
    epochs.reach(DRAWN[0])
    victim = next(oracle for oracle in net.oracles if oracle.ready["node"] in epochs.members[DRAWN[0]])
    victim.process.kill()
    epochs.reach(DRAWN[-1])
    trio.run(answered, on_chain)
    committees = drawn(on_chain)
    for epoch in DRAWN:
        assert epochs.members[epoch] == committees[epoch], "who was drawn is who decides"
    assert epochs.members[1] == epochs.members[2] == {oracle.ready["node"] for oracle in net.oracles[:4]}
    until(lambda: net.router.ask("status")["router"]["epoch"] >= DRAWN[-1], EPOCH_S, "the router follows")
    running = [oracle for oracle in net.oracles if oracle is not victim]
    until(lambda: all(seen(oracle)[0] >= DRAWN[-1] for oracle in running), EPOCH_S, "members or not, all follow")
    leave(on_chain, running[-3:])
    until(lambda: epochs.look() > max(drawn(on_chain)), 4 * EPOCH_S, "an epoch that nobody was drawn for")
    last = max(epochs.members)
    assert epochs.members[last] == epochs.members[last - 1], "of three candidates nobody is drawn"
    trio.run(answered, on_chain)
