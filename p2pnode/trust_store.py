"""What this user believes of networks' committees, on disk: a file a network, in ``trust/`` of ``$P2PNODE_HOME``.

Whoever is away for a while goes on from what it knew, and need not believe anybody anew. A file is replaced at once and
checked by its checksum; of two programs that write at a time the one that is further wins.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from p2pnode.paths import home
from protocol.core.errors import DecodeError, P2PNodeError, ParameterError, RemoteProtocolError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NetworkId
from protocol.light.headers import ReadersTime
from protocol.light.trust import TrustPoint, show_trust
from protocol.light.trust_book import KEPT_BYTES_MAX, KEPT_FORMAT, KeptTrust, LightBook, read_kept, write_kept

FOLDER = "trust"
FILE = "known.trust"
NETWORKS_SHOWN_MAX = 256


class TrustUnreadable(P2PNodeError):
    """A file of the store that is broken, or holds what contradicts itself."""

    code = "trust/unreadable"


class TrustContradicted(P2PNodeError):
    """A trust string against what is known here already."""

    code = "trust/contradicted"


class TrustStore:
    """See the module. ``folder`` is made when something is kept in it. Spec: [TRUST-KEPT.1]"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, network_id: bytes) -> KeptTrust | None:
        """What is kept of a network; None if nothing is. Raises TrustUnreadable."""
        path = self._path(network_id)
        try:
            with path.open("rb") as file:
                data = file.read(KEPT_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            kept = read_kept(data)
        except DecodeError as error:
            raise _unreadable(path, error) from error
        if kept.network_id != network_id:
            raise _unreadable(path, "it is of another network")
        return kept

    def networks(self) -> tuple[KeptTrust, ...]:
        """All that is kept, by network. Raises TrustUnreadable."""
        found: list[KeptTrust] = []
        for path in sorted(self._folder.glob(f"*/{FILE}"))[:NETWORKS_SHOWN_MAX]:
            with suppress(FileNotFoundError):
                data = path.read_bytes()[: KEPT_BYTES_MAX + 1]
                try:
                    found.append(read_kept(data))
                except DecodeError as error:
                    raise _unreadable(path, error) from error
        return tuple(found)

    def book(self, genesis: Genesis, now_ms: int | None) -> LightBook:
        """Whom this user believes in a network. Raises TrustUnreadable."""
        time = ReadersTime(None if now_ms is None else now_ms // 1_000)
        return _book(self._path(genesis.network_id()), genesis, self.load(genesis.network_id()), time)

    def save(self, kept: KeptTrust) -> None:
        """Keep more of a network; who was further stays. Raises OSError, TrustUnreadable."""
        known = self.load(kept.network_id)
        if known is None or known.latest <= kept.latest:
            self._write(kept)

    def add(self, point: TrustPoint, genesis: Genesis | None = None, *, replace: bool = False) -> KeptTrust:
        """Believe a trust point, and its network's genesis where that is known. Raises TrustContradicted,
        TrustUnreadable, OSError.

        Args:
            replace: Forget what was known of its network.
        """
        known = None if replace else self.load(point.network_id)
        if genesis is None and known is not None and known.genesis:
            genesis = parse_genesis(known.genesis)
        if genesis is None:
            return self._write(_with_point(known, point))
        if genesis.network_id() != point.network_id:
            hint = f"it is of network {point.network_id.hex()}: name that one's genesis file, or none"
            raise TrustContradicted("the trust string is of another network than the genesis", hint=hint)
        trust = _book(self._path(point.network_id), genesis, known, ReadersTime()).trust
        before = trust.point(point.epoch)
        if before is not None and before.committee_root != point.committee_root:
            raise TrustContradicted(
                f"another committee of epoch {point.epoch} is known here than the trust string shows",
                hint="one of them is a lie. If you are sure of the new one: p2pnode trust add --replace",
            )
        try:
            return self._write(LightBook(genesis, known, [point]).kept())
        except RemoteProtocolError as error:
            raise TrustContradicted(str(error), hint="if you are sure of it: p2pnode trust add --replace") from error

    def add_genesis(self, genesis: Genesis, *, replace: bool = False) -> KeptTrust:
        """Know a network by its genesis. Raises TrustUnreadable, OSError."""
        return self._write((LightBook(genesis) if replace else self.book(genesis, None)).kept())

    def _path(self, network_id: bytes) -> Path:
        return self._folder / network_id.hex()[:16] / FILE

    def _write(self, kept: KeptTrust) -> KeptTrust:
        path = self._path(kept.network_id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        with draft.open("wb") as file:
            file.write(write_kept(kept))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        return kept


def own_trust(env: Mapping[str, str] = os.environ) -> TrustStore:
    """The store of whoever runs this program."""
    return TrustStore(home(env) / FOLDER)


def _with_point(known: KeptTrust | None, point: TrustPoint) -> KeptTrust:
    points = dict.fromkeys([*(known.points if known is not None else ()), show_trust(point)])
    return KeptTrust(KEPT_FORMAT, point.network_id, "", tuple(points)[-1:])


def _book(path: Path, genesis: Genesis, kept: KeptTrust | None, time: ReadersTime) -> LightBook:
    try:
        return LightBook(genesis, kept, time=time)
    except RemoteProtocolError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why: object) -> TrustUnreadable:
    return TrustUnreadable(
        f"{path} cannot be used: {why}",
        hint="delete it, and add a trust string of somebody whom you believe: p2pnode trust add",
    )


def genesis_of(kept: KeptTrust) -> Genesis | None:
    """The genesis of a network that is kept; None where only a trust string is known. Raises TrustUnreadable."""
    if not kept.genesis:
        return None
    try:
        return parse_genesis(kept.genesis)
    except ParameterError as error:
        what = f"what is kept of network {kept.network_id.hex()[:16]}"
        raise TrustUnreadable(f"{what} holds no genesis: {error}") from error


class TrustKeeper:
    """Writes what a running client learns, as it comes, off the event loop."""

    def __init__(self, store: TrustStore, network_id: NetworkId, told: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self._network_id = network_id
        self._told = told
        self._latest: KeptTrust | None = None
        self._news = trio.Event()

    def moved(self, kept: KeptTrust) -> None:
        """There is more; of a network that nobody named nothing is kept."""
        if kept.network_id == self._network_id:
            self._latest = kept
            self._news.set()

    async def run(self) -> None:
        """Keep what comes, and when cancelled what has come last."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._save()
        finally:
            await self._save()

    async def _save(self) -> None:
        latest, self._latest = self._latest, None
        if latest is None:
            return
        try:
            # What was taken out is written, whoever cancels.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.save, latest)
        except (OSError, TrustUnreadable) as error:
            # An answer is no worse for it; next time the way is longer.
            self._told(f"what is known of the committee cannot be kept: {error}")
