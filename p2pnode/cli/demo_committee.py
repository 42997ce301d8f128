"""What the demo shows of the committee: heights become final, the leader rotates, and one that is killed is passed."""

import time
from collections.abc import Callable
from typing import Any

import trio

from p2pnode.oracle import INCLUDE
from p2pnode.testnet import Child, Testnet

HEIGHTS = 4
POLL_S = 0.01
WAIT_S = 30.0

Done = Callable[[str, str], None]
"""Notes a step that has just ended: what, and some detail."""


async def show_committee(done: Done, testnet: Testnet) -> None:
    """Hand the oracles something to decide, height by height, then once more with the leader killed."""
    oracles = list(testnet.oracles)
    leaders, reached = [], (0, 0)
    for number in range(HEIGHTS):
        asked = oracles[number % len(oracles)]
        block, took_s = await _decide(asked, reached)
        reached = _slot(block)
        leaders.append(testnet.name_of(block["leader"]))
        done(f"height {block['height']} final", f"leader {leaders[-1]}, {_signed(testnet)}, {_after(took_s, asked)}")
    committee = oracles[0].ask("committee")
    leader = next(child for child in oracles if child.name == testnet.name_of(committee["leader"]))
    leader.process.kill()
    await leader.process.wait()
    done("oracle killed", f"{leader.name}, kill -9: it leads height {committee['height']}")
    asked = next(child for child in oracles if child is not leader)
    block, took_s = await _decide(asked, reached)
    name = testnet.name_of(block["leader"])
    done(f"height {block['height']} final", f"leader {name}, {_signed(testnet)}, {_after(took_s, asked)}")


async def _decide(oracle: Child, above: tuple[int, int]) -> tuple[dict[str, Any], float]:
    """Hand an item in; the block that it is in, or one that was on its way, and how long that took."""
    started = time.perf_counter()
    above = max(above, _slot(oracle.ask("committee")["final"]))
    oracle.ask(f"{INCLUDE}{time.time_ns():016x}")
    with trio.fail_after(WAIT_S):
        while True:
            blocks = oracle.ask("blocks")["blocks"]
            held = next((block for block in blocks if not block["empty"] and _slot(block) > above), None)
            if held is not None:
                return held, time.perf_counter() - started
            await trio.sleep(POLL_S)


def _slot(block: dict[str, Any]) -> tuple[int, int]:
    return block["epoch"], block["height"]


def _signed(testnet: Testnet) -> str:
    oracles = len(testnet.oracles)
    return f"{2 * (oracles - 1) // 3 + 1} of {oracles} signed"


def _after(took_s: float, oracle: Child) -> str:
    return f"{took_s * 1_000:.0f} ms after {oracle.name} was given its item"
