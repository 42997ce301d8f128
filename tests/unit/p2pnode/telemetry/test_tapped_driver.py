"""A driver with a tap: it hears all that its machine takes and asks for, in order, and costs nothing but that."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
import trio.testing

from p2pnode.clock import open_clock
from p2pnode.driver import PUBLISH_QUEUE_MAX, Tap, open_driver
from p2pnode.transport.memory import MemoryNetwork
from protocol.core.genesis import Genesis
from protocol.core.machine import Note, Publish
from protocol.messages.sessions import CloseSession
from tests.unit.protocol.keys import key

ALICE = key(1)


class Echo:
    """A machine that does what it is told: an event is a list of effects."""

    protocols: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    def handle(self, event: object, now_ms: int) -> list[object]:
        return event if isinstance(event, list) else []

    def next_deadline(self) -> int | None:
        return None


class Ear:
    """A tap that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def event(self, event: object) -> None:
        self.heard.append(("event", event))

    def effect(self, effect: object) -> None:
        self.heard.append(("effect", effect))


async def driven(tap: Tap | None, do: Callable[[Callable[[object], None]], None]) -> int:
    """Run a machine for a while; what was dropped."""
    async with (
        MemoryNetwork().open(ALICE.node) as node,
        open_driver(Echo(), node, open_clock(0), genesis=Genesis("tapped"), tap=tap) as driver,
    ):
        do(driver.dispatch)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.streams == 0
        return driver.dropped


async def test_a_tap_hears_events_and_effects_in_order(autojump_clock: trio.abc.Clock) -> None:
    ear, first, second = Ear(), [Note("a"), Note("b", (("why", "c"),))], [Note("d")]

    def do(dispatch: Callable[[object], None]) -> None:
        dispatch(first)
        dispatch(second)

    assert await driven(ear, do) == 0
    expected = [("event", first), *(("effect", each) for each in first), ("event", second), ("effect", second[0])]
    assert ear.heard == expected


async def test_what_finds_no_turn_on_gossip_is_counted(autojump_clock: trio.abc.Clock) -> None:
    def do(dispatch: Callable[[object], None]) -> None:
        dispatch([Publish("nodes", CloseSession(bytes(32)))] * (PUBLISH_QUEUE_MAX + 7))

    assert await driven(None, do) == 7


async def test_notes_are_logged_by_name_with_their_fields(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await driven(None, lambda dispatch: dispatch([Note("router.fail-over", (("miner", "ab"), ("why", "stalled")))]))
    (record,) = [each for each in caplog.records if each.name == "p2pnode.driver"]
    assert record.getMessage() == "router.fail-over"
    assert vars(record)["p2pnode_fields"] == {"miner": "ab", "why": "stalled"}


def test_a_light_client_loads_nothing_of_what_servers_are_watched_with() -> None:
    code = "import p2pnode.client, sys; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(ended.stdout.split())
    roots = {name.partition(".")[0] for name in loaded}
    # libp2p brings prometheus_client along; nothing else of it is ours.
    assert not roots & {"opentelemetry", "fastapi", "starlette", "hypercorn", "pydantic"}
    assert {name for name in loaded if name.startswith("p2pnode.telemetry.")} == {"p2pnode.telemetry.log_record"}
