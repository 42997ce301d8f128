"""What the demo shows of the chain: the contracts stand, and the answers get settled."""

from collections.abc import Callable, Sequence
from typing import Any

import trio

from p2pnode.testnet import Testnet
from protocol.core.errors import P2PNodeError

SETTLED_MS = 30_000

Done = Callable[[str, str], None]
"""Notes a step that has just ended: what, and some detail."""


class NotSettled(P2PNodeError):
    """The contract did not accept a header that holds the answer, or nobody told."""

    code = "demo/not-settled"


def tell_chain(done: Done, testnet: Testnet) -> None:
    """What was started, if there is a chain."""
    if testnet.chain is not None:
        staked = "its nodes are registered with stake, the client's deposit is on the ledger"
        done("chain up", f"{testnet.chain.kind}, chain id {testnet.chain.chain_id}: contracts deployed, {staked}")


async def show_settled(done: Done, testnet: Testnet, answers: Sequence[Any]) -> None:
    """Each answer's last level, which this client looked up on the chain itself. Raises NotSettled."""
    for number, answer in enumerate(answers, 1):
        if not await answer.wait_for("settled", timeout_ms=SETTLED_MS):
            status = await trio.to_thread.run_sync(testnet.oracles[0].ask, "status")
            raise NotSettled(
                f"answer {number} is not settled: it is {answer.level}",
                hint=f"what an oracle says of the chain: {status['oracle'].get('chain')}",
            )
        step = answer.levels[-1]
        after = f"{step.after_ms} ms after the signed end of answer {number}"
        done(step.level, f"{after}: {step.detail} is a checkpoint, in a final block of the chain")
