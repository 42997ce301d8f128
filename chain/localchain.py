"""A chain on this machine for testnets and tests: anvil where it is installed, else the embedded EVM.

Either is a process of its own behind the same JSON-RPC, keeps its state in a folder, makes a block a second, and ends
with whoever opened it. Both know the same account that has coin from the start, so anybody who can reach the port can
spend it: such a chain listens on the loopback alone, and is worth nothing.
"""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

from chain.errors import ChainError, ChainUnreachable
from chain.replies import Receipt
from chain.rpc import Rpc, open_rpc
from chain.signed import SecretKey, Transaction, hash_of
from protocol.core.ids import NodeId

Kind = Literal["auto", "anvil", "embedded"]

LOCAL_CHAIN_ID = 31_337
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
FUNDING_TIMEOUT_S = 30.0
COIN = 10**18

FAUCET = SecretKey(bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"))
"""The first account of every local chain (anvil's first, known to everybody)."""


class NoLocalChain(ChainError):
    """A chain on this machine that cannot be started."""

    code = "chain/local"
    hint = "the log in its folder says why; `npm i -g @foundry-rs/anvil` brings anvil, --chain embedded needs nothing"


def has_anvil() -> bool:
    """Whether anvil is on the path."""
    return shutil.which("anvil") is not None


class LocalChain:
    """A running local chain. Made by :func:`open_local_chain`; close it, or use it in a ``with``."""

    def __init__(self, process: "subprocess.Popen[bytes]", kind: str, url: str, chain_id: int) -> None:
        self.kind = kind
        self.url = url
        self.chain_id = chain_id
        self._process = process

    def __enter__(self) -> "LocalChain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    @property
    def port(self) -> int:
        """Where it listens; a chain that is opened again there is found by those who know the URL."""
        return int(self.url.rpartition(":")[2])

    def rpc(self) -> Rpc:
        """A client of it."""
        return open_rpc([self.url], self.chain_id)

    def close(self) -> None:
        """End it in order: what it holds is in its folder."""
        _end(self._process)

    def kill(self) -> None:
        """End it as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _end(self._process)

    def fund(self, addresses: Iterable[NodeId], amount: int = 100 * COIN) -> None:
        """Give coin to some addresses from the account that has it. Raises ChainError."""
        fund(self.rpc(), addresses, amount)


def open_local_chain(
    folder: Path,
    kind: Kind = "auto",
    *,
    chain_id: int = LOCAL_CHAIN_ID,
    port: int = 0,
    block_s: float = 1,
    epoch_slots: int = 1,
) -> LocalChain:
    """Start the chain whose state is in a folder, or a new one. Raises NoLocalChain.

    Args:
        kind: Which one; "auto" is anvil where it is installed.
        port: Of the loopback; 0 takes a free one.
        block_s: Between blocks. Below a second, the chain's clock runs ahead.
        epoch_slots: anvil's blocks until a block is final, halved. The embedded chain's are final at once.
    """
    chosen = ("anvil" if has_anvil() else "embedded") if kind == "auto" else kind
    if chosen == "anvil" and not has_anvil():
        raise NoLocalChain("anvil is not on the path")
    folder.mkdir(parents=True, exist_ok=True)
    if chosen == "anvil":
        command = _anvil(folder, chain_id, port, block_s, epoch_slots)
    else:
        command = _embedded(folder, chain_id, port, block_s)
    with (folder / f"{chosen}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for who opened it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    try:
        place = _said(process)
    except BaseException:
        _end(process)
        raise
    return LocalChain(process, chosen, f"http://{place}", chain_id)


def _anvil(folder: Path, chain_id: int, port: int, block_s: float, epoch_slots: int) -> list[str]:
    anvil = shutil.which("anvil")
    assert anvil is not None
    options = {
        "--port": port,
        "--chain-id": chain_id,
        "--block-time": block_s,
        "--slots-in-an-epoch": epoch_slots,
        "--state": folder / "anvil.json",
        "--state-interval": 10,
    }
    flags = [str(word) for option in options.items() for word in option]
    return ["chain.guard", anvil, *flags]


def _embedded(folder: Path, chain_id: int, port: int, block_s: float) -> list[str]:
    options = {
        "--port": port,
        "--chain-id": chain_id,
        "--block-ms": int(block_s * 1_000),
        "--file": folder / "embedded.sqlite",
        "--fund": f"0x{FAUCET.node_id.hex()}",
    }
    return ["chain.embedded_server", *(str(word) for option in options.items() for word in option)]


def _said(process: "subprocess.Popen[bytes]") -> str:
    """Where the chain listens, as its first line says."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise NoLocalChain(f"the local chain did not start within {START_TIMEOUT_S:.0f} s")
            piece = os.read(process.stdout.fileno(), 256)
            if not piece:
                raise NoLocalChain("the local chain ended before it listened")
            line += piece
    word, _, place = line.decode("ascii", "replace").strip().partition(" ")
    if word != "listening":
        raise NoLocalChain(f"the local chain said {line[:80]!r}")
    return place


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()


def fund(rpc: Rpc, addresses: Iterable[NodeId], amount: int) -> None:
    """Give coin of a local chain to some addresses. Raises ChainError."""
    nonce = rpc.number("eth_getTransactionCount", [f"0x{FAUCET.node_id.hex()}", "pending"])
    price = 2 * rpc.number("eth_gasPrice", [])
    sent = []
    for place, address in enumerate(addresses):
        transaction = Transaction(rpc.chain_id, nonce + place, address, b"", amount, 21_000, price, price // 2)
        raw = transaction.signed(FAUCET)
        rpc.call("eth_sendRawTransaction", [f"0x{raw.hex()}"], str)
        sent.append(hash_of(raw))
    deadline = time.monotonic() + FUNDING_TIMEOUT_S
    for hashed in sent:
        while rpc.call("eth_getTransactionReceipt", [f"0x{hashed.hex()}"], Receipt | None) is None:
            if time.monotonic() > deadline:
                raise ChainUnreachable("the local chain makes no blocks")
            time.sleep(0.05)
