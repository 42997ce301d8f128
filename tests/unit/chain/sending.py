"""A sender on a scripted chain, which can be ended and started again."""

from pathlib import Path

from chain.finality import Finality
from chain.journal import Journal
from chain.signed import SecretKey
from chain.transactions import Order, Sender
from protocol.core.ids import NodeId
from tests.unit.chain.scripted import CHAIN_ID, Clock, ScriptedChain, ScriptedEndpoint, rpc_of

KEY = SecretKey(b"\x07" * 32)
TO = NodeId(b"\x22" * 20)


def order(name: str, **more: object) -> Order:
    return Order(name.encode(), name, TO, name.encode(), **more)  # type: ignore[arg-type]


class Rig:
    """A chain, one endpoint or more, and a sender that can be ended and started again."""

    def __init__(self, path: Path | None = None, *, depth: int = 0, endpoints: int = 1) -> None:
        self.path = path
        self.clock = Clock()
        self.chain = ScriptedChain(depth)
        self.endpoints = [ScriptedEndpoint(self.chain) for _ in range(endpoints)]
        self.rpc = rpc_of(*self.endpoints, clock=self.clock)
        self.sender = self.started()

    @property
    def endpoint(self) -> ScriptedEndpoint:
        return self.endpoints[0]

    def started(self) -> Sender:
        journal = Journal(self.path, CHAIN_ID, KEY.node_id)
        return Sender(self.rpc, Finality(self.rpc), KEY, journal, clock=self.clock, sleep=lambda _: self.chain.mine())

    def restart(self) -> None:
        self.sender.close()
        self.sender = self.started()

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
