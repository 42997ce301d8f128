"""Deposits once and dies by SIGKILL right before or right after the transaction leaves: a process for a test."""

import json
import os
import signal
import sys
from pathlib import Path

from chain.client import open_chain
from chain.endpoint import Refused
from chain.rpc import Rpc
from protocol.core.genesis import parse_genesis
from tests.runtime.local_chain import ACCOUNT, KEYS

_send = Rpc.send


def die(rpc: Rpc, raw: bytes) -> list[Refused]:
    """In the place of sending."""
    if plan["when"] == "after":
        _send(rpc, raw)
    os.kill(os.getpid(), signal.SIGKILL)
    return []


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    Rpc.send = die  # type: ignore[method-assign]
    chain = open_chain([plan["url"]], parse_genesis(plan["genesis"]), KEYS[0], Path(plan["journal"]))
    chain.deposit(ACCOUNT, 500)
