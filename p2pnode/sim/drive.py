"""Runs one machine by the contract of ``protocol.core.machine``, as ``p2pnode.driver`` does, on the world's heap.

Effects of a key run in order, a Persist durable before the next effect of its key; other keys and effects without one
do not wait. A node can die before or after every single effect.
"""

import traceback
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from protocol.core.machine import (
    Channel,
    ChannelClosed,
    Close,
    DeadlineReached,
    Key,
    Learn,
    Note,
    Open,
    Persist,
    PersistFailed,
    Publish,
    Send,
    SendAll,
)

if TYPE_CHECKING:
    from p2pnode.sim.host import Host, Part, Perform
    from p2pnode.sim.streams import End

HELD_EFFECTS_MAX = 4_096
"""As in the driver: more mean that the disk hangs, and the node stops."""
DUE_AT_ONCE_MAX = 1_000
"""A machine that is due so often at one moment will be due for ever."""


class Drive:
    """One machine of a host, for one life of it."""

    def __init__(self, host: "Host", part: "Part", number: int) -> None:
        self.host = host
        self.machine = part.machine
        self.name = f"{host.name}/{type(part.machine).__name__}"
        self.number = number
        self.alive = True
        self.channels: dict[Channel, End] = {}
        self.held: dict[Key, deque[object]] = {}
        """Effects that wait for a Persist of their key."""
        self.failed: set[Key] = set()
        """Keys of which a Persist failed, until the machine has heard of it: what it asks for of them is dropped."""
        self.handled = 0
        self._numbers = count(1)
        self._performers: dict[type, Perform] = dict(part.performers(self.dispatch)) if part.performers else {}
        self._events: deque[tuple[object, End | None]] = deque()
        self._handling = False
        self._late = 0
        self._late_us = 0
        self._armed_us: int | None = None
        self._due = False
        """Whether the machine is about to be told that its deadline is reached."""
        self._due_at: tuple[int, int] = (-1, 0)

    def stop(self) -> None:
        """The node died."""
        self.alive = False
        self.held.clear()
        self.channels.clear()

    def next_inbound(self) -> Channel:
        """A number for a stream that a peer opened."""
        return Channel(next(self._numbers))

    # Events

    def dispatch(self, event: object, end: "End | None" = None) -> None:
        """Hand the machine an event: at once, or, on a slow node, late, in order. ``end``: what it is about."""
        if not self.alive:
            return
        host = self.host
        if not host.lag_us and not self._late:
            self._take(event, end)
            return
        world = host.world
        # Behind whatever is late already.
        self._late_us = max(self._late_us, world.now_us + (host.lag_rng.randrange(host.lag_us) if host.lag_us else 0))
        self._late += 1
        world.at(self._late_us, partial(self._take_late, event, end))

    def _take_late(self, event: object, end: "End | None") -> None:
        self._late -= 1
        if self.alive:
            self._take(event, end)

    def _take(self, event: object, end: "End | None") -> None:
        self._events.append((event, end))
        if self._handling:
            return
        self._handling = True
        try:
            while self._events and self.alive:
                self._handle(*self._events.popleft())
        finally:
            self._handling = False
        if self.alive:
            self.arm()

    def _handle(self, event: object, end: "End | None") -> None:
        host, machine = self.host, self.machine
        world, now_ms = host.world, host.clock.now_ms()
        if end is not None:
            if end.closed:
                return
            if isinstance(event, ChannelClosed):
                end.closed = True
                self.channels.pop(end.channel, None)
        elif isinstance(event, DeadlineReached):
            # What was due when the timer rang may have been handled since.
            self._due = False
            deadline = machine.next_deadline()
            if deadline is None or deadline > now_ms:
                return
        elif isinstance(event, PersistFailed):
            self.failed.discard(event.key)
        world.events += 1
        self.handled += 1
        watch = world.watch
        for hook in watch.handles:
            hook(self, event, now_ms)
        channel = end.channel if end is not None else 0
        world.trace.add(world.now_us, self.name, "<-", event, b"%d/%d" % (now_ms, channel))
        try:
            effects = machine.handle(event, now_ms)
        except Exception:
            world.fail("TOTAL", f"handle raised on {type(event).__name__}:\n{traceback.format_exc()}", self.name)
        for hook in watch.handled:
            hook(self, event, effects)
        for effect in effects:
            if not self.alive:
                return
            self._execute(effect)

    # Effects

    def _execute(self, effect: object) -> None:
        key: Key = getattr(effect, "key", b"")
        if key in self.failed:
            return
        held = self.held.get(key) if key else None
        if held is not None:
            held.append(effect)
            if len(held) > HELD_EFFECTS_MAX:
                self.host.world.fail("S13", "too many effects wait for one Persist", self.name)
        elif isinstance(effect, Persist):
            self.held[effect.key] = deque()
            self._perform(effect)
        else:
            self._perform(effect)

    def _perform(self, effect: object) -> None:
        if isinstance(effect, SendAll):
            # One effect, but a node may die between any two of the messages.
            for channel in effect.channels:
                if self.alive:
                    self._perform(Send(channel, effect.message, key=effect.key))
            return
        host = self.host
        host.before_effect()
        if not self.alive:
            return
        world = host.world
        for hook in world.watch.effect:
            hook(self, effect)
        performer = self._performers.get(type(effect))
        if performer is not None:
            world.trace.add(world.now_us, self.name, "does", effect, type(effect).__name__.encode())
            performer(effect)
        else:
            self._perform_common(effect)
        if self.alive:
            host.after_effect()

    def _perform_common(self, effect: object) -> None:
        host = self.host
        world = host.world
        match effect:
            case Send():
                end = self.channels.get(effect.channel)
                if end is not None and end.live:
                    end.stream.send(end.side, effect.message, effect.report)
            case Open():
                world.network.open(self, effect.channel, effect.peer, effect.protocol)
            case Close():
                self._close(effect.channel)
            case Publish():
                world.network.spreading.publish(host, effect.topic, effect.message)
            case Persist():
                names = b",".join(name for name, _ in effect.records)
                world.trace.add(world.now_us, self.name, "writes", effect, names)
                durable, failed = partial(self._durable, effect), partial(self._failed, effect)
                host.disk.write(effect.records, world.now_us, durable, failed)
            case Learn() | Note():
                world.trace.add(world.now_us, self.name, "--", effect, repr(effect).encode())
            case _:
                world.fail("TOTAL", f"nothing executes {type(effect).__name__}", self.name)

    def _close(self, channel: Channel) -> None:
        end = self.channels.pop(channel, None)
        if end is not None:
            end.closed = True
            if end.live:
                end.live = False
                end.stream.close(end.side)

    def _durable(self, effect: Persist) -> None:
        """The records survive from here on: what waited for them goes on, up to the next Persist of the key."""
        host = self.host
        host.world.trace.add(host.world.now_us, self.name, "durable", effect)
        for hook in host.world.watch.durable:
            hook(host, effect.records)
        waiting = self.held[effect.key]
        while waiting and self.alive:
            following = waiting.popleft()
            self._perform(following)
            if isinstance(following, Persist):
                return
        if self.alive:
            del self.held[effect.key]

    def _failed(self, effect: Persist) -> None:
        """The disk failed: the node ends, or what waited is dropped and the machine told."""
        host = self.host
        host.world.trace.add(host.world.now_us, self.name, "is not durable", effect)
        del self.held[effect.key]
        if effect.vital:
            host.crash()
        else:
            self.failed.add(effect.key)
            self.dispatch(PersistFailed(effect.key, "the disk failed"))

    # The timer

    def arm(self) -> None:
        """Wake up when the machine's next deadline is reached; a wake-up that comes too early is put off then."""
        deadline = self.machine.next_deadline()
        if deadline is None or self._due:
            return
        at_us = self.host.clock.reached_us(deadline)
        if self._armed_us is None or at_us < self._armed_us:
            self._armed_us = at_us
            self.host.world.at(at_us, partial(self._ring, at_us))

    def rearm(self) -> None:
        """The clock was set: what was reckoned by it holds no more."""
        self._armed_us = None
        self.arm()

    def _ring(self, at_us: int) -> None:
        if not self.alive or self._armed_us != at_us:
            return
        self._armed_us = None
        deadline = self.machine.next_deadline()
        if deadline is None:
            return
        if deadline > self.host.clock.now_ms():
            self.arm()
            return
        self._check_rings()
        self._due = True
        self.dispatch(DeadlineReached())

    def _check_rings(self) -> None:
        now_us = self.host.world.now_us
        at_us, rings = self._due_at
        self._due_at = (now_us, rings + 1 if at_us == now_us else 0)
        if rings > DUE_AT_ONCE_MAX:
            self.host.world.fail("TOTAL", "the machine is due for ever: its clock does not get on", self.name)
