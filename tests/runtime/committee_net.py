"""A committee of real processes over real libp2p, whose members a test kills, freezes, cuts off and starts again."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil

from p2pnode.channels import OPEN_TIMEOUT_MS
from p2pnode.control import SOCKET, ControlError, ask_control
from p2pnode.signer_log import signer_log_path
from p2pnode.testnet import KEYSTORE, make_key
from protocol.committee.members import Committee, faulty_max, make_committee
from protocol.committee.timing import timeout_ms
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.roles.oracle.links import RETRY_MS_MAX
from tests.runtime.compare_disks import compare
from tests.runtime.load import stretched
from tests.runtime.tcp_proxy import Cables, Proxy

ROOT = Path(__file__).parents[2]
START_S = 60.0
POLL_S = 0.02

FAST = Params(
    delta_ms=300,
    resend_interval_ms=600,
    block_interval_ms_min=50,
    heartbeat_ms=500,
    gossip_committee_per_second=50,
    gossip_sessions_per_second=10,
)
"""Two cores carry some processes: a Δ that holds there, and otherwise as quick as it goes."""

T = TypeVar("T")


def until(look: Callable[[], T | None], within_s: float, what: str) -> T:
    """The first thing that ``look`` finds. Fails if it finds nothing in time, as this machine's load has it."""
    start = time.monotonic()
    pause = threading.Event()
    while (found := look()) is None or found is False:
        assert time.monotonic() < start + stretched(within_s), f"not within {within_s:.1f} s: {what}"
        pause.wait(POLL_S)
    return found


def bound_s(params: Params, size: int, dead_in_a_row: int, unfinalized: int = 0) -> float:
    """How long a block may take, from the moment at which all that live can hear each other, have something to
    include, and are within Δ of each other at one height that ``unfinalized`` others passed without a finalization.

    Each height of a dead leader costs its timer T, and 2Δ: members enter it, and hear the last nullify, a Δ apart. The
    live leader's costs the interval, and a Δ each for entering, proposal, votes, finalizes and the certificate.
    Messages may be lost at the start: then they come again after one interval of re-sending.
    """
    dead = sum(
        timeout_ms(params, faulty_max(size), height, 0) + 2 * params.delta_ms
        for height in range(unfinalized + 1, unfinalized + 1 + dead_in_a_row)
    )
    return (dead + params.block_interval_ms_min + 5 * params.delta_ms + params.resend_interval_ms) / 1_000


RECONNECT_S = (RETRY_MS_MAX + OPEN_TIMEOUT_MS) / 1_000
"""A link that has been broken for long is tried this seldom, and a try that hangs lasts so long."""


@dataclass
class Oracle:
    """One member, while it runs and while it does not."""

    name: str
    folder: Path
    node: NodeId
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def shown(self) -> str:
        return "0x" + self.node.hex()

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def signer_log(self) -> Path:
        return signer_log_path(self.folder / KEYSTORE, self.node)

    def ask(self, what: str) -> dict[str, Any]:
        return ask_control(self.folder / SOCKET, what)

    @property
    def final(self) -> tuple[int, int]:
        """Epoch and height of the last block that is final and executed here."""
        final = self.ask("committee")["final"]
        return final["epoch"], final["height"]

    @property
    def batches(self) -> int:
        """How many are final, since genesis."""
        return int(self.ask("committee")["final"]["batches"])

    def blocks_after(self, slot: tuple[int, int]) -> list[dict[str, Any]]:
        """The blocks above an epoch and height that became final here."""
        return [block for block in self.ask("blocks")["blocks"] if (block["epoch"], block["height"]) > slot]

    @property
    def linked(self) -> bool:
        """Whether the links to all others stand."""
        return all(member["link"] != "down" for member in self.ask("committee")["members"])

    @property
    def signing(self) -> str:
        return str(self.ask("status")["oracle"]["signing"])

    def include(self, content: bytes) -> None:
        self.ask(f"include:{content.hex()}")

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self._let_go()

    def stop(self) -> None:
        """As its operator stops it."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()[-2_000:]
        self._let_go()

    def _let_go(self) -> None:
        assert self.process is not None
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Net:
    """The committee. Made by :func:`open_net`."""

    def __init__(self, folder: Path, params: Params, size: int, *, proxied: bool) -> None:
        self.folder = folder
        self.params = params
        self.oracles = [self._member(folder / f"oracle-{number}") for number in range(1, size + 1)]
        self.genesis = Genesis("tests", params=params, committee=tuple(oracle.node for oracle in self.oracles))
        self.genesis_file = folder / "genesis.json"
        self.genesis_file.write_text(self.genesis.to_json(), encoding="utf-8")
        self.cables = Cables()
        self.proxies = {oracle.name: Proxy(oracle.name, self.cables, self._owner) for oracle in self.oracles if proxied}
        self.liars: list[NodeId] = []
        """Whose key a test signs forgeries with."""
        self._taken = 0

    @staticmethod
    def _member(folder: Path) -> Oracle:
        folder.mkdir(parents=True)
        return Oracle(folder.name, folder, make_key(folder).node_id)

    def _owner(self, port: int) -> str | None:
        for oracle in self.oracles:
            if oracle.running:
                assert oracle.process is not None
                with suppress(psutil.Error):
                    connections = psutil.Process(oracle.process.pid).net_connections("tcp")
                    if any(each.laddr.port == port for each in connections):
                        return oracle.name
        return None

    def committee(self, epoch: int = 1) -> Committee:
        return make_committee(self.genesis.network_id(), epoch, self.genesis.committee)

    @property
    def running(self) -> list[Oracle]:
        return [oracle for oracle in self.oracles if oracle.running]

    def others(self, *oracles: Oracle) -> list[Oracle]:
        """All that run but these."""
        return [oracle for oracle in self.running if oracle not in oracles]

    def leader(self, height: int, epoch: int = 1) -> Oracle:
        return self.oracles[self.committee(epoch).leader(height)]

    # Starting

    def start(self, *oracles: Oracle, limit: str = "", **env: str) -> None:
        """Start these, by default all that are down; the first one is the others' only bootstrap.

        Returns when they can be asked.
        """
        wanted = oracles or tuple(oracle for oracle in self.oracles if not oracle.running)
        first = [self.oracles[0]] if self.oracles[0] in wanted else []
        for group in (first, [oracle for oracle in wanted if oracle not in first]):
            for oracle in group:
                self._spawn(oracle, limit, env)
            for oracle in group:
                self._await_ready(oracle)

    def _spawn(self, oracle: Oracle, limit: str, env: dict[str, str]) -> None:
        settings = {
            "P2PNODE_NODE_NAME": oracle.name,
            "P2PNODE_NODE_ROLES": "oracle",
            "P2PNODE_NODE_STATE_DIR": str(oracle.folder),
            "P2PNODE_NETWORK_GENESIS": str(self.genesis_file),
            # Whoever knew it before finds it where it was.
            "P2PNODE_NETWORK_LISTEN": f"/ip4/127.0.0.1/tcp/{oracle.port}",
        }
        if oracle.name in self.proxies:
            settings["P2PNODE_NETWORK_ANNOUNCE"] = f"/ip4/127.0.0.1/tcp/{self.proxies[oracle.name].port}"
        if oracle is not self.oracles[0]:
            settings["P2PNODE_NETWORK_BOOTSTRAP"] = self._first_address()
        limited = ["bash", "-c", f'ulimit {limit} && exec "$@"', "bash"] if limit else []
        with oracle.log.open("ab") as log:
            oracle.process = subprocess.Popen(
                [*limited, sys.executable, "-m", "tests.runtime.listening_oracle", "run", "--json", "--as-child"],
                cwd=ROOT,
                env={**os.environ, **settings, **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _first_address(self) -> str:
        first = self.oracles[0]
        port = self.proxies[first.name].port if first.name in self.proxies else first.port
        return f"/ip4/127.0.0.1/tcp/{port}/p2p/{make_key(first.folder).peer_id}"

    def _await_ready(self, oracle: Oracle) -> None:
        assert oracle.process is not None
        assert oracle.process.stdout is not None
        ready = _line(oracle.process.stdout, START_S)
        assert ready, f"{oracle.name} did not start: {oracle.log.read_text()[-2_000:]}"
        if not oracle.port:
            oracle.port = _port_of(oracle)
        if oracle.name in self.proxies:
            self.proxies[oracle.name].target = oracle.port

    # Looking

    def await_signing(self, *oracles: Oracle, within_s: float = 20.0) -> None:
        """Wait until all of these sign."""
        for oracle in oracles or self.running:
            until(partial(_signs, oracle), within_s, f"{oracle.name} signs")

    def await_heights(self, above: tuple[int, int], *oracles: Oracle, within_s: float) -> None:
        """Wait until each of these has executed a final block above that."""
        end = time.monotonic() + within_s
        for oracle in oracles or self.running:
            left_s = max(0.0, end - time.monotonic())
            until(partial(_is_above, oracle, above), left_s, f"{oracle.name} above {above}")

    def await_links(self, within_s: float) -> None:
        """Wait until every link stands."""
        for oracle in self.running:
            until(partial(_is_linked, oracle), within_s, f"{oracle.name} has its links")

    def await_leading(self, oracle: Oracle, above: tuple[int, int], within_s: float = 20.0) -> None:
        """Wait until a block that this oracle proposed is final: it has caught up, and signs."""
        witness = self.others(oracle)[0]
        until(partial(_leads, witness, oracle, above), within_s, f"{oracle.name} leads a block above {above}")

    @property
    def highest(self) -> tuple[int, int]:
        """The highest final block that anybody has executed."""
        return max(oracle.final for oracle in self.running)

    def include(self, *oracles: Oracle) -> None:
        """Give each of these one item."""
        for oracle in oracles or self.running:
            self._taken += 1
            oracle.include(self._taken.to_bytes(8, "big"))

    @contextmanager
    def load(self, every_s: float = 0.05) -> Iterator[None]:
        """Give items all the time to whoever takes one."""
        over = threading.Event()

        def give() -> None:
            while not over.wait(every_s):
                for oracle in self.running:
                    with suppress(ControlError):
                        self.include(oracle)

        thread = threading.Thread(target=give)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # Ending

    def end(self) -> None:
        """Take everybody down, however they are."""
        self.cables.end()
        for oracle in self.running:
            oracle.send(signal.SIGCONT)
            oracle.kill()
        for proxy in self.proxies.values():
            proxy.close()

    def compare(self) -> None:
        """Compare all disks. Everybody must be down."""
        found = compare([oracle.folder for oracle in self.oracles], frozenset(self.liars))
        assert found.wrong == []
        assert found.signatures > 0


@contextmanager
def open_net(folder: Path, params: Params = FAST, size: int = 4, *, proxied: bool = False) -> Iterator[Net]:
    """A committee of which nobody runs yet; at the end everybody is stopped and all disks are compared."""
    net = Net(folder, params, size, proxied=proxied)
    try:
        yield net
    finally:
        net.end()
    net.compare()


def _signs(oracle: Oracle) -> bool:
    return oracle.signing == "yes"


def _is_above(oracle: Oracle, slot: tuple[int, int]) -> bool:
    return oracle.final > slot


def _is_linked(oracle: Oracle) -> bool:
    return oracle.linked


def _leads(witness: Oracle, oracle: Oracle, above: tuple[int, int]) -> bool:
    return any(block["leader"] == oracle.shown for block in witness.blocks_after(above))


def quicker(**changes: int) -> Params:
    """The fast parameters, changed."""
    return replace(FAST, **changes).validate()


def _line(stream: IO[bytes], within_s: float) -> dict[str, Any] | None:
    """The first line that a node prints; None if it ends before, or takes too long."""
    data = b""
    end = time.monotonic() + within_s
    while not data.endswith(b"\n"):
        left_s = end - time.monotonic()
        if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
            return None
        chunk = os.read(stream.fileno(), 65_536)
        if not chunk:
            return None
        data += chunk
    status: dict[str, Any] = json.loads(data)
    return status


def _port_of(oracle: Oracle) -> int:
    """Where it really listens, whatever it announces."""
    assert oracle.process is not None
    connections = psutil.Process(oracle.process.pid).net_connections("tcp")
    return int(next(each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN))
