"""A node's HTTP surface: the OpenAI API of a router, and what any node says to who watches it.

A router is the client of those who ask it over plain HTTP: it opens sessions with its own key, at itself, and verifies
what its miners sign. Whoever wants to verify for themselves puts `p2pnode gateway` in between.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pnode.identity import NodeKey
from p2pnode.sections import HttpSection
from p2pnode.setting import host_and_port
from p2pnode.telemetry.span import HTTP

if TYPE_CHECKING:
    # A node that serves no HTTP does without all that stands behind it.
    from starlette.types import ASGIApp

    from p2pnode.http.guard import GuardTerms
    from p2pnode.http.limits import Limits
    from p2pnode.http.server import HttpServer, ServerLimits
    from p2pnode.http.service import Service
    from p2pnode.running_node import Node
    from p2pnode.telemetry.metrics import Metrics

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
SAVE_EVERY_S = 5.0
"""So often what keys have used is written down."""


@dataclass(frozen=True, slots=True)
class HttpRole:
    """What a node serves over HTTP."""

    urls: tuple[str, ...]
    """Of the OpenAI API; none where it is not served."""
    metrics_urls: tuple[str, ...]
    service: "Service | None" = None

    def status(self) -> dict[str, Any]:
        """For the operator."""
        return {"urls": list(self.urls), "metrics": list(self.metrics_urls)}


async def serve_http(node: "Node", key: NodeKey, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Serve what the configuration says until the node ends: then no new requests are taken, and those that run go on.

    Raises ListenError.
    """
    section = node.config.http
    listen = section.listen if node.router is not None else ()
    if not listen and not section.metrics:
        task_status.started(None)
        return
    from p2pnode.http.server import open_server
    from p2pnode.telemetry.samples import metrics_of

    view, metrics = NodeView(node), metrics_of(node)
    async with AsyncExitStack() as stack:
        app = watch_app(view, metrics)
        watched = await stack.enter_async_context(open_server(app, section.metrics, server_limits(section)))
        if not listen:
            task_status.started(HttpRole((), watched.urls))
            await trio.sleep_forever()
        service = await stack.enter_async_context(_router_service(node, key, view, metrics))
        guarded = open_guarded(service, section, listen, node.config.node.state_dir)
        server = await stack.enter_async_context(guarded)
        node.ending.unfinished.append(lambda: server.connections)
        task_status.started(HttpRole(server.urls, watched.urls, service))
        await node.ending.begun.wait()
        view.draining = True
        service.ending.set()
        await server.drain()
    # Its sessions are closed now: the router waits for none of them.


@asynccontextmanager
async def _router_service(node: "Node", key: NodeKey, view: "NodeView", metrics: "Metrics") -> AsyncIterator["Service"]:
    from p2pnode.client import connect_here
    from p2pnode.http.service import open_service
    from p2pnode.telemetry.http_requests import watch_service

    tap = node.instruments.client(HTTP)
    async with connect_here(node.transport, node.addresses[0], key, tap=tap) as net, open_service(net) as service:
        watch_service(service, node.instruments, metrics)
        service.models = node.book.models
        service.trusts_router = True
        service.view = view
        yield service


@asynccontextmanager
async def open_guarded(
    service: "Service", section: HttpSection, listen: Sequence[str], folder: Path
) -> AsyncIterator["HttpServer"]:
    """The OpenAI API of a service, behind keys and limits. ``folder`` is where the keys are. Raises ListenError."""
    from p2pnode.http.app import make_app
    from p2pnode.http.keys import KeyFile
    from p2pnode.http.limits import Limits, LimitTerms
    from p2pnode.http.server import open_server

    if not loopback_only(listen):
        # Who may ask questions need not see how the node is doing: that is shown on a listener of its own.
        service.metrics = None
    terms = LimitTerms(section.requests_minute, section.tokens_minute, section.at_once, section.at_once_all)
    limits = Limits(terms, folder)
    keys = KeyFile(folder) if keys_needed(section, listen) else None
    app = guarded_app(make_app(service), limits, keys, guard_terms(section, listen))
    async with open_server(app, listen, server_limits(section)) as server, trio.open_nursery() as nursery:
        nursery.start_soon(_save, limits)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
            limits.save()


def guarded_app(app: "ASGIApp", limits: "Limits", keys: Any, terms: "GuardTerms") -> "ASGIApp":
    """An application behind the guard; browsers' questions before a request of a page are answered where any may."""
    from starlette.middleware.cors import CORSMiddleware

    from p2pnode.http.guard import Guard

    guarded: ASGIApp = Guard(app, limits, keys, terms)
    if not terms.origins:
        return guarded
    return CORSMiddleware(
        guarded,
        allow_origins=list(terms.origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=600,
    )


EXPOSED = (
    "x-request-id",
    "x-session-id",
    "x-miner-peer",
    "x-overhead-ms",
    "x-attempts",
    "x-receipt",
    "retry-after",
)
"""Headers that a page may read."""


def keys_needed(section: HttpSection, listen: Sequence[str]) -> bool:
    """Whether nobody may ask without a key."""
    return section.keys == "required" or (section.keys == "auto" and not loopback_only(listen))


def loopback_only(listen: Sequence[str]) -> bool:
    """Whether only this machine reaches the addresses."""
    return all(host_and_port(address)[0] in LOOPBACK for address in listen)


def guard_terms(section: HttpSection, listen: Sequence[str]) -> "GuardTerms":
    """What the guard lets through. On loopback the server is called by no name but this machine's own."""
    from p2pnode.http.guard import GuardTerms

    hosts = LOOPBACK if loopback_only(listen) else frozenset[str]()
    return GuardTerms(section.body_bytes_max, section.slow_s, section.origins, hosts)


def server_limits(section: HttpSection) -> "ServerLimits":
    """What connections may take."""
    from p2pnode.http.server import ServerLimits

    return ServerLimits(section.clients_max, idle_s=section.slow_s, send_s=section.slow_s)


async def _save(limits: "Limits") -> None:
    while True:
        await trio.sleep(SAVE_EVERY_S)
        await trio.to_thread.run_sync(limits.save)


class NodeView:
    """A node, as it is seen over HTTP."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.draining = False
        """Whether it is ending."""

    def unready(self) -> str:
        """Why requests cannot be answered now, in words; empty when they can."""
        if self.draining:
            return "it is being stopped"
        if self._node.router is not None and not self._node.book.models():
            return "no miner is known"
        return ""

    def status(self) -> Mapping[str, Any]:
        """How the node is doing, as the control socket has it."""
        return self._node.status()

    def miners(self) -> Sequence[Mapping[str, Any]]:
        """Those that advertise to it."""
        book = self._node.book
        return [
            {
                "node": f"0x{node.hex()}",
                "model": offer.manifest.name,
                "digest": offer.manifest.digest().hex(),
                "slots": offer.slots,
                "context_tokens": offer.context_tokens,
                "price_wei": offer.price_wei,
            }
            for model in book.models()
            for node, offer in sorted(book.miners_of(model.manifest.digest()).items())
        ]


def watch_app(view: Any, metrics: "Metrics") -> "ASGIApp":
    """What a node says to who watches it, on a listener of its own."""
    from starlette.applications import Starlette

    from p2pnode.http.health import watch_routes
    from p2pnode.http.metrics import metrics_route

    return Starlette(routes=[*watch_routes(view), metrics_route(metrics)])
