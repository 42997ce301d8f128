"""What the model's chain says when it is asked, through an endpoint that may be down or behind."""

from collections.abc import Callable
from dataclasses import dataclass
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
from chain.errors import ChainUnreachable, HistoryChanged
from chain.model.blocks import MadeBlock, ModelChain
from chain.model.calls import Call
from chain.model.checkpoints import Checkpoint
from chain.model.deployed import ModelContracts
from chain.model.inbox import State
from protocol.core.ids import NOBODY, Digest, NodeId
from protocol.core.params import COMMITTEE_SIZES
from protocol.messages.chain import Accepted, Deposited, Drawn, NodeChanged


@dataclass(slots=True)
class ModelEndpoint:
    """One way to a chain. What a test or a world sets here is what goes wrong."""

    chain: ModelChain
    down: bool = False
    """Nothing is answered, nothing taken."""
    behind: int = 0
    """It shows the chain as it was so many blocks ago."""
    loses: bool = False
    """It takes transactions, and nobody ever hears of them."""
    deaf: bool = False
    """As ``down``, and for good."""
    lies: bool = False
    """It tells of deposits that nobody made."""

    def blocks(self) -> list[MadeBlock]:
        """What it shows. Raises ChainUnreachable."""
        if self.down or self.deaf:
            raise ChainUnreachable("the endpoint does not answer")
        blocks = self.chain.blocks
        return blocks[: max(1, len(blocks) - self.behind)]


class ModelReading:
    """See ``chain.api.Reading``."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self.endpoint = endpoint

    # Blocks and events

    def finalized(self) -> EvmBlock:
        """See Reading."""
        return _shown(self._final()[-1])

    def block_at(self, number: int) -> EvmBlock:
        """See Reading."""
        final = self._final()
        if not 0 <= number < len(final):
            raise ChainUnreachable(f"block {number} is not final")
        return _shown(final[number])

    def block_header(self, block: Digest) -> bytes:
        """See Reading."""
        found = next((made.header for made in reversed(self.endpoint.blocks()) if made.hash == block), None)
        if found is None:
            raise ChainUnreachable(f"there is no block 0x{block.hex()}")
        return found

    def start(self) -> EventCursor:
        """See Reading."""
        first = self.endpoint.chain.blocks[0]
        return EventCursor(first.number, first.hash)

    def events(self, after: EventCursor, limit: int) -> EventPage:
        """See Reading."""
        kinds = (Deposited, NodeChanged, Drawn, Accepted)
        events, cursor, more = self._page(after, limit, lambda what: isinstance(what, kinds))
        if self.endpoint.lies and cursor.number > after.number:
            made = sum(isinstance(log.what, Deposited) for block in self._final() for log in block.logs)
            events.append((cursor.number, Deposited(made + 1, NodeId(b"\x11" * 20), 1_000)))
        return EventPage(tuple(events), cursor, more)

    def _page(
        self, after: EventCursor, limit: int, wanted: Callable[[Any], bool]
    ) -> tuple[list[tuple[int, Any]], EventCursor, bool]:
        found: list[tuple[int, Any]] = []
        for block in self._following(after):
            found += [(block.number, log.what) for log in block.logs if wanted(log.what)]
            after = EventCursor(block.number, block.hash)
            if len(found) >= limit:
                break
        return found, after, after.number + 1 < len(self._final())

    def _following(self, after: EventCursor) -> list[MadeBlock]:
        """The final blocks after a cursor; none at an endpoint that is behind it."""
        final = self._final()
        if after.number < len(final) and final[after.number].hash != after.hash:
            raise HistoryChanged(f"block {after.number} is another one than it was")
        return final[after.number + 1 :]

    # Checkpoints

    def latest_checkpoint(self) -> AcceptedHeader | None:
        """See Reading."""
        checkpoints = self._latest().checkpoints
        return _accepted(checkpoints.latest, checkpoints.accepted(checkpoints.latest))

    def accepted(self, digest: Digest) -> AcceptedHeader | None:
        """See Reading."""
        final = self._contracts(self._final()[-1])
        return _accepted(digest, final.checkpoints.accepted(digest))

    def committee(self) -> NamedCommittee:
        """See Reading."""
        final = self._final()[-1]
        checkpoints = self._contracts(final).checkpoints
        latest = _accepted(checkpoints.latest, checkpoints.accepted(checkpoints.latest))
        epoch = 1 if latest is None else latest.epoch + 1
        return NamedCommittee(epoch, checkpoints.epochs[epoch].root, final.time_s)

    def usable(self, digest: Digest) -> bool:
        """See Reading."""
        return self._latest().checkpoints.usable(self._view(), digest)

    def dead(self) -> bool:
        """See Reading."""
        return self._latest().checkpoints.dead(self._view())

    # Registry

    def undrawn(self) -> DrawDue | None:
        """See Reading."""
        registry, number = self._latest().registry, self.endpoint.blocks()[-1].number
        frozen, candidates = registry.frozen, tuple(sorted(registry.frozen_weights))
        due = frozen.epoch and frozen.epoch not in registry.drawn and number > frozen.seed_block
        return DrawDue(frozen.epoch, candidates) if due and len(candidates) >= COMMITTEE_SIZES[0] else None

    def node(self, node: NodeId) -> RegisteredNode | None:
        """See Reading."""
        registry = self._latest().registry
        key = registry.keys.get(node)
        if key is None or key.until_s:
            return None
        bond = registry.bonds[key.bond]
        return RegisteredNode(node, bond.owner, Role(bond.roles), bond.stake, bond.jailed, bond.unbonding_from_s)

    def slashed(self, evidence_id: Digest) -> bool:
        """See Reading."""
        return evidence_id in self._latest().registry.used

    # Escrow

    def paid(self, account: NodeId) -> int:
        """See Reading."""
        return self._latest().escrow.paid.get(account, 0)

    def exited(self, account: NodeId) -> bool:
        """See Reading."""
        return account in self._latest().escrow.exited

    def deposited(self, number: int) -> tuple[NodeId, int] | None:
        """See Reading."""
        account, amount = self._latest().escrow.deposit_of(number)
        return None if account == NOBODY else (account, amount)

    def deposits(self) -> int:
        """See Reading."""
        return len(self._latest().escrow.deposits)

    def coin(self, address: NodeId) -> int:
        """See Reading."""
        return self.endpoint.chain.holdings(self.endpoint.blocks()[-1].number).coins.get(address, 0)

    # Inbox and names

    def inbox(self, after: EventCursor, limit: int, router: NodeId | None = None) -> InboxPage:
        """See Reading."""

        def wanted(what: Any) -> bool:
            kinds = isinstance(what, Question | Answer | AnswerProved)
            return kinds and (router is None or self._router_of(what) == router)

        items, cursor, more = self._page(after, limit, wanted)
        return InboxPage(tuple(item for _, item in items), cursor, more)

    def _router_of(self, item: Question | Answer | AnswerProved) -> NodeId:
        return self._latest().inbox.questions[item.number - 1].question.router

    def question(self, number: int) -> Question | None:
        """See Reading."""
        questions = self._latest().inbox.questions
        if not 0 < number <= len(questions) or questions[number - 1].state not in (State.ASKED, State.ANSWERED):
            return None
        asked = questions[number - 1]
        return _bare(asked.question, answered=asked.state is State.ANSWERED)

    def service(self, router: NodeId) -> InboxService | None:
        """See Reading."""
        service = self._latest().inbox.services.get(router)
        return service if service is not None and any(service.key) else None

    def name_head(self, name: str) -> tuple[int, Digest] | None:
        """See Reading."""
        head = self._latest().models.heads.get(name)
        return None if head is None else (head.number, Digest(head.head))

    def name_alias(self, name: str, alias: str) -> Digest | None:
        """See Reading."""
        known = self._latest().models.aliases.get((name, alias))
        return None if known is None else Digest(known[1])

    # How

    def _final(self) -> list[MadeBlock]:
        blocks = self.endpoint.blocks()
        return blocks[: max(1, len(blocks) - self.endpoint.chain.depth)]

    def _latest(self) -> ModelContracts:
        return self._contracts(self.endpoint.blocks()[-1])

    def _contracts(self, block: MadeBlock) -> ModelContracts:
        return self.endpoint.chain.holdings(block.number).contracts

    def _view(self) -> Call:
        """Who only looks, at the latest block."""
        block = self.endpoint.blocks()[-1]
        return Call(NOBODY, 0, block.number, block.time_s, lambda _: block.hash, {})


def _shown(block: MadeBlock) -> EvmBlock:
    return EvmBlock(block.number, block.hash, block.time_s)


def _accepted(digest: Digest, kept: Checkpoint) -> AcceptedHeader | None:
    return AcceptedHeader(digest, kept.epoch, kept.height, kept.time_s, kept.sequence) if kept.sequence else None


def _bare(question: Question, *, answered: bool) -> Question:
    """What the contract keeps of a question: nothing of what is sealed."""
    return Question(
        question.number,
        question.asker,
        question.router,
        question.prompt,
        question.model,
        b"",
        question.deadline_s,
        question.fee,
        b"",
        answered,
    )
