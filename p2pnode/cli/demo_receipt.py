"""What the demo shows of receipts: the last answer's, in a file, is verified by nobody's word but the genesis's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from p2pnode.receipt_reading import Accepted, asks_chain
from p2pnode.receipts import load_receipt, save_receipt
from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.light.receipt import Invalid, Verdict, verify_receipt
from protocol.light.receipt.redact import redact
from protocol.light.receipt.verdict import Mark
from protocol.messages.receipts import Receipt

Done = Callable[[str, str], None]
"""Notes a step that has just ended: what, and some detail."""


class ReceiptRefused(P2PNodeError):
    """A receipt proves less than the client has seen."""

    code = "demo/receipt"


async def show_receipt(done: Done, genesis: Genesis, rpc: Sequence[str], answer: Any, path: Path) -> None:
    """Write it, and check every link of it: offline, without its text, and by the chain. Raises ReceiptRefused."""
    save_receipt(path, answer.receipt())
    receipt = load_receipt(path)
    offline = verify_receipt(receipt, network=genesis.network_id())
    level = _expect(offline, "finalized")
    links = sum(checked.mark is Mark.HOLDS for checked in offline.links)
    detail = f"{len(pack(receipt))} bytes, {links} links hold, {level}, by the genesis alone"
    done("receipt verified offline", detail)
    _expect(verify_receipt(redact(receipt), network=genesis.network_id()), "finalized")
    done("redacted receipt verified", f"{level}, and neither prompt nor text is in it")
    accepted = asks_chain(genesis, rpc)
    if accepted is not None:
        settled = await trio.to_thread.run_sync(_asked, receipt, genesis, accepted)
        done("receipt verified with the chain", _expect(settled, "settled"))


def _asked(receipt: Receipt, genesis: Genesis, accepted: Accepted) -> Verdict:
    return verify_receipt(receipt, network=genesis.network_id(), accepted=accepted)


def _expect(verdict: Verdict, least: str) -> str:
    if isinstance(verdict, Invalid):
        raise ReceiptRefused(f"the receipt is invalid at link {verdict.link}: {verdict.why}")
    level = verdict.level.name.lower()
    if level != least and not (least == "finalized" and level == "settled"):
        raise ReceiptRefused(f"the receipt proves that the answer is {level}, and it is {least}")
    return level
