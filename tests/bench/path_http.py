"""Our own HTTP surface in the path bench: the router's, and a gateway's that verifies every frame before it answers.

They are measured by the client that measures the rivals, and as a difference to the same floor: an engine that is an
HTTP server itself. In between are, other than with rivals, a miner of its own process, libp2p, and all signatures.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psutil

from p2pnode.testnet import Testnet
from tests.bench.path_contestants import HttpServer, LineProcess, open_line_process
from tests.bench.path_rivals import FLOOR

ROUTER = "p2pnode, HTTP"
GATEWAY = "p2pnode, gateway"
NODE = "p2pnode.cli.entry"


@asynccontextmanager
async def open_own_http(net: Testnet, client: LineProcess) -> AsyncIterator[list[HttpServer]]:
    """Both, of a testnet whose plan has ``http``; ``client`` measures."""
    model = net.plan.model
    router, *miners = (psutil.Process(child.process.pid) for child in net.children)
    gateway = ("gateway", "--router", net.address, "--listen", "127.0.0.1:0", "--json")
    async with open_line_process(NODE, *gateway) as process:
        told = await process.answer()
        own = psutil.Process(process.process.pid)
        yield [
            _server(client, net.http_urls, ROUTER, model, {"between": [router], "engine": miners}),
            _server(client, told["http"]["urls"], GATEWAY, model, {"between": [router, own], "engine": miners}),
        ]


def _server(
    client: LineProcess, urls: Sequence[str], name: str, model: str, processes: Mapping[str, Sequence[psutil.Process]]
) -> HttpServer:
    port = urlsplit(urls[0]).port
    assert port is not None
    server = HttpServer(client, port, name, FLOOR, processes)
    server.order |= {"model": model}
    return server
