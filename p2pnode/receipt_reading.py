"""How this user reads a receipt: the file, whom to believe of its network, and what its chain says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from p2pnode.trust_store import FOLDER, TrustContradicted, TrustStore
from protocol.core.errors import P2PNodeError, ParameterError, RemoteProtocolError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import Digest, NetworkId
from protocol.light.headers import HeaderTrust, ReadersTime
from protocol.light.receipt import read_receipt
from protocol.light.receipt.verdict import LinkBroken
from protocol.light.trust import TrustPoint
from protocol.messages.receipts import RECEIPT_BYTES_MAX

Accepted = Callable[[Digest], bool]


class ReceiptUnreadable(P2PNodeError):
    """A file that cannot be read."""

    code = "receipt/unreadable"


def read_file(path: Path) -> bytes:
    """A receipt's bytes, and one more where it is too long, which its reader refuses. Raises ReceiptUnreadable."""
    try:
        with path.open("rb") as file:
            return file.read(RECEIPT_BYTES_MAX + 1)
    except OSError as error:
        hint = "name a file that `p2pnode chat --receipt FILE` wrote"
        raise ReceiptUnreadable(f"{path}: {error.strerror or error}", hint=hint) from error


def genesis_in(data: bytes) -> Genesis | None:
    """Of which network a receipt says that it is; None where it cannot be read, which verifying it tells better."""
    try:
        return parse_genesis(read_receipt(data).genesis)
    except (LinkBroken, ParameterError):
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader goes by."""

    network: NetworkId | None
    """The network that is meant; None where nobody said."""
    trust: HeaderTrust | None
    """Whom it believes there."""


def reading_of(
    claimed: Genesis, home: Path, now_ms: int, *, points: Sequence[TrustPoint] = (), genesis: Genesis | None = None
) -> Reading:
    """What this user goes by with a receipt that says it is of this network: what was just named, else what is kept.

    Raises TrustUnreadable, TrustContradicted.
    """
    named = [point.network_id for point in points] + ([genesis.network_id()] if genesis is not None else [])
    if any(network != claimed.network_id() for network in named):
        # Not of the network that is meant: this is what its links will say first.
        return Reading(next(network for network in named if network != claimed.network_id()), None)
    if named:
        try:
            return Reading(named[0], HeaderTrust(claimed, points, time=ReadersTime(now_ms // 1_000)))
        except RemoteProtocolError as error:
            raise TrustContradicted(f"the trust strings cannot be used: {error}", hint="give one of them") from error
    store = TrustStore(home / FOLDER)
    if store.load(claimed.network_id()) is None:
        return Reading(None, None)
    return Reading(claimed.network_id(), store.book(claimed, now_ms).trust)


def asks_chain(genesis: Genesis, urls: Sequence[str]) -> Accepted | None:
    """Asks the network's chain, each header once; None where no endpoint is named, or the network has no contracts.

    Raises WrongChain; what it gives raises ChainError.
    """
    if not urls or genesis.contracts is None:
        return None
    from p2pnode.chain_access import open_reading

    chain = open_reading(genesis, urls)

    @cache
    def accepted(digest: Digest) -> bool:
        return chain.accepted(digest) is not None

    return accepted
