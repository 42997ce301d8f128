"""The one loop: events -> machine.handle -> effects, and one timer.

The driver keeps the contract of ``protocol.core.machine``: effects of a key in order, a Persist durable before
the next effect of its key, nothing of other keys delayed. Everything runs in one trio thread and ``handle`` is
synchronous, so an event is handled to its end before the next one is looked at.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Protocol, assert_never

import trio

from p2pnode.backlog import Backlog
from p2pnode.channels import Channels
from p2pnode.clock import Clock
from p2pnode.telemetry.log_record import fields
from p2pnode.transport.seam import Gossip, PeerUp, Transport, TransportError, Verdict
from p2pnode.transport.unwrap import unwrapped
from protocol import gossip
from protocol.core.codec import encode
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Close,
    CommonEffect,
    DeadlineReached,
    GossipReceived,
    Key,
    Learn,
    Machine,
    Note,
    Open,
    PeerConnected,
    PeerLost,
    Persist,
    PersistFailed,
    Publish,
    Send,
    SendAll,
)

log = logging.getLogger(__name__)

HELD_EFFECTS_MAX = 4_096
"""Effects that may wait for one key's Persist; more mean that the disk hangs, and the node says so and stops."""


class Records(Protocol):
    """Where Persist goes: returns once the records are durable, or raises P2PNodeError."""

    async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None: ...


PUBLISH_QUEUE_MAX = 1_024
"""Our own messages waiting for their turn on gossip; more are dropped, as gossip may do with any."""

GOSSIP_REMEMBERED = 64
"""Messages of a topic on their way from the transport's check to the machine; more are checked once again."""

CheckGossip = Callable[[NodeId, bytes], gossip.Checked]
"""What becomes of a message of one topic, by its origin and its bytes."""

Perform = Callable[[object], None]
"""Executes a role's own effect, e.g. the miner's Generate."""


class Tap(Protocol):
    """Hears what a machine takes and what it asks for; neither raises nor waits."""

    def event(self, event: object) -> None: ...

    def effect(self, effect: object) -> None: ...


class Driver:
    """Runs one machine. Used through :func:`open_driver`. Spec: [MACHINE-PERSIST.1]"""

    def __init__(
        self,
        machine: Machine,
        transport: Transport,
        clock: Clock,
        records: Records | None,
        genesis: Genesis | None,
        nursery: trio.Nursery,
        tap: Tap | None = None,
    ) -> None:
        self.machine = machine
        self._tap = tap
        self.performers: Mapping[type, Perform] = {}
        self._transport = transport
        self._clock = clock
        self._records = records
        self._genesis = genesis
        self._nursery = nursery
        self._backlog = Backlog()
        self._channels = Channels(transport, nursery, self.dispatch, self._backlog.keep_up)
        self._events: deque[object] = deque()
        self._handling = False
        self._held: dict[Key, deque[object]] = {}
        self._publish: deque[Publish] = deque()
        self._publish_wake = trio.Event()
        self._unpublished = 0
        self._timer_wake = trio.Event()
        self._armed: int | None = None

    def dispatch(self, event: object) -> None:
        """Hand the machine an event and execute what it asks for.

        What happens while effects are executed, as when a send finds its channel full, waits for its turn.
        """
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                event = self._events.popleft()
                effects = self.machine.handle(event, self._clock())
                for effect in effects:
                    self._execute(effect)
                if self._tap is not None:
                    # What is to be sent has left by now: a first token does not wait for whoever counts it.
                    self._tap.event(event)
                    for effect in effects:
                        self._tap.effect(effect)
        finally:
            self._handling = False
        deadline = self.machine.next_deadline()
        if deadline is not None and (self._armed is None or deadline < self._armed):
            self._timer_wake.set()

    @property
    def streams(self) -> int:
        """Streams that its machine has open."""
        return len(self._channels)

    @property
    def dropped(self) -> int:
        """Streams that ended because their peer read too slowly, and messages that found no turn on gossip."""
        return self._channels.dropped + self._unpublished

    def start(self) -> None:
        """Serve the machine's protocols and start its timer and its publisher."""
        for protocol in self.machine.protocols:
            self._transport.handle(protocol, partial(self._channels.serve, protocol))
        self._nursery.start_soon(self._run_timer)
        self._nursery.start_soon(self._run_publisher)

    async def follow(self) -> None:
        """Join the machine's topics; returns when subscribed."""
        for topic in self.machine.topics:
            assert self._genesis is not None
            check = self._check_of(topic)
            channel = await self._transport.subscribe(self._genesis.topic(topic), partial(_verdict, check))
            self._nursery.start_soon(self._run_topic, topic, channel, check)

    async def watch_peers(self) -> None:
        """Tell the machine of peers coming and going; runs until cancelled."""
        async for event in self._transport.events():
            self.dispatch(PeerConnected(event.peer) if isinstance(event, PeerUp) else PeerLost(event.peer))

    def _execute(self, effect: object) -> None:
        key: Key = getattr(effect, "key", b"")
        held = self._held.get(key) if key else None
        if held is not None:
            if len(held) >= HELD_EFFECTS_MAX:
                raise RuntimeError("the disk does not keep up: too many effects wait for one Persist")
            held.append(effect)
            self._backlog.waits(key, len(held))
        elif isinstance(effect, Persist):
            self._held[effect.key] = deque()
            self._nursery.start_soon(self._persist, effect)
        else:
            self._perform(effect)

    async def _persist(self, effect: Persist) -> None:
        """Work off what belongs to a key. What waits for the disk meanwhile becomes durable together, in one commit:
        an effect may find more durable than it needs, never less, and a slow disk costs few commits."""
        waiting = self._held[effect.key]
        waiting.appendleft(effect)
        while waiting:
            effects = list(waiting)
            waiting.clear()
            self._backlog.taken_up(effect.key)
            failure = await self._made_durable([each for each in effects if isinstance(each, Persist)])
            if failure is not None:
                del self._held[effect.key]
                self._backlog.taken_up(effect.key)
                self.dispatch(PersistFailed(effect.key, failure))
                return
            for each in effects:
                if not isinstance(each, Persist):
                    self._perform(each)
        del self._held[effect.key]

    async def _made_durable(self, effects: Sequence[Persist]) -> str | None:
        """Write the records; why it failed, if the node can go on without them."""
        records = [record for effect in effects for record in effect.records]
        if not records:
            return None
        assert self._records is not None
        try:
            await self._records.persist(records)
        except P2PNodeError as error:
            if any(effect.vital for effect in effects):
                raise
            return str(error)
        return None

    def _perform(self, effect: object) -> None:
        performer = self.performers.get(type(effect))
        if performer is not None:
            performer(effect)
        else:
            self._perform_common(effect)  # type: ignore[arg-type]

    def _perform_common(self, effect: CommonEffect) -> None:
        match effect:
            case Send():
                self._channels.send(effect.channel, effect.message, effect.report)
            case SendAll():
                self._channels.send_all(effect.channels, effect.message)
            case Open():
                self._channels.open(effect.channel, effect.peer, effect.protocol)
            case Close():
                self._channels.close(effect.channel)
            case Publish():
                if len(self._publish) < PUBLISH_QUEUE_MAX:
                    self._publish.append(effect)
                else:
                    self._unpublished += 1
                self._publish_wake.set()
            case Learn():
                self._transport.learn(effect.peer, effect.addresses)
            case Note():
                log.info(effect.what, extra=fields(dict(effect.fields)))
            case Persist():
                raise AssertionError("Persist is handled in order")
            case _:
                assert_never(effect)

    async def _run_timer(self) -> None:
        while True:
            self._timer_wake = trio.Event()
            self._armed = self.machine.next_deadline()
            now_ms = self._clock()
            if self._armed is not None and self._armed <= now_ms:
                self._armed = None
                self.dispatch(DeadlineReached())
                await trio.lowlevel.checkpoint()
                continue
            wait = trio.CancelScope()
            if self._armed is not None:
                wait.deadline = trio.current_time() + (self._armed - now_ms) / 1_000
            with wait:
                await self._timer_wake.wait()

    async def _run_publisher(self) -> None:
        assert self._genesis is not None or not self.machine.topics
        while True:
            while self._publish and self._genesis is not None:
                effect = self._publish.popleft()
                try:
                    await self._transport.publish(self._genesis.topic(effect.topic), encode(effect.message))
                except TransportError as error:
                    # Gossip promises nothing; what matters is published again by its own timer.
                    self._unpublished += 1
                    log.warning("could not publish on %s: %s", effect.topic, error)
            self._publish_wake = trio.Event()
            await self._publish_wake.wait()

    def _check_of(self, topic: str) -> CheckGossip:
        """The topic's check. It remembers what it said lately: the transport asks first, the delivery once more."""
        assert self._genesis is not None
        check = partial(gossip.check, self._genesis.domain(), self._genesis.params, topic)
        return lru_cache(GOSSIP_REMEMBERED)(check)

    async def _run_topic(self, topic: str, channel: trio.MemoryReceiveChannel[Gossip], check: CheckGossip) -> None:
        async for item in channel:
            await self._backlog.keep_up()
            checked = check(item.origin, item.data)
            if checked.message is not None and checked.envelope is not None:
                self.dispatch(GossipReceived(topic, item.origin, checked.message, checked.envelope))


def _verdict(check: CheckGossip, _forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
    return _VERDICTS[check(origin, data).decision]


_VERDICTS: Mapping[gossip.Decision, Verdict] = {
    gossip.Decision.ACCEPT: Verdict.ACCEPT,
    gossip.Decision.IGNORE: Verdict.IGNORE,
    gossip.Decision.REJECT: Verdict.REJECT,
}


@asynccontextmanager
async def open_driver(
    machine: Machine,
    transport: Transport,
    clock: Clock,
    *,
    records: Records | None = None,
    genesis: Genesis | None = None,
    performers: Callable[[Perform], Mapping[type, Perform]] | None = None,
    tap: Tap | None = None,
) -> AsyncIterator[Driver]:
    """Run a machine for as long as the block lasts; whatever breaks in it ends the block.

    ``performers`` is given ``dispatch`` and returns what executes the role's own effects, by their type.
    """
    with unwrapped():
        async with trio.open_nursery() as nursery:
            driver = Driver(machine, transport, clock, records, genesis, nursery, tap)
            if performers is not None:
                driver.performers = performers(driver.dispatch)
            driver.start()
            await driver.follow()
            nursery.start_soon(driver.watch_peers)
            yield driver
            nursery.cancel_scope.cancel()
