"""What a node does to the process it runs in: ports, threads, sockets, warnings, the log."""

import logging
import os
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID

from p2pnode.transport.libp2p import open_libp2p
from p2pnode.transport.seam import TransportError
from protocol.core.errors import ParameterError
from tests.runtime.traps.attack import Attack, config, key

ROOT = Path(__file__).parent.parent.parent.parent


async def test_a_port_that_is_taken(attack: Attack) -> None:
    place = attack.victim.addresses[0].partition("/p2p/")[0]
    with pytest.raises(TransportError, match="in use") as refused:
        async with open_libp2p(key(80), config(listen=(place,))):
            pass
    assert refused.value.hint is not None


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with open_libp2p(key(1), config()):
            raise KeyError("the caller's")


async def test_closing_is_quick_and_leaves_no_thread() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_libp2p(key(20 + n), config())) for n in range(4)]
        for node in nodes[1:]:
            await node.connect(nodes[0].addresses[0])
        others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        assert all(name.startswith("Trio thread") for name in others)  # trio's own, from an earlier test
        start = trio.current_time()
    assert trio.current_time() - start < 6.0


async def test_mdns_starts_and_stops() -> None:
    """Whether multicast works here or not: no thread stays, and nobody waits for it."""
    local = ("/ip4/127.0.0.1/tcp/0",)
    with trio.fail_after(30):
        async with open_libp2p(key(1), config(listen=local, mdns=True)) as node:
            assert node.me == key(1).node_id


async def test_cancelling_closes_too() -> None:
    with trio.move_on_after(0.5) as scope:
        async with open_libp2p(key(1), config()) as a, open_libp2p(key(2), config()) as b:
            await a.connect(b.addresses[0])
            await trio.sleep_forever()
    assert scope.cancelled_caught


def test_a_whole_life_without_a_warning() -> None:
    """In a process of its own, with every warning an error and the log configured by the program."""
    program = """
import gc, logging, threading, trio
logging.basicConfig(level=logging.WARNING, format="LOG %(name)s %(message)s")
from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p

async def main():
    config = Libp2pConfig(listen=("/ip4/127.0.0.1/tcp/0",))
    async with open_libp2p(NodeKey.generate(), config) as a, open_libp2p(NodeKey.generate(), config) as b:
        for address in b.addresses:
            await a.connect(address)
            await a.disconnect(b.me)
        await a.connect(b.addresses[0])

trio.run(main)
gc.collect()
assert len(logging.getLogger().handlers) == 1
assert threading.enumerate() == [threading.main_thread()]
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_another_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from p2pnode.transport.libp2p import hardening

    monkeypatch.setattr(hardening, "LIBP2P_VERSION", "0.9.0")
    with pytest.raises(TransportError) as refused:
        hardening.check_version()
    assert "pip install" in str(refused.value.hint)


async def test_libp2ps_log_is_tamed(attack: Attack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await attack.attacker.disconnect(attack.victim.me)
    await attack.still_serves()
    assert [record for record in caplog.records if record.name.startswith("libp2p")] == []


def test_the_key_is_one() -> None:
    assert ID.from_pubkey(create_new_key_pair(key(5).secret).public_key).to_base58() == key(5).peer_id


async def test_listening_everywhere_names_places_to_be_found_at() -> None:
    """Nobody can dial 0.0.0.0."""
    async with open_libp2p(key(1), config(listen=("/ip4/0.0.0.0/tcp/0",))) as a, open_libp2p(key(2), config()) as b:
        assert not any("/0.0.0.0/" in address for address in a.addresses)
        for address in a.addresses:
            await b.connect(address)
            await b.disconnect(a.me)


@pytest.mark.parametrize(
    "settings", [{"connections": 0}, {"connections": 801}, {"send_s": 0.0}, {"topic_rates": {"t": -1.0}}], ids=str
)
def test_a_bound_that_cannot_hold_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        config(**settings)
