"""What the demo shows of the ledger: what the answers cost, and who has it now."""

from collections.abc import Callable
from typing import Any

import trio

from p2pnode.testnet import Testnet
from protocol.core.ids import NodeId

WAIT_S = 10.0
POLL_S = 0.1

Done = Callable[[str, str], None]
"""Notes a step that has just ended: what, and some detail."""


async def balances(testnet: Testnet) -> dict[str, int]:
    """What every node and the client have, by address."""
    rows: dict[str, int] = {}
    addresses = [child.ready["node"] for child in testnet.children]
    for address in addresses:
        record = await _ask(testnet, f"account:{address}")
        rows[address] = 0 if record is None else record["balance_wei"]
    return rows


async def _ask(testnet: Testnet, what: str) -> dict[str, Any] | None:
    """A record of the ledger, as the first oracle has it."""
    answer = await trio.to_thread.run_sync(testnet.oracles[0].ask, f"ledger:{what}")
    record: dict[str, Any] | None = answer["record"]
    return record


async def show_payments(done: Done, testnet: Testnet, session: bytes, client: NodeId, before: dict[str, int]) -> None:
    """Who was paid what by the client, once the ledger knows that the session is closed."""
    with trio.move_on_after(WAIT_S):
        while True:
            record = await _ask(testnet, f"session:{session.hex()}")
            if record is not None and record["closed"]:
                break
            await trio.sleep(POLL_S)
    after = gained(before, await balances(testnet))
    account = await _ask(testnet, "account:0x" + client.hex())
    shares = ", ".join(f"{testnet.name_of(address)} {wei}" for address, wei in sorted(after.items(), key=_most) if wei)
    done("paid", f"{sum(after.values())} wei for tokens that the client acknowledged: {shares}")
    if account is not None:
        left, reserved = account["balance_wei"], account["reserved_wei"]
        done("client's account", f"{left} wei left, {reserved} more are reserved until nothing can draw on them")


def gained(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """By how much each account has grown."""
    return {address: after[address] - before.get(address, 0) for address in after}


def _most(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
