"""What the contracts are asked: the reading half of :class:`chain.api.Chain` on a real chain."""

from typing import Any

from chain.api import (
    AcceptedHeader,
    Answer,
    AnswerProved,
    DrawDue,
    EventCursor,
    EventPage,
    EvmBlock,
    InboxPage,
    InboxService,
    NamedCommittee,
    Question,
    RegisteredNode,
    Role,
)
from chain.binding import CONTRACT_OF, Event, binding, reason_of
from chain.endpoint import Endpoint, Refused
from chain.errors import Reverted, RpcNonsense, WrongChain
from chain.events import EventReader, Query
from chain.finality import Finality
from chain.proofs import block_header
from chain.replies import octets
from chain.rpc import Rpc
from protocol.core.genesis import Contracts
from protocol.core.ids import NOBODY, ZERO_DIGEST, Digest, NodeId
from protocol.core.params import COMMITTEE_SIZES
from protocol.messages.chain import Accepted, ChainEvent, Deposited, Drawn, NodeChanged

CANDIDATES_PAGE = 1_024
"""Oracles of the registry that are looked through in one call."""
PAGES_MAX = 64
_U64_END = 1 << 63
_ASKED, _ANSWERED = 1, 2
"""States of a question whose fee nobody has."""


class ContractReading:
    """See the module. Used from any thread."""

    def __init__(self, rpc: Rpc, contracts: Contracts, finality: Finality) -> None:
        self._rpc = rpc
        self._contracts = contracts
        self._finality = finality
        self._reader = EventReader(rpc, finality)
        self._ledger_events = _query(contracts, {"escrow": ["Deposited"], "registry": ["NodeChanged", "Drawn"]})
        self._ledger_events |= _query(contracts, {"checkpoints": ["Accepted"]})
        self._inbox_events = _query(contracts, {"inbox": ["Asked", "Answered", "Proved"]})

    def finalized(self) -> EvmBlock:
        """See Reading."""
        return self._finality.finalized()

    def block_at(self, number: int) -> EvmBlock:
        """See Reading."""
        return self._finality.block_at(number)

    def block_header(self, block: Digest) -> bytes:
        """See Reading."""
        return block_header(self._rpc, block)

    def start(self) -> EventCursor:
        """See Reading."""
        block = self._finality.block_at(max(0, self._contracts.start_block - 1))
        return EventCursor(block.number, block.hash)

    def events(self, after: EventCursor, limit: int) -> EventPage:
        """See Reading."""
        page = self._reader.page(Query(self._ledger_events, _ledger_event), after, limit)
        return EventPage(page.items, page.cursor, page.more)

    def latest_checkpoint(self) -> AcceptedHeader | None:
        """See Reading."""
        digest = Digest(self._ask("checkpoints", "latest"))
        return None if digest == ZERO_DIGEST else _accepted(digest, self._ask("checkpoints", "accepted", digest))

    def accepted(self, digest: Digest) -> AcceptedHeader | None:
        """See Reading."""
        return _accepted(digest, self._ask_final("checkpoints", "accepted", digest))

    def committee(self) -> NamedCommittee:
        """See Reading."""
        final = self._finality.finalized()
        latest = self.accepted(Digest(self._ask_final("checkpoints", "latest")))
        epoch = 1 if latest is None else latest.epoch + 1
        return NamedCommittee(epoch, Digest(self._ask_final("checkpoints", "root", epoch)), final.time_s)

    def usable(self, digest: Digest) -> bool:
        """See Reading."""
        return bool(self._ask("checkpoints", "usable", digest))

    def dead(self) -> bool:
        """See Reading."""
        return bool(self._ask("checkpoints", "dead"))

    def undrawn(self) -> DrawDue | None:
        """See Reading."""
        epoch, seed_block, count = self._ask("registry", "frozen")
        if not epoch or count < COMMITTEE_SIZES[0] or self._ask("registry", "drawn_root", epoch) != ZERO_DIGEST:
            return None
        if self._rpc.number("eth_blockNumber", []) <= seed_block:
            return None
        oracles = self._ask("registry", "oracle_count")
        found: list[NodeId] = []
        for first in range(0, min(oracles, CANDIDATES_PAGE * PAGES_MAX), CANDIDATES_PAGE):
            last = min(oracles, first + CANDIDATES_PAGE)
            found += self._ask("registry", "frozen_candidates", first, last)
        # Another number than was frozen: the endpoint has moved on meanwhile.
        return DrawDue(epoch, tuple(sorted(found))) if len(found) == count else None

    def node(self, node: NodeId) -> RegisteredNode | None:
        """See Reading."""
        owner, roles, stake, jailed, unbonding_from_s = self._ask("registry", "node", node)
        return None if owner == NOBODY else RegisteredNode(node, owner, Role(roles), stake, jailed, unbonding_from_s)

    def slashed(self, evidence_id: Digest) -> bool:
        """See Reading."""
        return bool(self._ask("registry", "slashed", evidence_id))

    def paid(self, account: NodeId) -> int:
        """See Reading."""
        return int(self._ask("escrow", "paid", account))

    def exited(self, account: NodeId) -> bool:
        """See Reading."""
        return bool(self._ask("escrow", "exited", account))

    def deposited(self, number: int) -> tuple[NodeId, int] | None:
        """See Reading."""
        account, amount = self._ask("escrow", "deposits", number)
        return (account, amount) if amount else None

    def deposits(self) -> int:
        """See Reading."""
        return int(self._ask("escrow", "deposit_count"))

    def coin(self, address: NodeId) -> int:
        """See Reading."""
        return self._rpc.number("eth_getBalance", [f"0x{address.hex()}", "latest"])

    def inbox(self, after: EventCursor, limit: int, router: NodeId | None = None) -> InboxPage:
        """See Reading."""
        page = self._reader.page(Query(self._inbox_events, _inbox_event), after, limit)
        items = tuple(item for _, (of, item) in page.items if router in (None, of))
        return InboxPage(items, page.cursor, page.more)

    def question(self, number: int) -> Question | None:
        """See Reading."""
        asker, router, state, deadline_s, fee, prompt, model, *_ = self._ask("inbox", "questions", number)
        if state not in (_ASKED, _ANSWERED):
            return None
        answered = state == _ANSWERED
        return Question(number, asker, router, Digest(prompt), Digest(model), b"", deadline_s, fee, b"", answered)

    def service(self, router: NodeId) -> InboxService | None:
        """See Reading."""
        key, fee_min = self._ask("inbox", "services", router)
        return None if key == bytes(32) else InboxService(key, fee_min)

    def name_head(self, name: str) -> tuple[int, Digest] | None:
        """See Reading."""
        _, number, head, _ = self._ask("models", "head", name)
        return (number, Digest(head)) if number else None

    def name_alias(self, name: str, alias: str) -> Digest | None:
        """See Reading."""
        number, model = self._ask("models", "alias", name, alias.encode().ljust(32, b"\0"))
        return Digest(model) if number else None

    # Calls

    def _ask(self, contract: str, function: str, *values: Any) -> Any:
        """What a view says at the latest block, by one endpoint's word."""
        return self._rpc.ask(lambda endpoint: self._answer(endpoint, "latest", contract, function, *values))

    def _ask_final(self, contract: str, function: str, *values: Any) -> Any:
        """What a view says at a final block, by the word of more than half."""
        at = hex(self._finality.finalized().number)
        return self._rpc.agreed(
            lambda endpoint: self._answer(endpoint, at, contract, function, *values), f"{contract}.{function}"
        )

    def _answer(self, endpoint: Endpoint, at: str, contract: str, function: str, *values: Any) -> Any:
        address: NodeId = getattr(self._contracts, contract)
        asked = binding(CONTRACT_OF[contract]).functions[function]
        call = {"to": f"0x{address.hex()}", "data": f"0x{asked.encode(*values).hex()}"}
        try:
            data = octets(endpoint.call("eth_call", [call, at], str))
        except Refused as error:
            if error.reverts:
                raise Reverted(f"{contract}.{function}", reason_of(error.data)) from error
            raise
        if not data:
            raise WrongChain(
                f"there is no contract {contract} at 0x{address.hex()} on chain {self._rpc.chain_id}",
                hint="`p2pnode chain deploy` puts them there; a chain that was started anew has none",
            )
        return asked.decode(data)


_Events = dict[tuple[NodeId, bytes], Event]


def _query(contracts: Contracts, wanted: dict[str, list[str]]) -> _Events:
    found: _Events = {}
    for contract, names in wanted.items():
        for name in names:
            event = binding(CONTRACT_OF[contract]).events[name]
            found[getattr(contracts, contract), event.topic] = event
    return found


def _ledger_event(_: NodeId, event: Event, values: dict[str, Any]) -> ChainEvent:
    """What the ledger takes in of an event. Amounts and counts are below 2^63 by the contracts' own bounds."""
    match event.name:
        case "Deposited":
            return Deposited(_u64(values["number"]), values["account"], _u64(values["amount"]))
        case "NodeChanged":
            roles, stake = _u64(values["roles"]) & 0xFF, _u64(values["stake"])
            return NodeChanged(values["node"], values["owner"], roles, stake, values["jailed"])
        case "Drawn":
            return Drawn(_u64(values["epoch"]), values["members"])
        case _:
            return Accepted(_u64(values["epoch"]), _u64(values["height"]), values["digest"])


def _inbox_event(_: NodeId, event: Event, values: dict[str, Any]) -> tuple[NodeId, Question | Answer | AnswerProved]:
    """Whose router it is, and what happened."""
    number, router = values["number"], values["router"]
    match event.name:
        case "Asked":
            question = Question(
                number,
                values["asker"],
                router,
                Digest(values["prompt"]),
                Digest(values["model"]),
                values["reply_key"],
                values["deadline"],
                values["fee"],
                values["sealed"],
            )
            return router, question
        case "Answered":
            session = Digest(values["session"])
            return router, Answer(number, session, values["task"], values["lane"], values["sealed"])
        case _:
            return router, AnswerProved(number, router, values["fee"], Digest(values["root"]))


def _accepted(digest: Digest, said: tuple[int, int, int, int]) -> AcceptedHeader | None:
    time_s, epoch, height, sequence = said
    return AcceptedHeader(digest, epoch, height, time_s, sequence) if sequence else None


def _u64(value: int) -> int:
    if value >= _U64_END:
        raise RpcNonsense(f"answered an event with {value}, which the contracts never say")
    return value
