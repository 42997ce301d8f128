"""A client that watches three routers, each of which it also has its answers from, and what each of them says."""

from typing import Any

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, Open
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked
from protocol.roles.client import ChainWanted, RouterSeen, RouterState, WatchRouters
from tests.unit.protocol.client_at_hand import ROUTER_HANDLE
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.light_at_hand import EPOCH, certify, header_of
from tests.unit.protocol.machines import ROUTER, of, sent
from tests.unit.protocol.test_machine_client_levels import Asking

SECOND, THIRD = key(4), key(5)
ROUTERS = (ROUTER, SECOND, THIRD)
WATCH = 900
"""The handle of the watch."""
NOTHING = LightRefused("not_final", "nothing is final here")


class Watcher(Asking):
    """See the module. ``lights`` are the latest streams to each router."""

    def __init__(self, *routers: Key, **opening: Any) -> None:
        self.lights: dict[NodeId, Channel] = {}
        super().__init__(**opening)
        assert ROUTER_HANDLE != WATCH
        named = tuple(router.node for router in routers or ROUTERS)
        self.first = self.tell(WatchRouters(WATCH, ROUTER.node, named))

    def tell(self, event: object) -> list[object]:
        effects = super().tell(event)
        self.lights.update({each.peer: each.channel for each in of(effects, Open) if each.protocol == "light"})
        return effects

    def shows(self, router: Key, *messages: Message) -> list[object]:
        """A router answers on ``light``."""
        return [effect for message in messages for effect in self.receive(self.lights[router.node], message)]

    def head(self, router: Key, height: int, epoch: int = EPOCH, **certified: Any) -> list[object]:
        """It shows a final header."""
        return self.shows(router, certify(header_of(height, epoch), **certified))

    def leaves(self, router: Key) -> list[object]:
        return self.tell(ChannelClosed(self.lights[router.node], "reset"))

    def asked(self, effects: list[object], router: Key, kind: type[Message] = HeadAsked) -> list[Message]:
        """What a router is asked."""
        return [each for each in sent(effects, self.lights[router.node]) if isinstance(each, kind)]

    def outcomes(self, effects: list[object], router: Key) -> list[Message]:
        """The outcomes that it is asked for."""
        return self.asked(effects, router, OutcomeAsked)

    def seen(self, router: Key) -> RouterSeen:
        """What is thought of a router now."""
        return [item for item in of(self.items.get(WATCH, []), RouterSeen) if item.router == router.node][-1]

    def state(self, router: Key) -> RouterState:
        return self.seen(router).state

    @property
    def wants_chain(self) -> int:
        """How often the program was asked to look at the chain."""
        return len(of(self.items.get(WATCH, []), ChainWanted))
