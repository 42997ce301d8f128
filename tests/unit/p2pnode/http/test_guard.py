"""What the guard lets through to the routes, and in which words it refuses the rest."""

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from p2pnode.http import guard as guard_module
from p2pnode.http.errors import ApiError
from p2pnode.http.guard import Guard, GuardTerms
from p2pnode.http.keys import ApiKey, KeyFile, add_key
from p2pnode.http.limits import Limits, LimitTerms, caller_of
from tests.unit.p2pnode.http.asgi_at_hand import call, scope_of

LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))


class Route:
    """What stands behind the guard: it says who asked and how much."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = 0
        self.go_on = trio.Event()
        self.go_on.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        self.asked += 1
        body = await receive()
        self.running += 1
        await self.go_on.wait()
        owner = scope.get("state", {}).get("owner")
        said = {"owner": owner, "bytes": len(body.get("body", b"")), "type": body["type"]}
        await JSONResponse(said)(scope, receive, send)


def guarded(
    route: Route, terms: GuardTerms | None = None, limits: LimitTerms | None = None, keys: KeyFile | None = None
) -> Guard:
    return Guard(route, Limits(limits or LimitTerms(), clock=trio.current_time), keys, terms or GuardTerms())


async def test_a_request_goes_through_with_its_body_as_a_whole() -> None:
    route = Route()
    answered = await call(guarded(route), scope_of(method="POST"), [b"one", b"two", b""])
    assert (answered.status, answered.body) == (200, b'{"owner":"","bytes":6,"type":"http.request"}')


async def test_who_has_no_key_or_a_wrong_one_is_refused(tmp_path: Path) -> None:
    route, keys = Route(), KeyFile(tmp_path)
    secret, _ = add_key(tmp_path, ApiKey("anna", "", 0))
    guard = guarded(route, keys=keys)
    nobody = await call(guard, scope_of())
    assert (nobody.status, nobody.error["code"]) == (401, "missing_api_key")
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert nobody.headers["x-request-id"].startswith("req_")
    wrong = await call(guard, scope_of(authorization=f"Bearer {secret[:-1]}?"))
    assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
    assert secret not in wrong.body.decode()
    assert route.asked == 0
    right = await call(guard, scope_of(authorization=f"bearer {secret}"))
    assert (right.status, right.body) == (200, b'{"owner":"anna","bytes":0,"type":"http.request"}')


async def test_health_needs_no_key_and_counts_against_no_limit(tmp_path: Path) -> None:
    guard = guarded(Route(), keys=KeyFile(tmp_path), limits=LimitTerms(requests_minute=1))
    for _ in range(5):
        assert (await call(guard, scope_of("/health"))).status == 200


async def test_a_file_of_keys_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "api-keys.json").write_text("{", encoding="utf-8")
    route = Route()
    answered = await call(guarded(route, keys=KeyFile(tmp_path)), scope_of(authorization="Bearer p2p-x"))
    assert (answered.status, answered.error["code"], answered.headers["retry-after"]) == (503, "keys_unreadable", "5")
    assert route.asked == 0


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        ((), "", 200),
        ((), "http://127.0.0.1:8080", 200),
        ((), "https://evil.example", 403),
        ((), "null", 403),
        (("https://app.example",), "https://app.example", 200),
        (("https://app.example",), "https://app.example.evil", 403),
        (("*",), "https://any.example", 200),
    ],
)
async def test_pages_of_other_origins_may_call_only_if_they_are_listed(
    origins: tuple[str, ...], origin: str, status: int
) -> None:
    given = {"origin": origin} if origin else {}
    guard = guarded(Route(), GuardTerms(origins=origins, hosts=LOCAL))
    answered = await call(guard, scope_of(host="127.0.0.1:8080", **given))
    assert answered.status == status
    if status == 403:
        assert answered.error["code"] == "origin_refused"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example:8080", 403),
        ("", 403),
        ("[", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
async def test_on_loopback_a_page_cannot_come_under_a_name_of_its_own(host: str, status: int) -> None:
    answered = await call(guarded(Route(), GuardTerms(hosts=LOCAL)), scope_of(host=host))
    assert answered.status == status


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_never_reaches_a_route(declared: bool) -> None:
    route = Route()
    scope = scope_of(method="POST", **({"content_length": "11"} if declared else {}))
    answered = await call(guarded(route, GuardTerms(body_bytes_max=10)), scope, [b"x" * 6, b"x" * 5])
    assert (answered.status, answered.error["code"], route.asked) == (413, "request_too_large", 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 128 + b"]" * 128, 200),
        (b"[" * 129 + b"]" * 129, 400),
        (b'{"a":' * 100_000, 400),
        (b'["' + b"[" * 1_000 + b'"]', 200),
        (b'["\\"' + b"[" * 1_000 + b'"]', 200),
        (b"[{}]" * 10_000, 200),
    ],
    ids=["as deep as it may", "deeper", "never closed", "in a string", "in a string with a quote", "wide"],
)
async def test_json_that_is_nested_deeply_is_not_even_parsed(body: bytes, status: int) -> None:
    assert (await call(guarded(Route()), scope_of(method="POST"), [body])).status == status


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "BODIES_BYTES_MAX", 10)
    route = Route()
    route.go_on = trio.Event()
    guard = guarded(route)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, guard, scope_of(method="POST"), [b"x" * 8])
        await trio.testing.wait_all_tasks_blocked()
        refused = await call(guard, scope_of(method="POST"), [b"x" * 8])
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        route.go_on.set()
    assert (await call(guard, scope_of(method="POST"), [b"x" * 8])).status == 200, "what was held is let go"


async def test_a_body_that_does_not_come_is_not_waited_for(autojump_clock: Any) -> None:
    route = Route()

    async def receive() -> Any:
        await trio.sleep_forever()

    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    began = trio.current_time()
    await guarded(route, GuardTerms(slow_s=30))(scope_of(method="POST"), receive, send)
    assert (said[0]["status"], route.asked) == (408, 0)
    assert trio.current_time() - began <= 30 + guard_module.DRAIN_S


async def test_a_client_that_leaves_while_it_sends_is_seen_by_the_route() -> None:
    answered = await call(guarded(Route()), scope_of(method="POST"), [b"half"], stay=False)
    assert b"http.disconnect" in answered.body


async def test_each_address_has_its_limits_and_a_network_of_ipv6_is_one(autojump_clock: Any) -> None:
    guard = guarded(Route(), limits=LimitTerms(requests_minute=2))
    for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        assert (await call(guard, scope_of(client=client))).status == 200
    refused = await call(guard, scope_of(client="192.0.2.1"))
    assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
    await trio.sleep(int(refused.headers["retry-after"]))
    assert (await call(guard, scope_of(client="192.0.2.1"))).status == 200
    assert (await call(guard, scope_of(client="2001:db8:1:2::1"))).status == 200
    assert (await call(guard, scope_of(client="2001:db8:1:2::ffff"))).status == 200
    assert (await call(guard, scope_of(client="2001:db8:1:2:3::"))).status == 429


async def test_programs_of_this_machine_are_not_counted_where_no_keys_are_needed(tmp_path: Path) -> None:
    guard = guarded(Route(), limits=LimitTerms(requests_minute=1))
    for client in ("127.0.0.1", "127.0.0.1", "::1", "::1"):
        assert (await call(guard, scope_of(client=client))).status == 200
    secret, _ = add_key(tmp_path, ApiKey("anna", "", 0))
    guard = guarded(Route(), keys=KeyFile(tmp_path), limits=LimitTerms(requests_minute=1))
    statuses = [
        (await call(guard, scope_of(client="127.0.0.1", authorization=f"Bearer {secret}"))).status for _ in "ab"
    ]
    assert statuses == [200, 429], "a key is counted wherever it comes from"


@pytest.mark.parametrize(("limits", "status"), [(LimitTerms(at_once=1), 429), (LimitTerms(at_once_all=1), 503)])
async def test_requests_at_once_are_bounded(limits: LimitTerms, status: int) -> None:
    route = Route()
    route.go_on = trio.Event()
    guard = guarded(route, limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, guard, scope_of())
        await trio.testing.wait_all_tasks_blocked()
        refused = await call(guard, scope_of())
        assert (refused.status, refused.headers["retry-after"]) == (status, "1")
        route.go_on.set()
    assert (guard.limits.running, (await call(guard, scope_of())).status) == (0, 200)


async def test_a_request_that_fails_is_over_all_the_same() -> None:
    async def failing(*_: Any) -> None:
        raise ValueError("a bug")

    guard = Guard(failing, Limits(LimitTerms()), None, GuardTerms())
    with pytest.raises(ValueError, match="a bug"):
        await call(guard, scope_of())
    assert guard.limits.running == 0


async def test_a_refusal_after_the_answer_began_is_not_told_twice() -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ApiError(429, "too late")

    with pytest.raises(ApiError):
        await call(Guard(late, Limits(LimitTerms()), None, GuardTerms()), scope_of())


@pytest.mark.parametrize("extension", [True, False])
async def test_a_websocket_is_refused_before_it_stands(tmp_path: Path, extension: bool) -> None:
    scope = scope_of("/v1/ws", kind="websocket")
    scope["extensions"] = {"websocket.http.response": {}} if extension else {}
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    await guarded(Route(), keys=KeyFile(tmp_path))(scope, trio.sleep_forever, send)
    if extension:
        assert [message["type"] for message in said] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert said[0]["status"] == 401
        assert b"missing_api_key" in said[1]["body"]
    else:
        assert [(message["type"], message["code"]) for message in said] == [("websocket.close", 1008)]


async def test_a_browser_names_its_key_as_a_subprotocol(tmp_path: Path) -> None:
    secret, _ = add_key(tmp_path, ApiKey("anna", "", 0))
    scope = scope_of("/v1/ws", kind="websocket")
    scope["subprotocols"] = ["realtime", f"openai-insecure-api-key.{secret}"]
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    await guarded(Route(), keys=KeyFile(tmp_path))(scope, trio.sleep_forever, send)
    assert said == [{"type": "websocket.accept"}]
    assert caller_of(scope).key is not None
