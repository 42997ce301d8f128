"""Where peers can be dialed: bounded, and kept on disk so that a restarted node finds its way back."""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from p2pnode.transport.address import Address, parse_address
from protocol.core.ids import NodeId, short

log = logging.getLogger(__name__)

PEERS_MAX = 4096
ADDRESSES_PER_PEER_MAX = 8
_FILE_BYTES_MAX = 16 << 20


class AddressBook:
    """Addresses by node id, the least recently useful forgotten first."""

    def __init__(self, path: Path | None = None, *, peers_max: int = PEERS_MAX) -> None:
        self._path = path
        self._peers_max = peers_max
        self._known: OrderedDict[NodeId, tuple[Address, ...]] = OrderedDict()
        self._changed = False
        if path is not None:
            self._load(path)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(list(self._known))

    def learn(self, peer: NodeId, addresses: Sequence[str]) -> int:
        """Replace what is known of a peer; malformed addresses and those of other peers are dropped.

        Returns how many were kept; with none, what was known stays.
        """
        kept: dict[Address, None] = {}
        for text in addresses[: 4 * ADDRESSES_PER_PEER_MAX]:
            try:
                address = parse_address(text)
                if address.node_id == peer and address.port:
                    kept[address] = None
            except ValueError as error:
                log.debug("address of %s dropped: %s", short(peer), error)
        if kept:
            self._put(peer, tuple(kept)[:ADDRESSES_PER_PEER_MAX])
        return min(len(kept), ADDRESSES_PER_PEER_MAX)

    def addresses(self, peer: NodeId) -> tuple[Address, ...]:
        """The peer's addresses, the one that last worked first."""
        return self._known.get(peer, ())

    def worked(self, peer: NodeId, address: Address) -> None:
        """The peer answered at the address: try it first next time."""
        others = tuple(other for other in self.addresses(peer) if other != address)
        self._put(peer, (address, *others)[:ADDRESSES_PER_PEER_MAX])

    def drop(self, peer: NodeId, address: Address) -> None:
        """Somebody else answered at the address."""
        others = tuple(other for other in self.addresses(peer) if other != address)
        if others:
            self._put(peer, others)
        else:
            self.forget(peer)

    def forget(self, peer: NodeId) -> None:
        """Drop a peer."""
        if self._known.pop(peer, None) is not None:
            self._changed = True

    def _put(self, peer: NodeId, addresses: tuple[Address, ...]) -> None:
        if self._known.get(peer) != addresses:
            self._changed = True
        self._known[peer] = addresses
        self._known.move_to_end(peer)
        while len(self._known) > self._peers_max:
            self._known.popitem(last=False)

    # --- disk

    def save(self) -> None:
        """Write the book if it changed: whole or not at all. A disk that fails costs only what was learned."""
        if self._path is None or not self._changed:
            return
        document = {peer.hex(): [str(address) for address in known] for peer, known in self._known.items()}
        draft = self._path.with_name(f".{self._path.name}.draft")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            log.warning("the address book %s was not saved: %s", self._path, error)
            return
        self._changed = False

    def _load(self, path: Path) -> None:
        try:
            if path.stat().st_size > _FILE_BYTES_MAX:
                raise ValueError("too large")
            document = json.loads(path.read_text(encoding="utf-8"))
            for peer, addresses in document.items() if isinstance(document, dict) else ():
                if isinstance(addresses, list):
                    self.learn(NodeId(bytes.fromhex(peer)), [text for text in addresses if isinstance(text, str)])
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError) as error:
            log.warning("the address book %s is unreadable (%s); it starts empty", path, error)
        self._changed = False
