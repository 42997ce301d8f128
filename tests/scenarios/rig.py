"""A small world for scenarios: real machines, a wire with a latency, a disk, a toy engine, and a trace of it all.

There is one heap of things to come, ordered by time and then by when they were put there, so a scenario always
reads the same. Nothing here decides anything that the machines should.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from protocol import gossip
from protocol.core.codec import Message, decode, encode
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Note,
    Open,
    Persist,
    Publish,
    Received,
    Send,
    Sent,
)
from protocol.core.params import Params
from protocol.messages.adverts import Advert, ModelManifest, ModelOffer
from protocol.messages.envelope import seal
from protocol.messages.sessions import SessionReady
from protocol.messages.tasks import EndReason, FrameMessage, SegmentStart
from protocol.roles.client import ClientMachine, Deliver, Item
from protocol.roles.client.events import Handle
from protocol.roles.miner import (
    CancelGeneration,
    Generate,
    Generated,
    GenerationKey,
    MinerMachine,
    MinerSettings,
    Produced,
    Rendered,
)
from protocol.roles.router import RouterMachine, RouterSettings
from protocol.session.adverts import AdvertBook
from tests.scenarios.trace import Trace
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.tampering import FRAUDS, Alter, Powers

START_MS = 1_800_000_000_000
MANIFEST = ModelManifest("tiny", bytes(32), 1, "llama", "Q8_0", 512)
MODEL = MANIFEST.digest()
PROMPT_TOKENS = (1, 2, 3)
SILENCE_MS = 6_000
"""How long a connection that was cut may look alive."""
WORDS = ("A", " bear", " lives", " in", " the", " woods", ",", " mostly", ".")


@dataclass
class Wire:
    """A stream: where each end's messages go."""

    between: frozenset[str]
    ends: dict[str, Channel] = field(default_factory=dict)
    open: bool = True


@dataclass
class Node:
    """One machine, its key, its streams, and what waits for its disk."""

    name: str
    key: Key
    machine: Any
    wires: dict[Channel, tuple[Wire, str]] = field(default_factory=dict)
    held: dict[bytes, deque[object]] = field(default_factory=dict)
    inbound: int = 0
    alive: bool = True
    frozen: list[object] | None = None
    """What it will hear of when it thaws; None: it runs."""
    alter: Alter | None = None
    running: set[GenerationKey] = field(default_factory=set)


class World:
    """Nodes r1 to rN, m1 to mN, c1 to cN. Times are milliseconds since the start."""

    def __init__(
        self, *, miners: int, clients: int, slots: int, latency: int, token: int, tokens: int, routers: int = 1
    ) -> None:
        self.now_ms = START_MS
        self.params = replace(
            Params(),
            bids_good=min(3, miners),
            ack_every_tokens=4,
            unacked_tokens_max=8,
            frame_tokens_max=8,
            first_frame_timeout_ms=3_000,
        ).validate()
        self.genesis = Genesis("scenario", params=self.params)
        self.latency_ms, self.token_ms, self.tokens, self.disk_ms = latency, token, tokens, 1
        self.nodes: dict[str, Node] = {}
        self.trace = Trace()
        self.leased = ""
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        domain, adverts = self.genesis.domain(), []
        offer = ModelOffer(MANIFEST, slots, 512, 0)
        self.wires: list[Wire] = []
        self.items: dict[Handle, list[Item]] = {}
        """What was delivered."""
        self.carried = 0
        """Messages between clients and routers so far."""
        self.watch: Callable[[], None] = lambda: None
        """Told of each of them."""
        for number in range(1, miners + 1):
            me = key(100 + number)
            made = MinerSettings(me.node, {MODEL: offer}, number.to_bytes(16, "big"))
            self._add(f"m{number}", me, MinerMachine(made, domain, self.params, me.sign))
            advert = Advert(me.node, START_MS, ("miner",), (), (offer,), "")
            adverts.append((advert, seal(domain, me.sign, advert)))
        self.router_keys = [key(number) for number in range(1, routers + 1)]
        for number, router in enumerate(self.router_keys, 1):
            book = AdvertBook(self.params, bytes(16))
            for advert, envelope in adverts:
                book.add(advert, envelope, START_MS)
            settings = RouterSettings(router.node, (), self.genesis.to_json())
            self._add(f"r{number}", router, RouterMachine(settings, domain, self.params, router.sign, book))
        for number in range(1, clients + 1):
            me = key(200 + number)
            self._add(f"c{number}", me, ClientMachine(me.node, me.sign))

    def _add(self, name: str, me: Key, machine: Any) -> None:
        self.nodes[name] = Node(name, me, machine)
        self.trace.names[me.node] = name

    # Time

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something later; of what is due at one time, what was put first comes first."""
        self._order += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._order, action))

    def run(self, ms: int) -> None:
        """Let time pass."""
        until = self.now_ms + ms
        while True:
            deadlines = [
                (at, node)
                for node in self.nodes.values()
                if node.alive and node.frozen is None and (at := node.machine.next_deadline()) is not None
            ]
            at, node = min(deadlines, key=lambda item: item[0], default=(until + 1, None))
            if self._heap and self._heap[0][0] <= min(at, until):
                self.now_ms, _, action = heapq.heappop(self._heap)
                action()
            elif node is not None and at <= until:
                self.now_ms = max(self.now_ms, at)
                self.tell(node, DeadlineReached())
            else:
                break
        self.now_ms = until

    def say(self, who: str, what: str) -> None:
        """A line of the trace."""
        self.trace.line(self.now_ms - START_MS, who, what)

    # Machines

    def tell(self, node: Node, event: object) -> None:
        """Hand a machine an event and do what it asks for."""
        if node.frozen is not None:
            node.frozen.append(event)
        elif node.alive:
            for effect in node.machine.handle(event, self.now_ms):
                self._execute(node, effect)

    def _execute(self, node: Node, effect: Any) -> None:
        name = getattr(effect, "key", b"")
        if name in node.held:
            node.held[name].append(effect)
        elif isinstance(effect, Persist):
            node.held[name] = deque()
            self.at(self.disk_ms, lambda: self._persisted(node, effect))
        else:
            self._perform(node, effect)

    def _persisted(self, node: Node, effect: Persist) -> None:
        self.say(node.name, f"has on disk: {self.trace.record(effect)}")
        for waiting in node.held.pop(effect.key):
            self._execute(node, waiting)

    def _perform(self, node: Node, effect: Any) -> None:
        match effect:
            case Open():
                self._open(node, effect)
            case Send():
                altered = (
                    node.alter(effect.message)
                    if node.alter and effect.channel > 0 and isinstance(effect.message, SegmentStart | FrameMessage)
                    else [effect.message]
                )
                for message in altered:
                    self._send(node, effect.channel, message)
                if effect.report:
                    self.at(0, lambda: self.tell(node, Sent(effect.channel)))
            case Close():
                self._close(node, effect.channel)
            case Publish():
                self._publish(node, effect)
            case Generate():
                node.running.add(effect.generation)
                self.at(self.token_ms, lambda: self._render(node, effect))
            case CancelGeneration():
                node.running.discard(effect.generation)
                self.say(node.name, "stops the engine")
            case Deliver():
                self.items.setdefault(effect.handle, []).append(effect.item)
                self.say(node.name, f"shows {self.trace.item(effect)}")
            case Note():
                self.say(node.name, f"notes {effect.what}: {self.trace.fields(effect)}")

    # Streams and gossip

    def peer(self, of: NodeId) -> Node:
        """The node with an id."""
        return next(node for node in self.nodes.values() if node.key.node == of)

    def _open(self, node: Node, effect: Open) -> None:
        peer = self.peer(effect.peer)
        wire = Wire(frozenset((node.name, peer.name)), {node.name: effect.channel})
        self.wires.append(wire)
        node.wires[effect.channel] = (wire, peer.name)

        def arrive() -> None:
            if not wire.open:
                return
            if not peer.alive:
                self._lost(node, effect.channel, "unreachable")
                return
            peer.inbound += 1
            channel = wire.ends[peer.name] = Channel(peer.inbound)
            peer.wires[channel] = (wire, node.name)
            self.tell(peer, ChannelOpened(channel, node.key.node, effect.protocol))

        self.at(self.latency_ms, arrive)

    def _send(self, node: Node, channel: Channel, message: Message) -> None:
        if channel not in node.wires:
            return
        wire, other = node.wires[channel]
        peer, data = self.nodes[other], encode(message)
        self.say(f"{node.name} > {other}", self.trace.message(message))
        if isinstance(message, SessionReady):
            self.leased = self.peer(NodeId(message.assignment.miners[0])).name

        def arrive() -> None:
            end = wire.ends.get(other)
            if wire.open and end is not None and end in peer.wires:
                self.tell(peer, Received(end, decode(data)))

        self.at(self.latency_ms, arrive)
        if "c1" in (node.name, other):
            self.carried += 1
            self.watch()

    def _close(self, node: Node, channel: Channel) -> None:
        if channel in node.wires:
            wire, other = node.wires.pop(channel)
            self.at(self.latency_ms, lambda: self._lost(self.nodes[other], wire.ends.get(other), "closed"))

    def _lost(self, node: Node, channel: Channel | None, reason: str) -> None:
        if channel is not None and node.wires.pop(channel, None) is not None:
            self.tell(node, ChannelClosed(channel, reason))

    def _publish(self, node: Node, effect: Publish) -> None:
        data = encode(effect.message)
        self.say(f"{node.name} > *", self.trace.message(effect.message))
        for peer in self.nodes.values():
            if peer is not node and effect.topic in peer.machine.topics:
                self.at(self.latency_ms, lambda peer=peer: self._gossip(peer, node, effect.topic, data))  # type: ignore

    def _gossip(self, peer: Node, origin: Node, topic: str, data: bytes) -> None:
        checked = gossip.check(self.genesis.domain(), self.params, topic, origin.key.node, data)
        assert checked.message is not None
        assert checked.envelope is not None
        self.tell(peer, GossipReceived(topic, origin.key.node, checked.message, checked.envelope))

    # Engines

    def _render(self, node: Node, effect: Generate) -> None:
        if effect.generation in node.running:
            self.tell(node, Rendered(effect.generation, PROMPT_TOKENS))
            self._produce(node, effect, len(effect.emitted))

    def _produce(self, node: Node, effect: Generate, index: int) -> None:
        if effect.generation not in node.running or not node.alive:
            return
        total = min(effect.max_tokens, self.tokens)
        if index == total:
            node.running.discard(effect.generation)
            reason = EndReason.LENGTH if total == effect.max_tokens else EndReason.STOP
            self.tell(node, Generated(effect.generation, reason, 0))
            return
        self.tell(node, Produced(effect.generation, (index,), (WORDS[index % len(WORDS)].encode(),)))
        self.at(self.token_ms, lambda: self._produce(node, effect, index + 1))

    # Faults

    def named(self, name: str) -> str:
        """A node's name; "leased" is whom the latest assignment names."""
        return self.leased if name == "leased" else name

    def kill(self, name: str) -> None:
        """A node is gone from one moment to the next; the others notice a little later."""
        node = self.nodes[name]
        node.alive = False
        self.say(name, "is gone")
        for wire, other in node.wires.values():
            self.at(
                self.latency_ms,
                lambda wire=wire, other=other: (  # type: ignore[misc]
                    self._lost(self.nodes[other], wire.ends.get(other), "reset")
                ),
            )
        node.wires.clear()

    def cut(self, one: str, other: str, *, notice: tuple[str, ...] = ()) -> None:
        """The streams between two nodes are lost, with what was under way. Both notice, or those named at first."""
        self.say(f"{one} x {other}", "streams are lost")
        for wire in self.wires:
            if wire.open and wire.between == {one, other}:
                wire.open = False
                for name, channel in list(wire.ends.items()):
                    after_ms = self.latency_ms if not notice or name in notice else SILENCE_MS
                    self.at(
                        after_ms,
                        lambda name=name, channel=channel: (  # type: ignore[misc]
                            self._lost(self.nodes[name], channel, "reset")
                        ),
                    )

    def freeze(self, name: str) -> None:
        """A node stands still: it says and hears nothing, and its connections stand."""
        self.say(name, "is frozen")
        self.nodes[name].frozen = []

    def thaw(self, name: str) -> None:
        """It goes on with all that it missed."""
        self.say(name, "goes on")
        node = self.nodes[name]
        missed, node.frozen = node.frozen or [], None
        for event in missed:
            self.tell(node, event)

    def stall(self, name: str) -> None:
        """A miner's engine brings no more tokens of what runs now."""
        self.say(name, "stalls")
        self.nodes[name].running.clear()

    def tamper(self, name: str, fraud: str) -> None:
        """From now on a router does this to what it relays."""
        domain, node = self.genesis.domain(), self.nodes[name]
        powers = Powers(domain, node.key.sign, self.nodes["m1"].key.sign, [])
        node.alter = next(one for one in FRAUDS if one.name == fraud).make(powers)
