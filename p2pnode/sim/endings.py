"""L9: every open request ends in exactly one terminal event by its deadline, and nothing is left of it afterwards."""

from dataclasses import dataclass

from p2pnode.sim.checkers import Checker
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from protocol.roles.client import (
    AskTask,
    CancelAsk,
    CheckpointClaimed,
    ConnectRouter,
    Deliver,
    OpenAsked,
    RouterGone,
    RouterReady,
    SessionAssigned,
    SessionOver,
    TaskLevel,
    TaskOver,
    TaskReceipt,
)
from protocol.roles.client.events import NOBODY
from protocol.roles.client.machine import HELLO_TIMEOUT_MS
from protocol.roles.client.tasks import CANCEL_TIMEOUT_MS, GRACE_MS

LATE_MS = 1_200
"""What a slow node and a clock that is set under way may add: both are the client's own."""

NEVER = ("bad_request", "transcript_broken")
"""Codes that say that somebody broke a rule: where all are correct nothing ends with them."""


@dataclass(slots=True)
class _Request:
    what: str
    due_ms: int | None
    """By the client's own clock; None: it waits for nothing."""


class EndsOnce(Checker):
    """L9. ``ends`` counts how requests ended."""

    invariant = "L9"

    def __init__(self, *, among_liars: bool = False) -> None:
        """``among_liars``: some are Byzantine, so requests may end with a broken rule, and a session whose router keeps
        silent only with its last order."""
        self._among_liars = among_liars
        self.ends: dict[str, int] = {}
        self._open: dict[tuple[str, int], _Request] = {}

    def crashed(self, host: Host) -> None:
        """Nobody waits any more."""
        for name in [name for name in self._open if name[0] == host.name]:
            del self._open[name]

    def handles(self, drive: Drive, event: object, now_ms: int) -> None:
        """A program asks for something."""
        name = drive.host.name
        match event:
            case ConnectRouter():
                self._open[name, event.handle] = _Request("greeting", now_ms + HELLO_TIMEOUT_MS)
            case OpenAsked():
                self._open[name, event.handle] = _Request("session", now_ms + event.timeout_ms + GRACE_MS)
            case AskTask():
                self._open[name, event.handle] = _Request("order", now_ms + event.timeout_ms + GRACE_MS)
            case CancelAsk() if (name, event.handle) in self._open:
                request = self._open[name, event.handle]
                request.due_ms = min(request.due_ms or now_ms, now_ms + CANCEL_TIMEOUT_MS)

    def effect(self, drive: Drive, effect: object) -> None:
        """A program is told something."""
        if not isinstance(effect, Deliver) or effect.handle == NOBODY:
            return
        if isinstance(effect.item, TaskLevel | TaskReceipt | CheckpointClaimed):
            return  # an answer may rise for long after its end
        host, item = drive.host, effect.item
        request = self._open.get((host.name, effect.handle))
        if request is None:
            self.fail(f"{type(item).__name__} for a request that has ended", host)
            return
        match item:
            case RouterReady():
                self._in_time(host, request)
                request.due_ms = None
            case SessionAssigned():
                self._in_time(host, request)
                request.due_ms = None
            case SessionOver() | RouterGone() | TaskOver():
                self._in_time(host, request)
                del self._open[host.name, effect.handle]
                signed = isinstance(item, TaskOver) and item.end is not None
                if item.code in NEVER and not signed and not self._among_liars:
                    self.fail(f"a {request.what} ended with {item.code}: {item.detail}", host)
                end = f"{request.what} {'signed end' if signed else item.code}"
                self.ends[end] = self.ends.get(end, 0) + 1

    def _in_time(self, host: Host, request: _Request) -> None:
        now_ms = host.clock.now_ms()
        if request.due_ms is not None and now_ms > request.due_ms + LATE_MS:
            self.fail(f"a {request.what} was answered {now_ms - request.due_ms} ms after its deadline", host)

    def ended(self) -> None:
        """Nothing that had a deadline is open."""
        for (name, handle), request in self._open.items():
            if request.due_ms is not None or (request.what != "greeting" and not self._among_liars):
                self.fail(f"{request.what} {handle} never ended", self.world.hosts[name])
