"""Puts together what an oracle has to do with the chain: the client, its eyes, and what sends transactions."""

from collections.abc import Callable, Mapping

import trio

from chain.api import Chain
from p2pnode.chain_access import open_node_chain
from p2pnode.chain_sender import ChainSender, Keep
from p2pnode.chain_watch import ChainWatch
from p2pnode.config import NodeConfig
from p2pnode.identity import NodeKey
from protocol.core.genesis import Genesis
from protocol.roles.oracle import OracleMachine
from protocol.settlement.duty import RecordDraw, ReportEvidence, SubmitHeader


class Settling:
    """An oracle's part in settling; none where it sees no chain."""

    def __init__(self, chain: Chain | None, genesis: Genesis, key: NodeKey, keep: Keep) -> None:
        self.chain = chain
        self._params = genesis.params
        self._sender = None if chain is None else ChainSender(chain, key.node_id, keep)

    def performers(self, _dispatch: Callable[[object], None]) -> Mapping[type, Callable[[object], None]]:
        """What takes the machine's effects; without a chain others settle."""
        if self._sender is None:
            return dict.fromkeys((SubmitHeader, RecordDraw, ReportEvidence), _dropped)
        return self._sender.performers()

    def watch(self, machine: OracleMachine, dispatch: Callable[[object], None]) -> ChainWatch | None:
        """What is to be run beside the machine."""
        if self.chain is None or self._sender is None:
            return None
        return ChainWatch(machine, self.chain, self._params, self._sender, dispatch)


async def open_used_chain(config: NodeConfig, genesis: Genesis, key: NodeKey) -> Chain | None:
    """The chain, where a role of the node has to do with it: all of them share it, and its journal.

    Raises WrongChain, JournalError, KeystoreError, ConfigError; an endpoint that is down is no error.
    """
    roles = config.node.roles
    if "oracle" not in roles and not ("router" in roles and config.router.inbox):
        return None
    return await trio.to_thread.run_sync(open_node_chain, config, genesis, key)


def _dropped(_effect: object) -> None:
    """This oracle sees no chain."""
