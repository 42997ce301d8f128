"""Mistakes in contracts, and in how a network deals with them: what each would do, and the promise that it breaks.

Those in contracts are made in their model, which property tests hold to the contracts.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from chain.model import escrow as escrow_rules
from chain.model.calls import Call, require
from chain.model.checkpoints import Checkpoint, Epoch, ModelCheckpoints
from chain.model.client import ModelClient
from chain.model.escrow import Closing, ModelEscrow
from chain.model.evidence import ModelEvidence
from chain.model.reading import ModelReading
from chain.model.registry import ModelRegistry
from p2pnode.sim.mutation import Mutation, around, replaced
from protocol.committee.election import committee_root
from protocol.committee.members import faulty_max
from protocol.core.ids import Digest, NodeId
from protocol.ledger import words
from protocol.ledger.accounts import Account
from protocol.ledger.chain import ChainState
from protocol.messages.chain import Deposited
from protocol.messages.committee import Certified
from protocol.messages.evidence import ConflictingCommits
from protocol.messages.results import LedgerProof
from protocol.results.evidence import Evidence, evidence_id
from protocol.settlement import settler
from protocol.settlement.docket import Docket


def _any_committee(
    inner: Callable[..., Digest], checkpoints: ModelCheckpoints, certified: Certified, members: tuple[NodeId, ...]
) -> Digest:
    """Whoever is brought along is the committee."""
    assert certified.header is not None
    epoch = certified.header.epoch
    known = checkpoints.epochs.get(epoch)
    if known is None:
        return inner(certified, members)
    checkpoints.epochs[epoch] = Epoch(committee_root(members), known.opened_s, known.terms)
    try:
        return inner(certified, members)
    finally:
        checkpoints.epochs[epoch] = known


def _any_order(
    inner: Callable[..., None], checkpoints: ModelCheckpoints, call: Call, certified: Certified, members: Any
) -> None:
    """A header of the present epoch is taken, whatever came before it."""
    header, name = certified.header, checkpoints.latest
    last = checkpoints.accepted(name)
    assert header is not None
    if header.epoch != last.epoch or header.height > last.height:
        inner(call, certified, members)
        return
    checkpoints.kept[name] = Checkpoint(last.time_s, last.epoch, header.height - 1, last.sequence)
    try:
        inner(call, certified, members)
    finally:
        if name in checkpoints.kept:
            checkpoints.kept[name] = last


def _any_proof(_header: Any, proof: LedgerProof) -> tuple[NodeId, Account]:
    require(proof.value is not None, "proof")
    assert proof.value is not None
    return NodeId(proof.key), Account.read(proof.value)


def _forgets_paid(inner: Callable[..., None], escrow: ModelEscrow, call: Call, account: NodeId, total: int) -> None:
    escrow.paid.pop(account, None)
    inner(call, account, total)


def _forgets_exits(inner: Callable[..., None], escrow: ModelEscrow, *args: Any) -> None:
    account = NodeId(args[-1].key)
    escrow.exited.discard(account)
    escrow.paid.pop(account, None)
    inner(*args)


def _no_window(_inner: Any, checkpoints: ModelCheckpoints, _call: Call, digest: bytes) -> bool:
    return checkpoints.accepted(digest).sequence > 0


def _accused(
    inner: Callable[..., NodeId], court: ModelEvidence, call: Call, evidence: Evidence, reporter: NodeId
) -> NodeId:
    """Nobody asks who signed."""
    if not isinstance(evidence, ConflictingCommits):
        return inner(call, evidence, reporter)
    node, terms = NodeId(evidence.first.commit.miner), court.terms
    name = evidence_id(terms.domain, node, evidence)
    court.registry.slash(call.by(terms.addresses.evidence), node, name, reporter)
    return node


def _any_candidates(
    inner: Callable[..., None], registry: ModelRegistry, call: Call, epoch: int, candidates: tuple[NodeId, ...]
) -> None:
    """Whoever is named, of those there are."""
    before = registry.frozen_weights
    registry.frozen_weights = {node: weight for node, weight in before.items() if node in candidates}
    try:
        inner(call, epoch, candidates)
    finally:
        registry.frozen_weights = before


_take = words._take


def _take_twice(work: Any, event: object) -> None:
    _take(work, event)  # type: ignore[arg-type]
    if isinstance(event, Deposited):
        account = work.account(event.account)
        work.set_account(event.account, replace(account, balance_wei=account.balance_wei + event.amount))


def _one_turn(order: tuple[NodeId, ...], me: NodeId, due_ms: int, _turn_ms: int) -> int | None:
    return due_ms if me == min(order) else None


def _others(inner: Callable[..., tuple[NodeId, ...] | None], _chain: ChainState, epoch: int) -> Any:
    drawn = inner(epoch)
    return None if drawn is None else drawn[::-1]


CHAIN_MUTATIONS: Mapping[str, Mutation] = {
    "unfinal-block-read": Mutation(
        "oracles read blocks of the chain that are not final",
        "chain-losses",
        ("S7", "S4"),
        10,
        around(ModelReading, "_final", lambda _inner, reading: reading.endpoint.blocks()),
    ),
    "deposit-twice": Mutation(
        "a deposit is counted twice in the ledger",
        "chain-quiet",
        ("S7",),
        3,
        lambda: replaced(words, "_take", _take_twice),
    ),
    "f-anchor": Mutation(
        "f oracles that say the same of the chain are believed",
        "chain-liars",
        ("S7",),
        5,
        lambda: replaced(words, "faulty_max", lambda size: faulty_max(size) - 1),
    ),
    "committee-unchecked": Mutation(
        "the contract takes any members' word for a header, and for who follows them",
        "chain-quiet",
        ("S4",),
        5,
        around(ModelCheckpoints, "_check", _any_committee),
    ),
    "order-ignored": Mutation(
        "the contract goes back to an earlier header of its epoch",
        "chain-quiet",
        ("S4",),
        5,
        around(ModelCheckpoints, "submit", _any_order),
    ),
    "others-follow": Mutation(
        "the ledger hands over to others than the registry has drawn",
        "chain-quiet",
        ("L3",),
        10,
        around(ChainState, "drawn", _others),
    ),
    "draw-uncounted": Mutation(
        "the registry draws from the candidates that somebody names",
        "chain-quiet",
        ("S4",),
        10,
        around(ModelRegistry, "draw", _any_candidates),
    ),
    "window-ignored": Mutation(
        "money leaves by a header that can still be challenged",
        "chain-quiet",
        ("S7",),
        5,
        around(ModelCheckpoints, "usable", _no_window),
    ),
    "proof-unchecked": Mutation(
        "the escrow believes what it is told of an account",
        "chain-quiet",
        ("S7",),
        5,
        lambda: replaced(escrow_rules, "_account", _any_proof),
    ),
    "paid-forgotten": Mutation(
        "the escrow pays by one proof as often as it is shown",
        "chain-quiet",
        ("S7",),
        5,
        around(ModelEscrow, "_pay_up_to", _forgets_paid),
    ),
    "exit-twice": Mutation(
        "an account takes its exit as often as it likes",
        "chain-quiet",
        ("S7",),
        5,
        around(ModelEscrow, "exit", _forgets_exits),
    ),
    "refund-for-all": Mutation(
        "deposits go back that the ledger had taken in",
        "chain-quiet",
        ("S7",),
        5,
        lambda: replaced(Closing, "deposits", property(lambda _: 0)),
    ),
    "innocent-slashed": Mutation(
        "the court does not ask who signed", "chain-quiet", ("S12",), 5, around(ModelEvidence, "judge", _accused)
    ),
    "evidence-kept": Mutation(
        "oracles keep evidence to themselves",
        "chain-equivocators",
        ("L7",),
        10,
        around(Docket, "open", lambda *_: []),
    ),
    "one-turn": Mutation(
        "of all members one alone brings things to the chain",
        "chain-deaf",
        ("L3", "L7"),
        10,
        lambda: replaced(settler, "begins_ms", _one_turn),
    ),
    "never-sent-again": Mutation(
        "what the chain has lost is not sent again",
        "chain-losses",
        ("L3",),
        10,
        around(ModelClient, "maintain", lambda *_: 0),
    ),
}
"""By name."""
