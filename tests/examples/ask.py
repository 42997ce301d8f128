"""One question, on trio: text as it comes, how certain it becomes, and a receipt that `p2pnode verify` checks.

python tests/examples/ask.py ROUTER_ADDRESS "Where does a bear live?" answer.receipt
"""

import sys
from pathlib import Path

import trio

from p2pnode.client import connect
from p2pnode.receipts import save_receipt


async def ask(router: str, question: str, receipt: Path) -> None:
    """Print the answer and its levels; keep its receipt."""
    async with connect(router) as net, net.session() as session:
        async with session.ask(question, max_tokens=64) as answer:
            async for text in answer:
                print(text, end="", flush=True)
        print()
        await answer.wait_for("finalized", timeout_ms=20_000)
        for reached in answer.levels:
            print(f"{reached.level} after {reached.after_ms} ms {reached.detail}")
        save_receipt(receipt, answer.receipt())


if __name__ == "__main__":
    trio.run(ask, sys.argv[1], sys.argv[2], Path(sys.argv[3]))
