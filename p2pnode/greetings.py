"""Which router a light client has greeted: sessions are opened there, and it has said what it has miners for."""

from collections.abc import Sequence
from typing import Protocol

import trio

from p2pnode.answer import RequestFailed
from p2pnode.routers import RouterStatus
from protocol.core.ids import NetworkId, NodeId
from protocol.roles.client import ConnectRouter, Item, RouterGone, RouterReady

REFRESH_S = 1.0
"""What a router said at its greeting is asked for anew at most so often."""


class Client(Protocol):
    """What greeting needs of the client."""

    def dispatch(self, event: object) -> None:
        """Hand the machine a wish."""

    def new_handle(self, tokens: int = 0) -> tuple[int, trio.MemoryReceiveChannel[Item]]:
        """A handle and where its items arrive."""

    def drop_handle(self, handle: int) -> None:
        """Nothing more of a handle is wanted."""


class Greetings:
    """See the module."""

    def __init__(self, client: Client, router: NodeId, network: NetworkId | None) -> None:
        self.router = router
        """That was greeted last, or is to be first."""
        self.ready: RouterReady | None = None
        """What it said of itself."""
        self._client = client
        self._network = network
        self._greeted: dict[NodeId, tuple[RouterReady, int, trio.MemoryReceiveChannel[Item]]] = {}
        """What each said of itself, the handle of its greeting, and what its end would arrive on."""
        self._at = 0.0
        self._one_at_a_time = trio.Lock()

    async def greet(self, router: NodeId) -> None:
        """Greet a router: sessions are opened there from now on. Raises RequestFailed."""
        handle, items = self._client.new_handle()
        self._client.dispatch(ConnectRouter(handle, router, self._network))
        first = await items.receive()
        if isinstance(first, RouterGone):
            self._client.drop_handle(handle)
            raise RequestFailed(first.code, first.detail)
        assert isinstance(first, RouterReady)
        self._greeted[router] = first, handle, items
        self._at = trio.current_time()
        self._turn_to(router)

    async def refresh(self) -> None:
        """Greet the present router anew, unless that was just done. Raises RequestFailed."""
        async with self._one_at_a_time:
            if trio.current_time() - self._at < REFRESH_S:
                return
            before = self._greeted.pop(self.router, None)
            if before is not None:
                self._client.drop_handle(before[1])
            await self.greet(self.router)

    async def stand(self, preferred: Sequence[RouterStatus]) -> None:
        """Turn to the first router that answers. Raises RequestFailed."""
        async with self._one_at_a_time:
            failed: list[RequestFailed] = []
            for status in preferred:
                if self._turn_to(status.node):
                    return
                try:
                    await self.greet(status.node)
                    return
                except RequestFailed as error:
                    failed.append(error)
            raise failed[0]

    def _turn_to(self, router: NodeId) -> bool:
        """Open sessions there from now on, if it is greeted and was not lost since."""
        if router not in self._greeted:
            return False
        ready, handle, items = self._greeted[router]
        try:
            items.receive_nowait()
        except trio.WouldBlock:
            self.router, self.ready = router, ready
            return True
        self._client.drop_handle(handle)
        del self._greeted[router]
        return False
