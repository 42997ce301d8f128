"""The oracle of a running node: what it is started with, and what it says of itself to whoever asks the node."""

import logging
from collections.abc import Callable
from typing import Any

from p2pnode.chain_watch import ChainWatch
from p2pnode.checkpoint_book import CheckpointBook
from p2pnode.clock import Clock
from p2pnode.ledger_answers import LedgerAnswers
from p2pnode.oracle_records import claim_store, stored_epoch
from p2pnode.signer_log import SignerLog
from p2pnode.store import NodeStore
from protocol.committee.cut import content_bytes_max
from protocol.committee.signer import Signer
from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.core.signing import Sign
from protocol.ledger import Ledger
from protocol.light.handovers import HandOverStore
from protocol.messages.results import Content, Submit
from protocol.results.evidence import Evidence
from protocol.roles.oracle import Accuse, Include, OracleMachine, OracleSettings
from protocol.roles.oracle.news import fits_news

log = logging.getLogger(__name__)

INCLUDE = "include:"
"""The question that hands an item in: this, and the item in hexadecimal digits."""
EPOCHS_LOADED = 2
"""Before the present one, of which something may still be asked."""


async def make_machine(
    node: NodeId, sign: Sign, genesis: Genesis, store: NodeStore, signer_log: SignerLog, clock: Clock
) -> OracleMachine:
    """The machine, as store and signer log have left it. Raises StoreError, SignerLogError."""
    domain, params = genesis.domain(), genesis.params
    await claim_store(store, genesis)
    lost = signer_log.lost
    recent = max(0, stored_epoch(store) - EPOCHS_LOADED)
    signed = {} if lost is not None else await signer_log.load(recent)
    signer = Signer(domain, node, sign, signed)
    signer.forget(recent)
    reason = None if lost is None else lost.what
    if reason is not None:
        log.warning("the signer log is lost, so nothing is signed in this epoch and the next: %s", reason)
    settings = OracleSettings(node, genesis.committee, Ledger(domain, params, genesis), signer, reason, store.load)
    machine = OracleMachine(settings, domain, params, sign, clock())
    if not machine.member:
        log.warning("this key is not in the committee of epoch %d: it follows", machine.simplex.committee.epoch)
    return machine


class Oracle:
    """An oracle at work, as the node's operator sees it."""

    def __init__(
        self,
        machine: OracleMachine,
        params: Params,
        dispatch: Callable[[object], None],
        clock: Clock,
        book: CheckpointBook,
        chain: ChainWatch | None = None,
    ) -> None:
        self._machine = machine
        self._book = book
        self._chain = chain
        self._params = params
        self._dispatch = dispatch
        self._clock = clock
        self._ledger = LedgerAnswers(
            params, machine.results.outcomes, machine.results.earnings, lambda: machine.results.final
        )

    @property
    def hand_overs(self) -> HandOverStore:
        """How the committees came about."""
        return self._machine.results.hand_overs.store

    def ledger(self, question: str) -> dict[str, Any]:
        """What the ledger holds. Raises LedgerQuestionError."""
        return self._ledger.answer(question)

    def checkpoint(self, question: str) -> dict[str, Any]:
        """What is kept of checkpoints. Raises CheckpointError."""
        return self._book.answer(question)

    def hand_in(self, submit: Submit) -> None:
        """What somebody signed for the ledger goes out in a batch of this oracle's."""
        content = Content(
            sessions=submit.sessions,
            closes=submit.closes,
            withdrawals=submit.withdrawals,
            enlistments=submit.enlistments,
            entries=submit.entries,
        )
        self._dispatch(Include(pack(content)))

    def accuse(self, convicted: NodeId, evidence: Evidence) -> dict[str, Any]:
        """Tell everybody of evidence that convicts a node, and report it to the contract in this node's turns."""
        machine = self._machine
        known = machine.news.evidence
        self._dispatch(Accuse(evidence))
        record = machine.simplex.tree.base.state.registered(convicted)
        return {
            "new": machine.news.evidence > known,
            "gossiped": fits_news(evidence),
            "registered": record is not None,
            "jailed": record is not None and record.jailed,
            "reports": self._chain is not None,
        }

    def include(self, digits: str) -> dict[str, Any]:
        """Hand an item in. Raises P2PNodeError if it is none."""
        try:
            content = bytes.fromhex(digits)
        except ValueError:
            content = b""
        if not 0 < len(content) <= content_bytes_max(self._params):
            raise P2PNodeError(
                f"an item is 1 to {content_bytes_max(self._params)} bytes in hexadecimal digits",
                code="control/malformed",
                hint=f"ask {INCLUDE}00ff",
            )
        before = self._machine.signer.last_batch(self._machine.simplex.committee.epoch)
        self._dispatch(Include(content))
        epoch = self._machine.simplex.committee.epoch
        number = self._machine.signer.last_batch(epoch)
        return {"epoch": epoch, "batch": number if number > before else None, "signing": self._machine.signing}

    def status(self) -> dict[str, Any]:
        """In a few words."""
        machine = self._machine
        return {
            "epoch": machine.simplex.committee.epoch,
            "height": machine.simplex.height,
            "final": machine.simplex.tree.base.header.height,
            "signing": machine.signing,
            "results": machine.results.load(),
            **self._settles(),
        }

    def _settles(self) -> dict[str, Any]:
        """How far the chain has come, where this oracle looks at one."""
        return {} if self._chain is None else {"chain": self._chain.status()}

    def committee(self) -> dict[str, Any]:
        """Who is in it, what they are at, and how long it takes."""
        machine, now_ms = self._machine, self._clock()
        simplex = machine.simplex
        header = simplex.tree.base.header
        last = machine.history.blocks[-1] if machine.history.blocks else None
        leader = simplex.committee.members[simplex.committee.leader(simplex.height)]
        return {
            "epoch": simplex.committee.epoch,
            "height": simplex.height,
            "leader": _shown(leader),
            "final": {
                "epoch": header.epoch,
                "height": header.height,
                "outcomes": header.results_count,
                "batches": simplex.tree.base.state.batches,
                "age_ms": None if last is None else now_ms - last.final_ms,
            },
            "signing": machine.signing,
            "quorum": simplex.committee.quorum,
            "members": self._members(now_ms),
            "gap_ms": _percentiles([block.gap_ms for block in list(machine.history.blocks)[1:]]),
            "batches_waiting": len(simplex.waiting),
            "evidence": machine.news.evidence,
            **self._settles(),
        }

    def _members(self, now_ms: int) -> list[dict[str, Any]]:
        machine = self._machine
        simplex = machine.simplex
        rows = []
        for place, member in enumerate(simplex.committee.members):
            mine = member == machine.me
            heard = machine.presence.of(member)
            height = simplex.height if mine else heard.height if heard is not None else None
            rows.append(
                {
                    "place": place,
                    "node": _shown(member),
                    "leader": simplex.committee.leader(simplex.height) == place,
                    "link": "this node" if mine else "up" if machine.links.up(member) else "down",
                    "height": height,
                    "lag": None if height is None else max(0, simplex.tree.final_height - height),
                    "heard_ms": 0 if mine else None if heard is None else now_ms - heard.at_ms,
                }
            )
        return rows

    def blocks(self) -> list[dict[str, Any]]:
        """The last ones that became final here, the newest last."""
        return [
            {
                "epoch": block.epoch,
                "height": block.height,
                "leader": _shown(block.leader),
                "outcomes": block.count,
                "empty": block.empty,
                "final_ms": block.final_ms,
                "gap_ms": block.gap_ms,
            }
            for block in self._machine.history.blocks
        ]

    def pool(self) -> list[dict[str, Any]]:
        """Where the ledger's miners stand, as of the last final block."""
        return [
            {
                "node": _shown(node),
                "state": miner.state.name.lower(),
                "model": miner.model.hex(),
                "slots": miner.slots,
                "test": miner.test,
                "called": miner.call is not None,
                "tested_epoch": miner.tested_epoch,
                "tokens_per_second": miner.tokens_per_second,
                "first_token_ms": miner.first_token_ms,
            }
            for node, miner in sorted(self._machine.simplex.tree.base.state.miners())
        ]


def _shown(node: NodeId) -> str:
    return "0x" + node.hex()


def _percentiles(values: list[int]) -> dict[str, int | None]:
    """The middle one, and the one that 99 of a hundred do not exceed."""
    ordered = sorted(values)
    at = {"p50": 50, "p99": 99}
    return {name: ordered[(len(ordered) - 1) * share // 100] if ordered else None for name, share in at.items()}
