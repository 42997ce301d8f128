"""The gateway as programs meet it: answers go on when a router dies, keys are checked, it ends in order."""

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from p2pnode.config import load_config
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.fake import FakeConfig, open_fake_engine
from p2pnode.gateway import Gateway, GatewayPlan, open_gateway
from p2pnode.node import open_node
from p2pnode.running_node import Node
from p2pnode.sections import HttpSection
from tests.runtime.cli import Ended, assert_refused, p2pnode
from tests.runtime.http_node import MODEL, HttpNode, http_node, http_process
from tests.runtime.transports import eventually

TOKENS = 200
PATIENCE_S = 60.0
ANY_PORT = ("127.0.0.1:0",)


def open_fake(config: EngineConfig) -> AbstractAsyncContextManager[Engine]:
    return open_fake_engine(FakeConfig(slots=config.slots, token_s=0.005, answer_tokens=1 << 30))


class Net:
    """Two routers and two miners in one process, each on a transport of its own."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.routers: list[tuple[Node, trio.CancelScope]] = []
        self._folder, self._nursery = folder, nursery

    async def start(self) -> None:
        """Until both routers know both miners."""
        addresses: list[str] = []
        for number in range(2):
            node, scope = await self._nursery.start(self._run, f"router-{number}", "router", tuple(addresses))
            self.routers.append((node, scope))
            addresses.append(str(node.addresses[0]))
        for number in range(2):
            await self._nursery.start(self._run, f"miner-{number}", "miner", tuple(addresses))
        for node, _ in self.routers:
            await eventually(lambda node=node: sum(offer.slots for offer in node.book.models()) == 4)

    async def _run(self, name: str, role: str, bootstrap: tuple[str, ...], task_status: Any) -> None:
        settings = {"node.roles": [role], "node.state_dir": str(self._folder / name), "miner.slots": 2}
        overrides = {**settings, "network.listen": ["/ip4/127.0.0.1/tcp/0"], "network.bootstrap": list(bootstrap)}
        config = load_config(None, overrides=overrides, env={"P2PNODE_HOME": str(self._folder)})
        with trio.CancelScope() as scope:
            async with open_node(config, engine=open_fake) as node:
                task_status.started((node, scope))
                await trio.sleep_forever()


@asynccontextmanager
async def gateway_over(net: Net, folder: Path) -> AsyncIterator[Gateway]:
    routers = [node.addresses[0] for node, _ in net.routers]
    async with open_gateway(GatewayPlan(routers, HttpSection(listen=ANY_PORT), folder)) as gateway:
        yield gateway


async def streamed(client: httpx.AsyncClient, url: str, on_text: Any = None, **more: Any) -> list[dict[str, Any]]:
    """The events of an answer, [DONE] left out."""
    asked = {"model": MODEL, "stream": True, "max_tokens": TOKENS, "seed": 7, **more}
    asked["messages"] = [{"role": "user", "content": "tell"}]
    events: list[dict[str, Any]] = []
    async with client.stream("POST", f"{url}/v1/chat/completions", json=asked) as response:
        assert response.status_code == 200, await response.aread()
        done = False
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                done = True
                continue
            events.append(json.loads(line.removeprefix("data: ")))
            if on_text is not None:
                await on_text(events)
    assert done, events[-1]
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


async def test_an_answer_goes_on_at_another_router(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        net = Net(tmp_path, nursery)
        await net.start()
        async with gateway_over(net, tmp_path) as gateway, httpx.AsyncClient(timeout=PATIENCE_S) as client:
            url = gateway.server.urls[0]
            whole = text_of(await streamed(client, url))
            killed: list[bytes] = []

            async def kill(events: list[dict[str, Any]]) -> None:
                if len(events) < 10 or killed:
                    return
                [router] = [held.session.router for held in gateway.service.pool.open]
                scope = next(scope for node, scope in net.routers if node.transport.me == router)
                killed.append(router)
                scope.cancel()

            events = await streamed(client, url, kill)
            assert killed
            assert text_of(events) == whole
            told = [event["p2pnode"] for event in events if "p2pnode" in event][-1]
            assert told["router"] != f"0x{killed[0].hex()}"
            assert text_of(await streamed(client, url)) == whole, "and the next one is asked there at once"
            assert (await client.get(f"{url}/ready")).status_code == 200
        nursery.cancel_scope.cancel()


async def test_its_end_waits_for_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        net = Net(tmp_path, nursery)
        await net.start()
        async with gateway_over(net, tmp_path) as gateway, httpx.AsyncClient(timeout=PATIENCE_S) as client:
            url, ended = gateway.server.urls[0], trio.Event()
            drained: list[bool] = []

            async def drain() -> None:
                drained.append(await gateway.drain(PATIENCE_S))
                ended.set()

            async def stop(events: list[dict[str, Any]]) -> None:
                if len(events) == 5:
                    nursery.start_soon(drain)
                if len(events) == 20:
                    async with httpx.AsyncClient() as other:
                        with pytest.raises(httpx.ConnectError):
                            await other.get(f"{url}/health")

            events = await streamed(client, url, stop)
            assert events[-1]["choices"][0]["finish_reason"] == "length"
            await ended.wait()
            assert drained == [True]
        nursery.cancel_scope.cancel()


# As a process of its own


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of the commands."""
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def node(home: Path) -> Iterator[HttpNode]:
    """A router and miner in one."""
    with http_node(home / "node") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(home: Path, node: HttpNode) -> Iterator[HttpNode]:
    """A gateway that needs a key."""
    address = node.ready["addresses"][0]
    needed = {"P2PNODE_HTTP_KEYS": "required"}
    with http_process(home, "gateway", "--router", address, "--listen", "127.0.0.1:0", **needed) as running:
        yield running


def ask(gateway: HttpNode, key: str = "") -> httpx.Response:
    asked = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Where does a bear live?"}]}
    given = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, headers=given, timeout=PATIENCE_S)


def api_key(home: Path, *arguments: str) -> Any:
    ended: Ended = p2pnode(home, "api-key", *arguments, "--json")
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


def test_what_it_says_when_it_is_ready(gateway: HttpNode) -> None:
    assert gateway.ready["models"] == [MODEL]
    assert gateway.ready["routers"][0]["state"] in ("alive", "unknown")
    assert httpx.get(f"{gateway.url}/ready").json() == {"status": "ready"}


def test_keys_are_needed_made_counted_limited_and_revoked(home: Path, gateway: HttpNode) -> None:
    assert ask(gateway).status_code == 401
    anna = api_key(home, "add", "anna")["key"]
    poor = api_key(home, "add", "poor", "--tokens-total", "3")["key"]
    eventually_status(partial(ask, gateway, anna), 200)
    refused = ask(gateway, poor)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    slow = api_key(home, "add", "slow", "--requests-minute", "1")["key"]
    eventually_status(partial(ask, gateway, slow), 200)
    limited = ask(gateway, slow)
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(limited.headers["retry-after"]) <= 60
    assert api_key(home, "revoke", "anna") == {"revoked": "anna"}
    eventually_status(partial(ask, gateway, anna), 401)
    assert anna not in p2pnode(home, "api-key", "list").out


def eventually_status(request: Any, status: int) -> None:
    """The file is looked at a few times a second."""
    for _ in range(200):
        if request().status_code == status:
            return
    raise AssertionError(f"never {status}")


def test_a_receipt_is_verified_as_if_it_had_come_over_libp2p(home: Path, node: HttpNode, tmp_path: Path) -> None:
    answered = ask(node)
    receipt = answered.headers["x-receipt"]
    fetched = httpx.get(f"{node.url}/v1/receipts/{receipt}", params={"format": "msgpack"})
    path = tmp_path / "answer.receipt"
    path.write_bytes(fetched.content)
    shown = p2pnode(home, "receipt", "show", str(path), "--json")
    assert json.loads(shown.out)["order"]["task"] == int(receipt.rpartition("-")[2])
    verified = p2pnode(home, "verify", str(path))
    assert "✗" not in verified.out, verified.out
    assert "signed by" in verified.out
    with httpx.stream("GET", f"{node.url}/v1/receipts/{receipt}/levels", timeout=PATIENCE_S) as levels:
        lines = [line for line in levels.iter_lines() if line]
    assert json.loads(lines[0].removeprefix("data: "))["level"] == "streamed"
    assert lines[-1] == "data: [DONE]"
    assert httpx.get(f"{node.url}/v1/receipts/{'0' * 64}-1").status_code == 404


def test_cortensors_names_show_the_same(node: HttpNode) -> None:
    session, _, task = ask(node).headers["x-receipt"].rpartition("-")

    def get(path: str) -> Any:
        return httpx.get(f"{node.url}/api/v1/{path}").raise_for_status().json()

    assert get("info")["models"] == [MODEL]
    assert get("status")["status"] == "ok"
    assert [miner["model"] for miner in get("miners")["miners"]] == [MODEL]
    assert session in [each["session_id"] for each in get("sessions")["sessions"]]
    assert get(f"sessions/{session}")["session_id"] == session
    assert int(task) in [each["task_id"] for each in get(f"tasks/{session}")["tasks"]]
    assert get(f"tasks/{session}/{task}")["result"]
    asked = {"prompt": "Where does a bear live?", "max_tokens": 8, "session_id": session}
    answered = httpx.post(f"{node.url}/api/v1/completions", json=asked, timeout=PATIENCE_S).raise_for_status()
    assert answered.json()["choices"][0]["text"].startswith("A bear lives")
    assert answered.headers["x-session-id"] == session


def test_errors_before_anything_is_served(home: Path, node: HttpNode) -> None:
    address = node.ready["addresses"][0]
    taken = node.url.removeprefix("http://")
    assert_refused(p2pnode(home, "gateway"), "no router is named")
    assert_refused(p2pnode(home, "gateway", "--router", address, "--listen", "nowhere"), "give HOST:PORT")
    assert_refused(p2pnode(home, "gateway", "--router", address, "--listen", taken), f"cannot serve HTTP at {taken}")
    assert_refused(p2pnode(home, "api-key", "revoke", "nobody"), "no key is named 'nobody'")


def test_the_first_signal_ends_it_in_order(home: Path, node: HttpNode) -> None:
    address = node.ready["addresses"][0]
    with http_process(home, "gateway", "--router", address, "--listen", "127.0.0.1:0") as gateway:
        assert ask(gateway).status_code == 200
        assert gateway.stop(signal.SIGINT) == 0
        assert '"level": "error"' not in gateway.errors.read_text()
