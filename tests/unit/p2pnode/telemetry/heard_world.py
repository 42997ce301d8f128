"""The scenarios' world with a tap on each of its machines: real machines, on virtual time, and the spans they leave."""

from typing import Any

from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.span import Span
from protocol.roles.client import ClientMachine
from tests.scenarios.rig import World
from tests.scenarios.script import Script


class Heard:
    """A machine with a tap, as a driver would run it."""

    def __init__(self, machine: Any, tap: Any) -> None:
        self._machine = machine
        self._tap = tap

    def handle(self, event: object, now_ms: int) -> list[object]:
        self._tap.event(event)
        effects: list[object] = self._machine.handle(event, now_ms)
        for effect in effects:
            self._tap.effect(effect)
        return effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)


class HeardScript(Script):
    """A scenario; ``spans`` are those of all its nodes, in the order in which they ended."""

    def __init__(self, *, prompts: bool = False) -> None:
        super().__init__()
        self._prompts = prompts
        self.spans: list[Span] = []
        self.instruments: dict[str, Instruments] = {}

    def do(self, command: str) -> None:
        super().do(command)
        world = self.world
        if command.startswith("world") and world is not None:
            for node in world.nodes.values():
                made = Instruments(
                    node.key.node,
                    world.genesis.domain(),
                    prompts=self._prompts,
                    now_ns=lambda: world.now_ms * 1_000_000,
                )
                made.sinks.append(self.spans.append)
                tap = made.client() if isinstance(node.machine, ClientMachine) else made.of(node.machine)
                node.machine = Heard(node.machine, tap)
                self.instruments[node.name] = made

    def play(self, *commands: str) -> None:
        """Several commands."""
        for command in commands:
            self.do(command)

    def span(self, name: str, role: str = "", **where: Any) -> Span:
        """The one span of a name, and of a role if one is given."""
        found = [
            span
            for span in self.spans
            if span.name == name
            and (not role or span.role == role)
            and all(getattr(span, field) == value for field, value in where.items())
        ]
        assert len(found) == 1, [(span.name, span.role) for span in self.spans]
        return found[0]

    @property
    def here(self) -> World:
        """The world, once it stands."""
        assert self.world is not None
        return self.world
