"""A ledger at hand: its committee, clients, miners and routers, whatever they sign for it, and blocks that bring it in.

Signatures are keyed hashes, put in force by ``keyed``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from p2pnode.sim.crypto import Key, KeyedHashes
from protocol.committee.certificates import batch_digest
from protocol.committee.cut import Cut, home_of
from protocol.committee.members import make_committee
from protocol.core.codec import pack
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain, TypedStruct, keccak, scheme, typed_digest
from protocol.ledger import Ledger, LedgerState, Section
from protocol.ledger.accounts import Account
from protocol.messages.committee import Batch, Header, SignedBatch
from protocol.messages.results import (
    AckWord,
    Content,
    Enlist,
    Observation,
    Opening,
    Outcome,
    RegistryEntry,
    SessionClose,
    SignedClose,
    SignedEnlist,
    SignedEntry,
    SignedSession,
    SignedWithdraw,
    TestReport,
    Verdict,
    Withdraw,
)
from protocol.messages.sessions import SessionOpen, session_id
from protocol.messages.tasks import Ack, SegmentHead, TaskOrder
from protocol.results.commitment import make_opening, opening_root, segment_of

HASHES = KeyedHashes(0)
ORACLES = tuple(HASHES.key(f"oracle {number}") for number in range(7))
CLIENT, OTHER_CLIENT, ROUTER, OTHER_ROUTER, OWNER, STRANGER = map(
    HASHES.key, ("client", "other client", "router", "other router", "owner", "stranger")
)
MINERS = tuple(HASHES.key(f"miner {number}") for number in range(4))
MINER = MINERS[0]
MODEL = keccak(b"model")
GENERATION = b"\x44" * 24
PRICE = 7
HAS_WEI = 1_000_000

PARAMS = replace(Params(), reservation_epochs=2, test_age_epochs=3, lanes_observed_max=16).validate()
GENESIS = Genesis(
    "ledger",
    params=PARAMS,
    committee=tuple(key.node_id for key in ORACLES[:4]),
    allocation=tuple(sorted((key.node_id, HAS_WEI) for key in (CLIENT, OTHER_CLIENT))),
    miners=tuple(sorted(key.node_id for key in MINERS[:2])),
)
DOMAIN = GENESIS.domain()


@pytest.fixture(scope="module", autouse=True)
def keyed() -> Iterator[None]:
    """Keyed hashes stand in for signatures; import it into a test module to put it in force there."""
    with scheme(HASHES):
        yield


def sign(key: Key, value: TypedStruct) -> bytes:
    """A struct's signature."""
    return key.sign(typed_digest(DOMAIN, value))


# What clients sign


def session_of(client: Key = CLIENT, number: int = 1, **fields: Any) -> SessionOpen:
    """A session that a client may open."""
    content: dict[str, Any] = {
        "client": client.node_id,
        "routers": (ROUTER.node_id,),
        "model": MODEL,
        "lanes": 1,
        "price_cap_wei": 10,
        "cap_wei": 10_000,
        "tasks_max": 100,
        "expires_ms": 0,
        "audits": False,
        "nonce": number.to_bytes(32, "big"),
        "header": ZERO_DIGEST,
    }
    return SessionOpen(**{**content, **fields})


def name_of(opening: SessionOpen) -> bytes:
    """The session's id."""
    return session_id(DOMAIN, opening)


def signed_session(opening: SessionOpen, client: Key = CLIENT) -> SignedSession:
    """As it goes into a batch."""
    return SignedSession(opening, sign(client, opening))


def close_of(opening: SessionOpen, client: Key = CLIENT) -> SignedClose:
    """The client's word that it is done."""
    close = SessionClose(name_of(opening))
    return SignedClose(close, sign(client, close))


def withdraw_of(total: int, account: Key = CLIENT, signer: Key | None = None) -> SignedWithdraw:
    """An account's word on what may leave."""
    word = Withdraw(account.node_id, total)
    return SignedWithdraw(word, sign(signer or account, word))


def order_of(opening: SessionOpen, task: int = 1, home_epoch: int = 1, **fields: Any) -> TaskOrder:
    """An order of a session."""
    content: dict[str, Any] = {
        "session": name_of(opening),
        "task": task,
        "home_epoch": home_epoch,
        "prompt": keccak(b"prompt"),
        "sampling": ZERO_DIGEST,
        "seed": ZERO_DIGEST,
        "max_tokens": 400,
        "cap_wei": 5_000,
    }
    return TaskOrder(**{**content, **fields})


@dataclass(frozen=True)
class Part:
    """A segment: who wrote it, from where on, at what price, and what the client acknowledged."""

    miner: Key = MINER
    start: int = 0
    price: int = PRICE
    acked: int | None = None
    router: Key = ROUTER
    acker: Key = CLIENT


def opening_of(
    order: TaskOrder,
    parts: Sequence[Part] = (Part(),),
    count: int = 100,
    lane: int = 0,
    client: Key = CLIENT,
    model: bytes = MODEL,
) -> Opening:
    """What a lane's last miner opens."""
    heads = [_head(order, part, lane, model, number) for number, part in enumerate(parts)]
    segments = [segment_of(head) for head in heads]
    for place, part in enumerate(parts):
        if part.acked is not None:
            head = heads[place]
            index, chain = part.acked, bytes([part.acked % 256]) * 32
            ack = Ack(head.session, head.task, lane, head.generation, typed_digest(DOMAIN, head), index, chain)
            word = AckWord(index, chain, sign(part.acker, ack))
            segments[place] = msgspec.structs.replace(segments[place], ack=word)
    return make_opening(DOMAIN, order, sign(client, order), heads, b"\x08" * 32, count, segments)


def _head(order: TaskOrder, part: Part, lane: int, model: bytes, number: int) -> SegmentHead:
    return SegmentHead(
        order.session,
        order.task,
        lane,
        bytes([number]) * 24,
        part.miner.node_id,
        typed_digest(DOMAIN, order),
        order.prompt,
        part.router.node_id,
        part.price,
        ZERO_DIGEST,
        3,
        model,
        order.sampling,
        part.start,
        ZERO_DIGEST,
    )


# What oracles say


def ok(opening: Opening) -> Observation:
    """The lane's result is the one that the opening leads to."""
    order = opening.order
    root = opening_root(DOMAIN, opening)
    return Observation(order.session, order.task, opening.lane, Verdict.OK, root, opening.count)


def failure(order: TaskOrder, verdict: Verdict = Verdict.LATE, lane: int = 0, miner: Key | None = None) -> Observation:
    """There is no result."""
    root = ZERO_DIGEST if miner is None else bytes(12) + miner.node_id
    return Observation(order.session, order.task, lane, verdict, root, 0)


# What miners and owners of models sign


def enlist_of(
    miner: Key, number: int = 1, owner: Key = OWNER, signer: Key | None = None, **fields: Any
) -> SignedEnlist:
    """A miner asks for a place in the pool."""
    content = {"owner": owner.node_id, "model": MODEL, "slots": 2, "tokens_per_second": 50, **fields}
    enlist = Enlist(miner=miner.node_id, number=number, **content)
    return SignedEnlist(enlist, sign(signer or miner, enlist))


def report_of(miner: Key, test: int, *, passed: bool = True, tokens_per_second: int = 40) -> TestReport:
    """An oracle's word on a test."""
    return TestReport(miner.node_id, test, passed, tokens_per_second, 30)


def entry_of(owner: Key = OWNER, name: str = "tiny", signer: Key | None = None, **fields: Any) -> SignedEntry:
    """An entry of a name's log; the first one if nothing else is said."""
    content = {"number": 1, "previous": ZERO_DIGEST, "model": MODEL, "alias": "", **fields}
    entry = RegistryEntry(owner=owner.node_id, name=name, **content)
    return SignedEntry(entry, sign(signer or owner, entry))


# Blocks

Said = Mapping[int, Content | bytes] | Sequence[tuple[int, Content | bytes]]
"""What oracles bring, by their place among ORACLES; a list where one brings several batches, bytes where it is none."""


@dataclass
class Books:
    """The ledger, a state, and each oracle's chain of batches."""

    genesis: Genesis = GENESIS
    state: LedgerState = field(init=False)
    decided: list[Outcome] = field(default_factory=list)
    """All outcomes so far."""

    def __post_init__(self) -> None:
        self.params = self.genesis.params
        self.ledger = Ledger(self.domain, self.params, self.genesis)
        self.state = self.ledger.genesis(self._committee(1))
        self.contents: list[bytes] = []

    @property
    def domain(self) -> Domain:
        """Of all of them the same: signatures are made for it."""
        return DOMAIN

    @property
    def epoch(self) -> int:
        """The present one."""
        return self.state.epoch

    def _committee(self, epoch: int) -> Any:
        members = self.genesis.committee if epoch == 1 else self.state.next_members
        return make_committee(self.domain.network_id, epoch, members)

    def body(self, said: Said, home_epoch: int | None = None) -> bytes:
        """A body in which oracles bring these contents, in batches of a home epoch: the present one, if not said."""
        home = self.epoch if home_epoch is None else home_epoch
        last: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        batches = []
        for place, content in said.items() if isinstance(said, Mapping) else said:
            oracle = ORACLES[place]
            number, previous = last.get((home, oracle.node_id)) or self.state.included(home, oracle.node_id)
            data = content if isinstance(content, bytes) else pack(content)
            batch = batch_of(oracle, data, number + 1, previous, home)
            last[home_of(batch)] = (number + 1, batch_digest(DOMAIN, batch.batch))
            batches.append(batch)
        batches.sort(key=lambda signed: (*home_of(signed), signed.batch.number))
        return pack(Cut(tuple(batches))) if batches else b""

    def block(self, said: Said = (), home_epoch: int | None = None) -> LedgerState:
        """A block is executed."""
        return self.execute(self.body(said, home_epoch))

    def execute(self, body: bytes) -> LedgerState:
        """A body is."""
        self.state = self.ledger.execute(self.state, body)
        self.decided += self.state.decided
        return self.state

    def bring(self, *, home_epoch: int | None = None, by: int = 0, **items: Any) -> LedgerState:
        """One oracle brings items."""
        return self.block({by: Content(**{name: tuple(each) for name, each in items.items()})}, home_epoch)

    def observe(
        self, *values: Observation, by: Iterable[int] = (0, 1, 2), home_epoch: int | None = None
    ) -> LedgerState:
        """Oracles say all the same of lanes."""
        return self.block({place: Content(observations=values) for place in by}, home_epoch)

    def turn(self, epochs: int = 1) -> LedgerState:
        """Epochs end; in each that begins one block follows."""
        for _ in range(epochs):
            self.state = self.ledger.turn(self.state, self._committee(self.epoch + 1))
            self.execute(b"")
        return self.state

    # What it comes to

    def reserve(self, opening: SessionOpen, client: Key = CLIENT) -> SessionOpen:
        """A session is reserved."""
        self.bring(sessions=[signed_session(opening, client)])
        assert self.state.session(name_of(opening)) is not None
        return opening

    def account(self, key: Key) -> Account:
        """What a key's account has."""
        return self.state.account(key.node_id)

    def balance(self, key: Key) -> int:
        """What of it is free."""
        return self.account(key).balance_wei

    def all_wei(self) -> int:
        """What all accounts have together, in whatever form."""
        return total_wei(self.state)

    def header(self) -> Header:
        """A header of the present state."""
        roots = self.state.roots
        return Header(
            self.epoch,
            1,
            ZERO_DIGEST,
            roots.results_root,
            roots.results_count,
            roots.ledger_root,
            roots.params_digest,
            roots.anchor_number,
            roots.anchor_hash,
            roots.deposits,
            roots.next_committee,
            ZERO_DIGEST,
        )


def batch_of(oracle: Key, content: bytes, number: int = 1, previous: bytes = ZERO_DIGEST, home: int = 1) -> SignedBatch:
    """An oracle's batch."""
    made = Batch(home, oracle.node_id, number, previous, keccak(content))
    return SignedBatch(made, oracle.sign(Digest(batch_digest(DOMAIN, made))), content)


def total_wei(state: LedgerState) -> int:
    """What all accounts of a state have together."""
    accounts = [Account.read(data) for _, data in state.tree(Section.ACCOUNTS).items()]
    return sum(account.balance_wei + account.reserved_wei + account.withdrawable_wei for account in accounts)


def available(books: Books) -> set[NodeId]:
    """The miners that may bid."""
    return {node for node, miner in books.state.miners() if miner.state.name == "AVAILABLE"}
