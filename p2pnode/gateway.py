"""The OpenAI API on this machine, over a light client: any program that speaks it becomes one that verifies.

Each frame's signature is checked here before a byte of it is passed on, and when a router or a miner is lost the answer
goes on by another, so a program needs to know nothing of either.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pnode.address import RouterAddress
from p2pnode.answer import RequestFailed
from p2pnode.client import LightClient, connect
from p2pnode.http.server import HttpServer, open_server
from p2pnode.http.service import Service, open_service
from p2pnode.http.view import ClientView
from p2pnode.http_role import open_guarded, server_limits, watch_app
from p2pnode.identity import NodeKey
from p2pnode.sections import HttpSection, TelemetrySection
from p2pnode.telemetry.http_requests import watch_service
from p2pnode.telemetry.instruments import open_instruments
from p2pnode.telemetry.samples import metrics_of_client
from p2pnode.telemetry.span import HTTP
from p2pnode.transport.unwrap import unwrapped

if TYPE_CHECKING:
    from p2pnode.trust_store import TrustStore

LISTEN = ("127.0.0.1:8080",)
"""Where it is served unless something else is said."""
REFRESH_S = 10.0
"""So often the router is asked what it has miners for."""


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What a gateway stands on."""

    routers: Sequence[RouterAddress]
    section: HttpSection
    folder: Path
    """Where its API keys are."""
    key: NodeKey | None = None
    """Whose balance pays; None: a new one, which has none."""
    rpc: Sequence[str] = ()
    """Endpoints of the network's chain."""
    trust: "TrustStore | None" = None
    telemetry: TelemetrySection = field(default_factory=TelemetrySection)

    @property
    def listen(self) -> Sequence[str]:
        """Where it is served, as HOST:PORT."""
        return self.section.listen or LISTEN


class Gateway:
    """A running gateway. Made by :func:`open_gateway`."""

    def __init__(
        self, net: LightClient, service: Service, server: HttpServer, watched: HttpServer, view: ClientView
    ) -> None:
        self.net = net
        self.watched = watched
        """Where its figures are shown, and whether it is well."""
        self.service = service
        self.server = server
        self._view = view

    def status(self) -> dict[str, Any]:
        """What it is and serves, in plain values."""
        return {
            **self._view.status(),
            "network": self.net.genesis.name,
            "network_id": self.net.genesis.network_id().hex(),
            "http": {"urls": list(self.server.urls), "metrics": list(self.watched.urls)},
            "models": [offer.manifest.name for offer in self.net.models],
        }

    async def drain(self, timeout_s: float) -> bool:
        """Take no new requests, and wait for those that run; whether all have ended."""
        self._view.draining = True
        self.service.ending.set()
        return await self.server.drain(timeout_s)


@asynccontextmanager
async def open_gateway(plan: GatewayPlan) -> AsyncIterator[Gateway]:
    """Serve for as long as the block lasts. Raises MalformedAddress, TransportError, RequestFailed, WrongChain,
    ListenError."""
    with open_instruments(plan.telemetry, "gateway", ("gateway",)) as instruments:
        tap = partial(instruments.client_of, under=HTTP)
        connecting = connect(*plan.routers, key=plan.key, rpc=plan.rpc, trust=plan.trust, tap=tap)
        async with connecting as net, open_service(net) as service:
            metrics = metrics_of_client(net, instruments, vllm_names=plan.telemetry.vllm_names)
            watch_service(service, instruments, metrics)
            view = service.view = ClientView(net)
            limits = server_limits(plan.section)
            async with (
                open_server(watch_app(view, metrics), plan.section.metrics, limits) as watched,
                open_guarded(service, plan.section, plan.listen, plan.folder) as server,
                _fresh(net),
            ):
                yield Gateway(net, service, server, watched, view)


@asynccontextmanager
async def _fresh(net: LightClient) -> AsyncIterator[None]:
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_fresh, net)
            yield
            nursery.cancel_scope.cancel()


async def _keep_fresh(net: LightClient) -> None:
    while True:
        await trio.sleep(REFRESH_S)
        try:
            await net.stand()
            await net.refresh()
        except RequestFailed:
            continue  # no router answers: whoever asks now is told so
