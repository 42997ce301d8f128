"""What is final: the blocks that the chain will not take back, as more than half of the endpoints have them.

A chain that marks its final blocks is believed at its mark; of one that does not, a block is taken for final once so
many others stand on it as the configuration says. Which of the two it is, is never guessed: an endpoint could make us
believe blocks that are not final by refusing the mark. Spec: [CHAIN-FINAL.1]
"""

import threading

from chain.api import EvmBlock
from chain.endpoint import Endpoint, Refused
from chain.errors import ChainError, ChainUnreachable, HistoryChanged, RpcNonsense
from chain.replies import Block, Failure, quantity
from chain.rpc import Rpc, block_call, block_of

_UNKNOWN_TAG = ("tag", "finalized", "invalid", "unsupported", "not supported")


class Finality:
    """See the module. ``confirmations`` is 0 where the chain marks its final blocks. Used from any thread."""

    def __init__(self, rpc: Rpc, confirmations: int = 0) -> None:
        self._rpc = rpc
        self._confirmations = confirmations
        self._lock = threading.Lock()
        self._known: EvmBlock | None = None

    def finalized(self) -> EvmBlock:
        """The newest block that is final; it never sinks. Raises HistoryChanged, ChainError."""
        try:
            number = self._rpc.newest(self._claimed)
        except Refused as error:
            raise self._named(error) from error
        known = self._known
        number = number if known is None else max(number, known.number)
        block = self._agreed(number)
        with self._lock:
            before = self._known
            if before is not None and before.number == block.number and before.hash != block.hash:
                raise HistoryChanged(f"block {block.number} was final with another hash")
            if before is None or before.number < block.number:
                self._known = block
            return self._known or block

    def block_at(self, number: int) -> EvmBlock:
        """A final block. Raises ChainUnreachable for one that is not final yet."""
        known = self._known
        if known is None or known.number < number:
            known = self.finalized()
        if known.number < number:
            raise ChainUnreachable(f"block {number} is not final yet: {known.number} is the newest that is")
        return known if known.number == number else self._agreed(number)

    def _claimed(self, endpoint: Endpoint) -> int:
        if not self._confirmations:
            return quantity(endpoint.call(*block_call("finalized"), Block).number)
        return max(0, quantity(endpoint.call("eth_blockNumber", [], str)) - self._confirmations)

    def _agreed(self, number: int) -> EvmBlock:
        try:
            return self._rpc.agreed(lambda endpoint: read_block(endpoint, number), f"block {number}")
        except Refused as error:
            raise ChainUnreachable(
                f"{error}: an endpoint is behind, or the chain was started anew", hint=HistoryChanged.hint
            ) from error

    def _named(self, error: Refused) -> ChainError:
        if not self._confirmations and any(word in error.said.lower() for word in _UNKNOWN_TAG):
            return ChainError(
                f"{error}: it may be that this chain marks no final blocks",
                hint="wait for its first final block, or set [chain] confirmations",
            )
        return error


def read_block(endpoint: Endpoint, number: int) -> EvmBlock:
    """A block as one endpoint has it; Refused if it has none of this number."""
    return block_of(checked_block(endpoint, number, endpoint.call(*block_call(number), Block | None)))


def checked_block(endpoint: Endpoint, number: int, reply: Block | None) -> Block:
    """The block that was asked for; Refused if there is none."""
    if reply is None:
        raise Refused(endpoint.name, "eth_getBlockByNumber", Failure(0, f"it has no block {number}"))
    if quantity(reply.number) != number:
        raise RpcNonsense(f"{endpoint.name} answered block {reply.number} where {number} was asked for")
    return reply
