"""What an oracle's operator is told of the ledger: records as they stand in the last final block, each with its proof.

ledger                      how much there is of everything
ledger:account:ADDRESS      also session:, miner:, node:ID, name:NAME; the first digits are enough where they name one
ledger:outcome:INDEX        a verdict, and its place in the results tree
ledger:earnings:ADDRESS     what an account was paid, by epoch and as what; this oracle's own books, without a proof
ledger:pool                 also sessions, nodes, registry: all of them
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.core.params import Params
from protocol.ledger.accounts import Account
from protocol.ledger.chain import ChainState
from protocol.ledger.miners import Miner
from protocol.ledger.names import Name
from protocol.ledger.nodes import Node
from protocol.ledger.proofs import read_record
from protocol.ledger.records import Record, Section
from protocol.ledger.sessions import Session
from protocol.ledger.state import State
from protocol.messages.results import Outcome, Verdict
from protocol.roles.oracle.earnings import Earnings
from protocol.roles.oracle.followers import Final
from protocol.roles.oracle.outcomes import Outcomes

QUESTION = "ledger"
"""What every question begins with."""
ROWS_MAX = 1_000
"""Of a list."""
_KEYS = {
    "account": (Section.ACCOUNTS, 20),
    "session": (Section.SESSIONS, 32),
    "miner": (Section.MINERS, 20),
    "node": (Section.NODES, 20),
}
_LISTS = {"pool": Section.MINERS, "sessions": Section.SESSIONS, "nodes": Section.NODES, "registry": Section.NAMES}
_ROLES = ("router", "miner", "oracle")
"""By the bits of a registered node's roles."""


class LedgerQuestionError(P2PNodeError):
    """A question about the ledger that cannot be answered."""

    code = "control/ledger"


class LedgerAnswers:
    """Answers from the last final state; ``final`` gives it, None before the first."""

    def __init__(
        self, params: Params, outcomes: Outcomes, earnings: Earnings, final: Callable[[], Final | None]
    ) -> None:
        self._params = params
        self._outcomes = outcomes
        self._earnings = earnings
        self._final = final

    def answer(self, question: str) -> dict[str, Any]:
        """Answer a question by its name. Raises LedgerQuestionError."""
        final = self._final()
        if final is None or final.certified.header is None:
            raise LedgerQuestionError("no block is final here yet", hint="wait until the committee has met")
        header = final.certified.header
        ledger, _, rest = question.partition(":")
        what, _, name = rest.partition(":")
        if ledger != QUESTION:
            raise LedgerQuestionError(f"no question is {question[:32]!r}", hint=f"ask {QUESTION}:account:ADDRESS")
        answer = {"epoch": header.epoch, "height": header.height, "certified": pack(final.certified).hex()}
        if not what:
            return answer | {"total": _totals(final.state)}
        if what in _LISTS:
            return answer | {"rows": list(self._rows(final.state, _LISTS[what]))}
        if what == "outcome":
            return answer | self._outcome(final, name)
        if what == "earnings":
            return answer | self._earned(final, name)
        if what in _KEYS or what == "name":
            section = Section.NAMES if what == "name" else _KEYS[what][0]
            key = name.encode() if what == "name" else _find(final.state, section, _KEYS[what][1], name)
            proof = final.state.prove(section, key)
            record = None if proof.value is None else read_record(section, proof.value)
            shown = None if record is None else self._shown(record, final.state)
            return answer | {"key": _key(section, key), "record": shown, "proof": pack(proof).hex()}
        raise LedgerQuestionError(
            f"the ledger has no {what[:32]!r}",
            hint="ask for account, session, miner, node, outcome, pool, nodes or registry",
        )

    def _outcome(self, final: Final, name: str) -> dict[str, Any]:
        index = int(name) if name.isdecimal() and len(name) < 19 else -1
        news = self._outcomes.news(index, final.certified) if index >= 0 else None
        if news is None:
            count = final.state.mountain.count
            raise LedgerQuestionError(f"there is no outcome {name[:32]!r}", hint=f"there are {count}, from 0")
        outcome = {"index": index, **_outcome(news.outcome)}
        return {"key": name, "record": outcome, "proof": pack(news).hex()}

    def _earned(self, final: Final, name: str) -> dict[str, Any]:
        account = _find(final.state, *_KEYS["account"], name)
        rows = [
            {
                "epoch": epoch,
                "miner_wei": row.miner,
                "router_wei": row.router,
                "oracle_wei": row.oracle,
                "payments": row.payments,
            }
            for epoch, row in self._earnings.of(account)
        ]
        return {"key": _hex(account), "earnings": rows}

    def _rows(self, state: State, section: Section) -> Iterator[dict[str, Any]]:
        for number, (key, value) in enumerate(sorted(state.tree(section).items())):
            if number == ROWS_MAX:
                return
            yield {"key": _key(section, key), **self._shown(read_record(section, value), state)}

    def _shown(self, record: Record, state: State) -> dict[str, Any]:
        match record:
            case Account():
                return {
                    "balance_wei": record.balance_wei,
                    "reserved_wei": record.reserved_wei,
                    "withdrawable_wei": record.withdrawable_wei,
                }
            case Session():
                return {
                    "client": _hex(record.client),
                    "cap_wei": record.cap_wei,
                    "spent_wei": record.spent_wei,
                    "epochs": f"{record.first_epoch} to {record.last_epoch}",
                    "closed": record.closed,
                }
            case Miner():
                statistics = record.statistics.at(state.epoch, self._params.decay_bp)
                return {
                    "state": record.state.name.lower(),
                    "owner": _hex(record.owner),
                    "model": record.model.hex(),
                    "slots": record.slots,
                    "tested_epoch": record.tested_epoch,
                    "test": record.test if record.call is None else f"{record.test}, called",
                    "tokens_per_second": record.tokens_per_second,
                    "tokens": statistics.tokens,
                    "reputation_bp": statistics.reputation_bp(),
                }
            case Node():
                roles = [role for bit, role in enumerate(_ROLES) if record.roles >> bit & 1]
                return {
                    "owner": _hex(record.owner),
                    "roles": ", ".join(roles),
                    "stake": record.stake,
                    "jailed": record.jailed,
                }
            case Name():
                aliases = {alias.alias: alias.model.hex() for alias in record.aliases}
                return {
                    "owner": _hex(record.owner),
                    "number": record.number,
                    "head": record.head.hex(),
                    "model": record.model.hex(),
                    "aliases": aliases,
                }
        raise LedgerQuestionError(f"{type(record).__name__} cannot be shown")


def _totals(state: State) -> Mapping[str, int]:
    accounts = [Account.read(data) for _, data in state.tree(Section.ACCOUNTS).items()]
    return {
        "accounts": len(accounts),
        "balance_wei": sum(account.balance_wei for account in accounts),
        "reserved_wei": sum(account.reserved_wei for account in accounts),
        "withdrawable_wei": sum(account.withdrawable_wei for account in accounts),
        "sessions": len(state.tree(Section.SESSIONS)),
        "miners": len(state.tree(Section.MINERS)),
        "names": len(state.tree(Section.NAMES)),
        "outcomes": state.mountain.count,
        **({} if state.chain is None else _anchored(state, state.chain)),
    }


def _anchored(state: State, chain: ChainState) -> Mapping[str, int]:
    """What is taken in of the chain."""
    return {
        "nodes": len(state.tree(Section.NODES)),
        "anchor": chain.number,
        "chain_events": chain.events,
        "deposits": chain.deposits,
        "deposited_wei": chain.deposited,
    }


def _find(state: State, section: Section, size: int, name: str) -> bytes:
    """The key that a name's digits begin, or are."""
    digits = name.removeprefix("0x").lower()
    if len(digits) == 2 * size:
        try:
            return bytes.fromhex(digits)
        except ValueError:
            raise LedgerQuestionError(f"{name!r} is not in hexadecimal digits") from None
    found = [key for key, _ in state.tree(section).items() if digits and key.hex().startswith(digits)]
    if len(found) != 1:
        hint = f"all {2 * size} digits always name one"
        raise LedgerQuestionError(f"{len(found)} of {section.name.lower()} begin with {name[:80]!r}", hint=hint)
    return found[0]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "session": outcome.session.hex(),
        "task": outcome.task,
        "lane": outcome.lane,
        "verdict": Verdict(outcome.verdict).name.lower(),
        "root": outcome.root.hex(),
        "tokens": outcome.count,
        "home_epoch": outcome.home_epoch,
        "paid_wei": outcome.paid_wei,
    }


def _key(section: Section, key: bytes) -> str:
    if section is Section.NAMES:
        return key.decode(errors="replace")
    return key.hex() if section is Section.SESSIONS else _hex(key)


def _hex(node: bytes) -> str:
    return "0x" + node.hex()
