"""What a process that serves HTTP says of itself: whether it can answer, how it is doing, which miners it knows."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from p2pnode.routers import RouterStatus
from protocol.messages.adverts import ModelOffer
from protocol.roles.client import RouterState

GONE = frozenset((RouterState.SILENT.value, RouterState.LYING.value))


class View(Protocol):
    """See the module."""

    def unready(self) -> str:
        """Why requests cannot be answered now, in words; empty when they can."""

    def status(self) -> Mapping[str, Any]:
        """How the process is doing, in plain values."""

    def miners(self) -> Sequence[Mapping[str, Any]]:
        """The miners that are known one by one; none where only a router knows them."""


class Client(Protocol):
    """What is seen of a light client."""

    @property
    def models(self) -> Sequence[ModelOffer]:
        """What there are miners for."""

    @property
    def routers(self) -> tuple[RouterStatus, ...]:
        """The routers that it watches."""

    @property
    def level_note(self) -> str:
        """What an answer is worth here, in words for a person."""


class ClientView:
    """Of a light client that stands between HTTP and its routers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.draining = False
        """Whether the process is ending."""

    def unready(self) -> str:
        """See :class:`View`."""
        if self.draining:
            return "it is being stopped"
        routers = self._client.routers
        if routers and all(router.state in GONE for router in routers):
            return "no router answers"
        return "" if self._client.models else "no miner is known"

    def status(self) -> Mapping[str, Any]:
        """See :class:`View`."""
        routers = [router.as_json() for router in self._client.routers]
        return {"roles": ["gateway"], "routers": routers, "level": self._client.level_note}

    def miners(self) -> Sequence[Mapping[str, Any]]:
        """See :class:`View`."""
        return ()
