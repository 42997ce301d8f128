"""How a node comes to its network's chain: the endpoints and the key of its configuration. Nothing else imports the
client, so that a network without a chain starts without it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chain.api import Chain, Proving, Reading
from chain.errors import ChainUnreachable
from p2pnode.config import NodeConfig
from p2pnode.identity import NodeKey, read_keystore
from protocol.core.genesis import Genesis

if TYPE_CHECKING:
    from chain.client import EvmChain

JOURNAL = "transactions.db"
"""In the node's folder: what was signed for the chain."""


def open_reading(genesis: Genesis, urls: Sequence[str], confirmations: int = 0) -> Reading:
    """A chain that can be asked. Raises WrongChain where an endpoint is of another one."""
    return _opened(genesis, urls, confirmations, None, None)


def open_proving(genesis: Genesis, urls: Sequence[str], confirmations: int = 0) -> Proving:
    """A chain that can be asked for proofs. Blocks. Raises WrongChain where an endpoint is of another one."""
    return _opened(genesis, urls, confirmations, None, None)


def open_node_chain(config: NodeConfig, genesis: Genesis, key: NodeKey) -> Chain | None:
    """The chain of a node that settles there; None where the network has none, or the configuration leaves it out.

    Blocks. Raises WrongChain, JournalError, KeystoreError, ConfigError.
    """
    section = config.chain
    if genesis.contracts is None or not section.urls or not section.enabled:
        return None
    payer = key if section.key is None else read_keystore(section.key, config.chain_password())
    return _opened(genesis, section.urls, section.confirmations, payer, config.node.state_dir / JOURNAL)


def _opened(
    genesis: Genesis, urls: Sequence[str], confirmations: int, key: NodeKey | None, journal: Path | None
) -> "EvmChain":
    from chain.client import open_chain

    chain = open_chain(urls, genesis, key, journal, confirmations=confirmations)
    with suppress(ChainUnreachable):
        # It may come back, and the network does not wait for it. Another chain, or no contracts there, will stay so.
        chain.latest_checkpoint()
    return chain


def open_paying(genesis: Genesis, urls: Sequence[str], key: NodeKey, journal: Path, confirmations: int = 0) -> Chain:
    """A chain with a key of its user's, who pays for what is sent. Blocks. Raises WrongChain, JournalError."""
    return _opened(genesis, urls, confirmations, key, journal)
