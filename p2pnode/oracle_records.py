"""Where an oracle's records go: what it has signed into the signer log, all the rest into the node's store.

In the order in which they were handed out: a block and the certificates that let one vote for it are durable before the
vote is, the vote before it leaves, and before a certificate that holds it. A crash in between leaves a block nobody
voted for, which is nothing; never a certificate with a signature that its signer does not know of, which would look as
if its log were lost.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from p2pnode.signer_log import SignerLog
from p2pnode.store import NodeStore, StoreError, read_store
from protocol.committee import storage
from protocol.committee.signer import PREFIXES
from protocol.core.errors import DecodeError, ParameterError
from protocol.core.genesis import Genesis, parse_genesis

GENESIS = b"genesis"
"""Of the network whose chain a store holds."""


class OtherNetwork(StoreError):
    """The store holds another network's chain."""

    code = "store/other-network"


class OracleRecords:
    """Takes the oracle's Persist apart. See the module."""

    def __init__(self, store: NodeStore, log: SignerLog) -> None:
        self._store = store
        self._log = log

    async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Make all records durable. Raises StoreError, SignerLogError, SignerConflict or SignerSilent."""
        for rest, signed in _runs(records):
            if rest:
                await self._store.persist(rest)
            if signed:
                await self._log.append(signed)


def _runs(
    records: Iterable[tuple[bytes, bytes | None]],
) -> Iterator[tuple[list[tuple[bytes, bytes | None]], list[tuple[bytes, bytes]]]]:
    """Records of the store and signatures that follow them, as few times as their order allows."""
    rest: list[tuple[bytes, bytes | None]] = []
    signed: list[tuple[bytes, bytes]] = []
    for name, value in records:
        if name.startswith(PREFIXES):
            assert value is not None, "what was signed is never deleted"
            signed.append((name, value))
            continue
        if signed:
            yield rest, signed
            rest, signed = [], []
        rest.append((name, value))
    yield rest, signed


async def claim_store(store: NodeStore, genesis: Genesis) -> None:
    """Note in a store whose chain it holds. Raises OtherNetwork, StoreError."""
    mine = genesis.to_json().encode()
    known = store.load(GENESIS).get(GENESIS)
    if known is None:
        await store.persist([(GENESIS, mine)])
    elif known != mine:
        raise OtherNetwork(
            "this folder holds the chain of another network",
            hint="give the node a folder of its own for each network: --state-dir FOLDER",
        )


def stored_genesis(folder: Path) -> Genesis | None:
    """The network whose chain is in a folder; None if none is. Raises StoreError."""
    known = read_store(folder, GENESIS).get(GENESIS)
    try:
        return None if known is None else parse_genesis(known.decode())
    except (ParameterError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the genesis in {folder} cannot be read: {error}", hint="use the version of p2pnode that wrote it"
        ) from error


def stored_epoch(store: NodeStore) -> int:
    """The epoch in which the chain in a store ends; 0 if there is none yet. Raises StoreError."""
    state = store.load(storage.STATE).get(storage.STATE)
    try:
        return 0 if state is None else storage.unpack_state(state).epoch
    except DecodeError as error:
        raise StoreError(
            f"the chain in this folder cannot be read: {error}",
            hint="give the node another folder, but leave it its key and signer log: it catches up from the others",
        ) from error
