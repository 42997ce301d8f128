"""What an attacker may send to a real network: honest clients are served, memory is bounded, and nothing stays."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from p2pnode.channels import WAITING_BYTES_MAX
from p2pnode.client import LightClient, connect
from p2pnode.transport.libp2p import Libp2pConfig
from tests.runtime.adversaries.attacker import ATTACKS
from tests.runtime.adversaries.stage import PAUSE_S, Asked, Stage, attacking, levels_of, open_stage

UNDER_ATTACK_S = 2.0
GOSSIP = ("valid_signatures", "replayed_and_future")
MIB = 1 << 20
GROWTH_BYTES_MAX = 128 * MIB
"""What all peers together can make a node hold: 64 MiB of unfinished frames or, twice, 32 MiB of what they do not read
(it waits, and what is being written is a copy); and half as much again for the rest, and for what an allocator keeps.
"""
GOSSIP_RATE, GOSSIP_BURST = {"nodes": 20, "sessions": 50}, {"nodes": 80, "sessions": 200}
RETURNING = (
    "connections",
    "inbound",
    "handshakes",
    "channels",
    "streams",
    "sessions",
    "unfinished_bytes",
    "waiting_bytes",
)
"""Levels that an attack may raise only for as long as it lasts."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


class Watch:
    """An honest client before, during and after an attack, and what the victims hold meanwhile."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.asked = Asked()
        self.before: list[dict[str, Any]] = []
        self.during: list[dict[str, Any]] = []
        self.rss_bytes = [victim.rss_bytes for victim in self.victims]
        self.peak_bytes = [0, 0]
        self.attacked_s = 0.0

    @property
    def victims(self) -> tuple[Any, Any]:
        return self.stage.router, self.stage.miner

    async def run(self, name: str) -> None:
        """The whole course of an attack."""
        async with connect(self.stage.router.address) as client:
            await self.asked.times(client, 3)
            self.before = [await levels_of(victim) for victim in self.victims]
            began = trio.current_time()
            async with attacking(name, self.stage.router.address, self.stage.miner.address):
                await self._ask_meanwhile(client)
                async with connect(self.stage.router.address) as newcomer:
                    await self.asked.times(newcomer, 1)
                self.during = [await levels_of(victim) for victim in self.victims]
            self.attacked_s = trio.current_time() - began
            await self.asked.times(client, 3)
            await self._levels_return()

    async def _ask_meanwhile(self, client: LightClient) -> None:
        end = trio.current_time() + UNDER_ATTACK_S
        while trio.current_time() < end:
            await self.asked.times(client, 1)
            now = [victim.rss_bytes for victim in self.victims]
            self.peak_bytes = [max(pair) for pair in zip(self.peak_bytes, now, strict=True)]

    async def _levels_return(self) -> None:
        """Wait until all that the attack took is given back."""
        with trio.move_on_after(20):
            while self.excess(now := [await levels_of(victim) for victim in self.victims]):  # noqa: ASYNC110
                await trio.sleep(PAUSE_S)
            return
        raise AssertionError(f"still held 20 s after the attack: {self.excess(now)}")

    def excess(self, now: list[dict[str, Any]]) -> dict[str, list[int]]:
        """By how much the levels are above those before the attack."""
        rows = {name: [n[name] - b[name] for n, b in zip(now, self.before, strict=True)] for name in RETURNING}
        return {name: row for name, row in rows.items() if max(row) > 0}


def check_served(watch: Watch) -> None:
    """Honest questions were answered, memory was bounded, and the honest nodes have kept each other."""
    assert watch.asked.failed == []
    assert len(watch.asked.answers) == 1  # the same answer to the same question, every time
    for victim, before, peak in zip(watch.victims, watch.rss_bytes, watch.peak_bytes, strict=True):
        assert peak - before < GROWTH_BYTES_MAX, f"{victim.ready['name']} grew by {(peak - before) // MIB} MiB"
    for node in watch.during:
        assert node["handshakes"] <= Libp2pConfig().handshakes
        assert node["unfinished_bytes"] <= Libp2pConfig().unfinished_bytes
        assert node["waiting_bytes"] <= WAITING_BYTES_MAX + MIB  # of the machine that is asked, and a little of others
    router, miner = watch.during
    assert watch.stage.miner.node in router["peers"] and watch.stage.router.node in miner["peers"]


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in GOSSIP])
async def test_honest_clients_are_served_and_memory_is_bounded(stage: Stage, name: str) -> None:
    watch = Watch(stage)
    await watch.run(name)
    check_served(watch)


@pytest.mark.parametrize("name", GOSSIP)
async def test_a_flood_of_valid_gossip_costs_no_honest_node_its_voice(stage: Stage, name: str) -> None:
    """The router passes some of the flood on to the miner, beside its own announcements: the miner hears them all."""
    watch = Watch(stage)
    await watch.run(name)
    check_served(watch)

    sessions = len(watch.asked.first_s) - 6  # less those before and after
    assert watch.during[1]["bids"] - watch.before[1]["bids"] >= sessions - 1  # the newcomer's may be on its way
    for before, during in zip(watch.before, watch.during, strict=True):
        for topic, rate in GOSSIP_RATE.items():
            taken = during["gossip"][topic]["accepted"] - before["gossip"][topic]["accepted"]
            turned_away = during["gossip"][topic]["newcomer_over"] - before["gossip"][topic]["newcomer_over"]
            assert taken <= 3 * rate * watch.attacked_s + 2 * GOSSIP_BURST[topic]
            assert turned_away > 0, "it is a flood: an attacker on a busy machine says less, and still too much"
        assert during["adverts"] <= before["adverts"] + 100
