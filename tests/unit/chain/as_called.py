"""Calls and events of the model in the words of the EVM: arguments as contracts take them, events as they say them."""

from typing import Any

from msgspec.structs import astuple

from chain.api import Answer, AnswerProof, AnswerProved, InboxService, Question
from chain.model.calls import Log
from chain.model.checkpoints import Halted, Paused
from chain.model.escrow import Closed, Paid, Refunded
from chain.model.inbox import Reclaimed, Served
from chain.model.models import NameProved
from chain.model.registry import Frozen, Slashed
from protocol.core.signing import keccak
from protocol.ledger.accounts import Account
from protocol.messages.chain import Accepted, Deposited, Drawn, NodeChanged
from protocol.messages.committee import Certified, Header
from protocol.messages.evidence import ConflictingStatements
from protocol.messages.results import LedgerProof
from tests.unit.chain.contracts_at_hand import compact

NO_HEADER = (0, 0, bytes(32), bytes(32), 0, bytes(32), bytes(32), 0, bytes(32), 0, bytes(32), bytes(32))


def as_called(contract: str, function: str, arguments: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """A call of the model as the contract takes it: its function's name and arguments."""
    match (contract, function, *arguments):
        case "checkpoints", "submit", certified, members:
            return function, _certified(certified, members)
        case "checkpoints", "challenge", first, members, second, others:
            return function, (_certified(first, members), _certified(second, others))
        case "registry", "register", node, roles, stake, consent:
            return function, (node, roles, stake, compact(consent))
        case "registry", "rotate", old, new, consent:
            return function, (old, new, compact(consent))
        case "evidence", "judge", ConflictingStatements(first=first, second=second), reporter:
            both = [(each.kind, each.epoch, each.height, each.header) for each in (first, second)]
            return "statements", (*both, [compact(each.signature) for each in (first, second)], reporter)
        case "escrow", "withdraw", header, proof:
            return function, (astuple(header), *_account(proof))
        case "escrow", "exit", header, following, proof:
            return function, (NO_HEADER if header is None else astuple(header), following, *_account(proof))
        case "escrow", "refund", number, header, following:
            return function, (number, NO_HEADER if header is None else astuple(header), following)
        case "models", "prove", header, proof:
            return function, (proof.key.decode(), proof.value, astuple(header), proof.siblings, proof.sections)
        case "inbox", _, told:
            return function, _inbox(told)
    return function, arguments


def _certified(certified: Certified, members: tuple[bytes, ...]) -> tuple[Any, ...]:
    signed = certified.certificate.signatures
    assert isinstance(certified.header, Header)
    signers = sum(1 << each.index for each in signed)
    return (astuple(certified.header), members, signers, [compact(each.signature) for each in signed])


def _account(proof: LedgerProof) -> tuple[Any, ...]:
    has = Account() if proof.value is None else Account.read(proof.value)
    return (proof.key, astuple(has), proof.siblings, proof.sections)


def _inbox(told: Any) -> tuple[Any, ...]:
    match told:
        case InboxService(key=key, fee_min=fee_min):
            return (key, fee_min)
        case Question():
            return (told.router, told.prompt, told.model, told.reply_key, told.deadline_s, told.sealed)
        case Answer():
            return (told.number, told.session, told.task, told.lane, told.sealed)
        case AnswerProof(number, header, outcome, proof, order, result):
            return (number, *map(astuple, (header, outcome, proof, order, result)))
    return (told,)


def as_told(log: Log) -> tuple[Any, ...]:
    """An event of the model as a contract says it: its name, indexed fields first; addresses in hexadecimal."""
    match log.what:
        case NodeChanged(node, owner, roles, stake, jailed):
            return ("NodeChanged", _hex(node), _hex(owner), roles, stake, jailed)
        case Slashed(node, evidence, reporter, amount):
            return ("Slashed", _hex(node), evidence, _hex(reporter), amount)
        case Frozen(epoch, seed_block):
            return ("Frozen", epoch, seed_block)
        case Drawn(epoch, members):
            return ("Drawn", epoch, tuple(map(_hex, members)))
        case Accepted(epoch, height, digest):
            return ("Accepted", epoch, height, digest)
        case Halted(at_s, dead):
            return ("Halted", at_s, dead)
        case Paused(until_s):
            return ("Paused", until_s)
        case Deposited(number, account, amount):
            return ("Deposited", number, _hex(account), amount)
        case Paid(account, amount, total):
            return ("Paid", _hex(account), amount, total)
        case Refunded(number, account, amount):
            return ("Refunded", number, _hex(account), amount)
        case Closed(digest, deposits):
            return ("Closed", digest, deposits)
        case NameProved(name, owner, number, head, model):
            return ("Proved", keccak(name.encode()), _hex(owner), number, head, model, name)
    return _told_by_inbox(log.what)


def _told_by_inbox(what: Any) -> tuple[Any, ...]:
    match what:
        case Served(router, service):
            return ("Served", _hex(router), service.key, service.fee_min)
        case Question(number, asker, router, prompt, model, reply_key, deadline_s, fee, sealed):
            said = (prompt, model, reply_key, deadline_s, fee, sealed)
            return ("Asked", number, _hex(asker), _hex(router), *said)
        case Answer(number, session, task, lane, sealed):
            return ("Answered", number, session, task, lane, sealed)
        case AnswerProved(number, router, fee, root):
            return ("Proved", number, _hex(router), fee, root)
        case Reclaimed(number, asker, fee):
            return ("Reclaimed", number, _hex(asker), fee)
    raise AssertionError(f"no contract says {what!r}")


def _hex(address: bytes) -> str:
    return f"0x{address.hex()}"
