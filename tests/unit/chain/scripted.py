"""A chain of a few lines behind JSON-RPC, and endpoints of it that lie, lag, or are down when they are told to.

A transaction does nothing but be done: what was done, and how often, is in :attr:`ScriptedChain.done`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rlp

from chain.endpoint import Endpoint
from chain.errors import ChainUnreachable
from chain.rpc import Rpc
from protocol.core.signing import keccak

CHAIN_ID = 5
COIN = 10**18
SECONDS = 2


@dataclass(frozen=True)
class Sent:
    """A transaction that was taken into the pool."""

    hash: bytes
    nonce: int
    fee: int
    tip: int
    to: bytes
    data: bytes

    @staticmethod
    def of(raw: bytes) -> "Sent":
        assert raw[0] == 2
        fields = rlp.decode(raw[1:])
        nonce, tip, fee = (int.from_bytes(fields[at], "big") for at in (1, 2, 3))
        return Sent(keccak(raw), nonce, fee, tip, fields[5], fields[7])


@dataclass(frozen=True)
class Happened:
    """An event of a contract."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes = b""


@dataclass(frozen=True)
class Made:
    """A block."""

    number: int
    parent: bytes
    salt: int
    sent: tuple[Sent, ...] = ()
    events: tuple[Happened, ...] = ()

    @property
    def hash(self) -> bytes:
        content = b"".join(one.hash for one in self.sent) + repr(self.events).encode()
        return keccak(self.parent + self.number.to_bytes(8, "big") + self.salt.to_bytes(8, "big") + content)

    @property
    def bloom(self) -> int:
        filled = 0
        for event in self.events:
            for value in (event.address, *event.topics):
                hashed = keccak(value)
                for at in (0, 2, 4):
                    filled |= 1 << (int.from_bytes(hashed[at : at + 2], "big") & 2047)
        return filled


class ScriptedChain:
    """What is true. ``depth`` blocks behind the head are final."""

    def __init__(self, depth: int = 0, start_s: int = 1_000_000) -> None:
        self.depth = depth
        self.start_s = start_s
        self.blocks = [Made(0, bytes(32), 0)]
        self.pool: dict[bytes, Sent] = {}
        self.base_fee = 10
        self.balance = 100 * COIN
        self.reverting: set[bytes] = set()
        """Data whose transactions revert."""
        self._salt = 0

    @property
    def head(self) -> Made:
        return self.blocks[-1]

    @property
    def final(self) -> int:
        return max(0, self.head.number - self.depth)

    @property
    def done(self) -> list[bytes]:
        """What the chain has done, in order."""
        return [sent.data for block in self.blocks for sent in block.sent if sent.data not in self.reverting]

    def count(self, number: int | None = None) -> int:
        return sum(len(block.sent) for block in self.blocks[: None if number is None else number + 1])

    def add(self, sent: Sent) -> str:
        """Take it into the pool; what a node says if it does not."""
        if sent.hash in self.pool or any(sent in block.sent for block in self.blocks):
            return "already known"
        if sent.nonce < self.count():
            return "nonce too low"
        rival = next((one for one in self.pool.values() if one.nonce == sent.nonce), None)
        if rival is not None:
            if min(sent.fee / rival.fee, sent.tip / rival.tip) < 1.1:
                return "replacement transaction underpriced"
            del self.pool[rival.hash]
        self.pool[sent.hash] = sent
        return ""

    def mine(self, *events: Happened, count: int = 1, empty: bool = False) -> None:
        """The next blocks; the first takes what the pool can give."""
        for at in range(count):
            taken: list[Sent] = []
            while not empty and at == 0:
                turn = self.count() + len(taken)
                ready = next(
                    (one for one in self.pool.values() if one.nonce == turn and one.fee >= self.base_fee), None
                )
                if ready is None:
                    break
                del self.pool[ready.hash]
                taken.append(ready)
            self._salt += 1
            happened = events if at == 0 else ()
            self.blocks.append(Made(self.head.number + 1, self.head.hash, self._salt, tuple(taken), happened))

    def reorganise(self, depth: int, *, keep: bool = True, drop: bool = False) -> None:
        """Put other blocks in the place of the last ones, and one more. Their transactions go back to the pool, unless
        they are to be dropped; their events happen again in the first, if they are to be kept."""
        gone, self.blocks = self.blocks[-depth:], self.blocks[:-depth]
        for sent in (sent for block in gone for sent in block.sent):
            if not drop and all(one.nonce != sent.nonce for one in self.pool.values()):
                self.pool[sent.hash] = sent
        events = tuple(event for block in gone for event in block.events) if keep else ()
        self.mine(*events, empty=True)
        self.mine(count=depth, empty=True)


@dataclass
class ScriptedEndpoint:
    """How one endpoint shows a chain; its faults are its fields."""

    chain: ScriptedChain
    name: str = "http://one"
    down: bool = False
    chain_id: int = CHAIN_ID
    stopped_at: int | None = None
    """It knows no later block."""
    hidden: set[int] = field(default_factory=set)
    """Blocks whose events a range of blocks leaves out."""
    silent: set[int] = field(default_factory=set)
    """Blocks whose events it never tells."""
    forged: dict[int, bytes] = field(default_factory=dict)
    """Blocks and the hash it gives them."""
    false: dict[str, Any] = field(default_factory=dict)
    """Methods and what it answers instead of the truth."""
    no_receipts: bool = False
    range_max: int = 1 << 30
    batches: bool = True
    deaf: bool = False
    """It takes transactions and forgets them."""
    asked: list[str] = field(default_factory=list)
    refuse: Callable[[str], str | None] = lambda _: None
    """Told each method; the message of its error, if it is to refuse."""

    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, self.post)

    def post(self, body: bytes, _: float) -> bytes:
        if self.down:
            raise ChainUnreachable(f"{self.name}: connection refused")
        calls = json.loads(body)
        if isinstance(calls, list) and not self.batches:
            return json.dumps({"id": None, "error": {"code": -32600, "message": "no batches"}}).encode()
        return json.dumps([self._call(one) for one in calls] if isinstance(calls, list) else self._call(calls)).encode()

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        method = call["method"]
        self.asked.append(method)
        refusal = self.refuse(method)
        if refusal is not None:
            return {"id": call["id"], "error": {"code": -32000, "message": refusal}}
        if method in self.false:
            return {"id": call["id"], "result": self.false[method]}
        try:
            return {"id": call["id"], "result": getattr(self, f"_{method}")(*call["params"])}
        except LookupError as error:
            return {"id": call["id"], "error": {"code": -32000, "message": str(error)}}

    @property
    def _blocks(self) -> list[Made]:
        return self.chain.blocks[: None if self.stopped_at is None else self.stopped_at + 1]

    def _number(self, at: str) -> int:
        last = self._blocks[-1].number
        if at in ("latest", "pending"):
            return last
        return min(self.chain.final, last) if at == "finalized" else int(at, 16)

    def _hash(self, block: Made) -> str:
        return f"0x{self.forged.get(block.number, block.hash).hex()}"

    def _eth_chainId(self) -> str:  # noqa: N802
        return hex(self.chain_id)

    def _eth_blockNumber(self) -> str:  # noqa: N802
        return hex(self._blocks[-1].number)

    def _eth_getBlockByNumber(self, at: str, _: bool) -> dict[str, Any] | None:  # noqa: N802
        number = self._number(at)
        if number >= len(self._blocks):
            return None
        block = self._blocks[number]
        return {
            "number": hex(number),
            "hash": self._hash(block),
            "parentHash": self._hash(self._blocks[number - 1]) if number else f"0x{bytes(32).hex()}",
            "timestamp": hex(self.chain.start_s + SECONDS * number),
            "logsBloom": f"0x{block.bloom:0512x}",
            "baseFeePerGas": hex(self.chain.base_fee),
        }

    def _eth_getTransactionCount(self, _: str, at: str) -> str:  # noqa: N802
        waiting = {sent.nonce for sent in self.chain.pool.values()}
        count = self.chain.count(min(self._number(at), self._blocks[-1].number))
        while at == "pending" and count in waiting:
            count += 1
        return hex(count)

    def _eth_getBalance(self, *_: str) -> str:  # noqa: N802
        return hex(self.chain.balance)

    def _eth_maxPriorityFeePerGas(self) -> str:  # noqa: N802
        return hex(2)

    def _eth_estimateGas(self, call: dict[str, str]) -> str:  # noqa: N802
        if bytes.fromhex(call["data"][2:]) in self.chain.reverting:
            raise LookupError("execution reverted: no")
        return hex(50_000)

    def _eth_call(self, call: dict[str, str], _: str) -> str:
        if bytes.fromhex(call["data"][2:]) in self.chain.reverting:
            raise LookupError("execution reverted: no")
        return "0x"

    def _eth_sendRawTransaction(self, raw: str) -> str:  # noqa: N802
        sent = Sent.of(bytes.fromhex(raw[2:]))
        if not self.deaf and (refusal := self.chain.add(sent)):
            raise LookupError(refusal)
        return f"0x{sent.hash.hex()}"

    def _eth_getTransactionReceipt(self, hashed: str) -> dict[str, Any] | None:  # noqa: N802
        for block in [] if self.no_receipts else self._blocks:
            for sent in block.sent:
                if f"0x{sent.hash.hex()}" == hashed:
                    return {
                        "transactionHash": hashed,
                        "blockNumber": hex(block.number),
                        "blockHash": self._hash(block),
                        "gasUsed": hex(40_000),
                        "status": "0x0" if sent.data in self.chain.reverting else "0x1",
                    }
        return None

    def _eth_getLogs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: N802
        if "blockHash" in wanted:
            blocks = [block for block in self._blocks if self._hash(block) == wanted["blockHash"]]
            left_out = self.silent
        else:
            first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
            if last - first >= self.range_max:
                raise LookupError(f"block range is limited to {self.range_max}")
            blocks = self._blocks[first : last + 1]
            left_out = self.silent | self.hidden
        return [
            {
                "address": f"0x{event.address.hex()}",
                "topics": [f"0x{topic.hex()}" for topic in event.topics],
                "data": f"0x{event.data.hex()}",
                "blockNumber": hex(block.number),
                "blockHash": self._hash(block),
                "logIndex": hex(at),
                "transactionHash": f"0x{bytes(32).hex()}",
            }
            for block in blocks
            if block.number not in left_out
            for at, event in enumerate(block.events)
            if f"0x{event.address.hex()}" in wanted["address"] and f"0x{event.topics[0].hex()}" in wanted["topics"][0]
        ]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def rpc_of(*endpoints: ScriptedEndpoint, clock: Clock | None = None) -> Rpc:
    """A client of some endpoints, which are named by their places."""
    for place, endpoint in enumerate(endpoints):
        endpoint.name = f"http://{place}"
    return Rpc([endpoint.endpoint() for endpoint in endpoints], CHAIN_ID, clock=clock or Clock())
