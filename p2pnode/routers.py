"""The routers that a light client watches, as its program sees them, and which of them it turns to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from p2pnode.address import RouterAddress
from p2pnode.transport.seam import PeerUnreachable, Transport, TransportError, WrongPeer
from p2pnode.transport.unwrap import unwrapped
from protocol.core.ids import NodeId
from protocol.roles.client import RouterSeen, RouterState

PATIENCE_S = 1.0
"""A router that is not reached by then is no longer waited for alone: the next one is tried beside it."""

HEAD_WAIT_S = 2.0
UNKNOWN = RouterState.UNKNOWN.value

_RANKS = {
    RouterState.ALIVE: 0,
    RouterState.UNKNOWN: 0,
    RouterState.STALE: 1,
    RouterState.WITHHOLDING: 2,
    RouterState.BEHIND: 2,
    RouterState.SILENT: 3,
    RouterState.LYING: 4,
}
"""Where sessions are opened, the lowest first; at a liar only where there is nobody else: all is checked."""


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """What a client thinks of one of its routers."""

    node: NodeId
    address: RouterAddress
    state: str
    """unknown, alive, behind, stale, withholding, silent or lying."""
    head: str
    """Epoch and height of the last final header that it showed, as ``3/120``; empty before."""
    answer_ms: int | None
    """How long its last answer took."""
    note: str
    """Why it is thought of like this, in words; empty where it is only alive."""

    def as_json(self) -> dict[str, str | int | None]:
        """Plain values for a machine."""
        return {
            "router": f"0x{self.node.hex()}",
            "address": str(self.address),
            "state": self.state,
            "head": self.head,
            "answer_ms": self.answer_ms,
            "note": self.note,
        }


class Routers:
    """What is known of each, by what it has shown itself."""

    def __init__(self, addresses: Mapping[NodeId, RouterAddress]) -> None:
        self._seen: dict[NodeId, RouterStatus] = {
            node: RouterStatus(node, address, RouterState.UNKNOWN.value, "", None, "")
            for node, address in addresses.items()
        }
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._seen)

    def see(self, seen: RouterSeen) -> None:
        """Take in what one has shown."""
        before = self._seen.get(seen.router)
        if before is None:
            return
        head = f"{seen.epoch}/{seen.height}" if seen.epoch else ""
        self._seen[seen.router] = replace(
            before, state=seen.state.value, head=head, answer_ms=seen.answer_ms, note=seen.note
        )
        self._changed.set()
        self._changed = trio.Event()

    def all(self) -> tuple[RouterStatus, ...]:
        """Each of them, in the order in which they were named."""
        return tuple(self._seen.values())

    def by_preference(self, present: NodeId) -> tuple[RouterStatus, ...]:
        """Where sessions are opened, the best first; the present one before others that are as good."""

        def rank(status: RouterStatus) -> tuple[int, bool]:
            return _RANKS[RouterState(status.state)], status.node != present

        return tuple(sorted(self._seen.values(), key=rank))

    async def changed(self) -> None:
        """Wait until one shows something."""
        await self._changed.wait()

    async def shown_head(self) -> None:
        """Wait until one has shown a final header, or none of them has one; for as long as that is worth it."""
        with trio.move_on_after(HEAD_WAIT_S):
            while not any(each.head for each in self.all()) and any(each.state == UNKNOWN for each in self.all()):
                await self.changed()


def routers_line(routers: Sequence[RouterStatus]) -> str:
    """Such as ``routers: 0x1a2b3c4d alive 1/23 in 4 ms, 0x5e6f7a8b behind 1/3: …``"""
    return f"routers: {', '.join(map(_shown, routers))}"


def _shown(status: RouterStatus) -> str:
    answered = f"in {status.answer_ms} ms" if status.state == RouterState.ALIVE.value and status.answer_ms else ""
    parts = (f"0x{status.node.hex()[:8]}", status.state, status.head, answered)
    return " ".join(filter(None, parts)) + (f": {status.note}" if status.note else "")


async def first_reached(
    transport: Transport, addresses: Sequence[RouterAddress], timeout_ms: int
) -> tuple[NodeId, RouterAddress]:
    """The first router that answers; each has some time before the next one is tried as well.

    Raises PeerUnreachable when none answers, WrongPeer if another key than a named one does and no other router is
    there.
    """
    waiting, trying, failed = list(addresses), 0, list[TransportError]()
    send, receive = trio.open_memory_channel[_Tried](len(waiting))
    with unwrapped():
        async with trio.open_nursery() as nursery:
            while waiting or trying:
                if waiting:
                    nursery.start_soon(_reach, transport, waiting.pop(0), timeout_ms, send)
                    trying += 1
                with trio.move_on_after(PATIENCE_S if waiting else float("inf")):
                    tried = await receive.receive()
                    trying -= 1
                    if not isinstance(tried, TransportError):
                        nursery.cancel_scope.cancel()
                        return tried
                    failed.append(tried)
    for error in failed:
        if isinstance(error, WrongPeer):
            raise error
    hint = "check that the router runs, and that the address is the one it printed"
    raise PeerUnreachable(f"no router answers: {'; '.join(map(str, failed))}", hint=hint)


_Tried = tuple[NodeId, RouterAddress] | TransportError


async def _reach(
    transport: Transport, address: RouterAddress, timeout_ms: int, tried: trio.MemorySendChannel[_Tried]
) -> None:
    try:
        node = await transport.connect(str(replace(address, network=None)), timeout_ms=timeout_ms)
    except (PeerUnreachable, WrongPeer) as error:
        await tried.send(error)
    else:
        await tried.send((node, address))
