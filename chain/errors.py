"""What can go wrong between us and an EVM chain, each with what to do next.

Two questions decide what a caller does: may it be tried again as it is (``retry``), and is it the endpoint or the
chain that says no. An endpoint that is down, slow, stale or lying is never a reason to stop certifying.
"""

from protocol.core.errors import P2PNodeError


class ChainError(P2PNodeError):
    """The root of this package's errors."""

    code = "chain/failed"
    retry: bool = False
    """Whether the same call may work later without anybody doing anything."""


class ChainUnreachable(ChainError):
    """No endpoint answers, or each one is stale, slow or of the wrong form."""

    code = "chain/unreachable"
    hint = "check [chain] urls, and that the endpoint runs; the network goes on certifying without it"
    retry = True


class WrongChain(ChainError):
    """An endpoint is of another chain than the genesis names, or the contracts there are not the network's."""

    code = "chain/wrong"
    hint = "check that [chain] urls lead to the chain that the genesis names by chain_id"


class RpcRefused(ChainError):
    """An endpoint answered with a JSON-RPC error that is no revert; ``number`` is the error's."""

    code = "chain/refused"
    hint = "the endpoint does not do what is asked: try another one"

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class RpcNonsense(ChainError):
    """An endpoint answered what cannot be: of the wrong form, too long, or against what it or another said."""

    code = "chain/nonsense"
    hint = "this endpoint cannot be relied on: name another one in [chain] urls"
    retry = True


class HistoryChanged(ChainError):
    """A block that was final is not in the chain any more. Nothing can be built on such a chain."""

    code = "chain/history"
    hint = "if this is a local chain that was started anew, start the network anew too; else ask another endpoint"


class StateGone(ChainError):
    """No endpoint keeps the state of a block any more, or makes proofs of it."""

    code = "chain/state-gone"
    hint = "endpoints keep the state of the latest blocks alone: take a newer header, or ask an archive node"


class UnprovableChain(ChainError):
    """The headers of a chain's blocks are not made as Ethereum's are: its hashes cannot be computed from them."""

    code = "chain/unprovable"
    hint = "on this chain *settled* is shown by asking it (--rpc), not by a proof"


class Reverted(ChainError):
    """A contract refuses a call; ``reason`` is its short word, empty if it gave none."""

    code = "chain/reverted"

    def __init__(self, what: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what}: the contract refuses: {reason or 'without a reason'}", hint=hint)
        self.reason = reason


class NoKey(ChainError):
    """Something is to be sent, and this client has no key to sign it with."""

    code = "chain/no-key"
    hint = "name the key that pays: [chain] key, or --key FILE"


class NoFunds(ChainError):
    """The sending account cannot pay for the transaction."""

    code = "chain/funds"
    hint = "send coin to the address that is named, for fees and for what is to be paid in"
    retry = True


class TransactionFailed(ChainError):
    """A transaction was mined and reverted, was given up at its deadline, or its nonce was used by another one."""

    code = "chain/transaction"


class JournalError(ChainError):
    """The journal of signed transactions cannot be written or read. Nothing is sent without it."""

    code = "chain/journal"
    hint = "check the disk and the permissions of the folder; without its journal nothing is sent"
