"""Scenario files: commands, and below each what it made happen.

    # A comment.
    ask c1 a1 s1 tokens=4
    run 100
    ----
        12 c1 > r1  SubmitTask s1/1 max_tokens=4

Commands: ``world miners=2 clients=1 slots=1 latency=5 token=10 tokens=6 routers=1`` (first), ``connect CLIENT``,
``open CLIENT NAME [timeout=MS] [lanes=N]``, ``ask CLIENT NAME SESSION [tokens=N] [timeout=MS]``, ``cancel CLIENT
NAME``, ``close CLIENT NAME``, ``kill NODE``, ``freeze NODE``, ``thaw NODE``, ``cut NODE NODE [NOTICES]``, ``stall
NODE``, ``tamper NODE FRAUD``, ``run MS``. The NODE ``leased`` is the miner of the latest assignment. A session is
opened at r1 and names all routers.
"""

from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.roles.client import AskTask, CancelAsk, CloseAsked, ConnectRouter, OpenAsked
from tests.scenarios.rig import MODEL, World

DEFAULTS = {"miners": 2, "clients": 1, "slots": 1, "latency": 5, "token": 10, "tokens": 6}


class Script:
    """One scenario, run from the top."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.handles: dict[str, int] = {}

    def replay(self, text: str) -> str:
        """The same file with the traces as they are now."""
        blocks = []
        for block in text.rstrip().split("\n\n"):
            lines, _, _ = block.partition("\n----")
            commands = [line for line in lines.split("\n") if line and not line.startswith("#")]
            if not commands:
                blocks.append(lines)
                continue
            for command in commands:
                self.do(command)
            assert self.world is not None
            blocks.append(f"{lines}\n----\n{self.world.trace.take()}".rstrip())
        return "\n\n".join(blocks) + "\n"

    def do(self, command: str) -> None:
        """One command."""
        name, *words = command.split()
        options = {key: int(value) for key, _, value in (word.partition("=") for word in words if "=" in word)}
        plain = [word for word in words if "=" not in word]
        if name == "world":
            self.world = World(**{**DEFAULTS, **options})
            self.world.trace.domain = self.world.genesis.domain()
            return
        world = self.world
        assert world is not None, "a scenario begins with its world"
        match name:
            case "run":
                world.run(int(plain[0]))
            case "kill":
                world.kill(world.named(plain[0]))
            case "freeze":
                world.freeze(plain[0])
            case "thaw":
                world.thaw(plain[0])
            case "cut":
                world.cut(plain[0], plain[1], notice=tuple(plain[2:]))
            case "stall":
                world.stall(world.named(plain[0]))
            case "tamper":
                world.tamper(plain[0], " ".join(plain[1:]))
            case _:
                self.wish(world, name, plain, options)

    def wish(self, world: World, name: str, plain: list[str], options: dict[str, int]) -> None:
        """A client's wish."""
        node, router = world.nodes[plain[0]], world.nodes["r1"].key.node
        called = plain[1] if len(plain) > 1 else "router"
        timeout_ms = options.get("timeout", 10_000)
        if name in ("connect", "open", "ask"):
            self.handles[called] = len(world.trace.handles) + 1
            world.trace.handles[self.handles[called]] = called
        handle = self.handles[called]
        match name:
            case "connect":
                world.tell(node, ConnectRouter(handle, router, world.genesis.network_id()))
            case "open":
                nonce = handle.to_bytes(32, "big")
                others = tuple(key.node for key in world.router_keys[1:])
                lanes = options.get("lanes", 1)
                wish = OpenAsked(handle, router, MODEL, nonce, 1, 10, timeout_ms, 600_000, others=others, lanes=lanes)
                world.tell(node, wish)
            case "ask":
                turn = PromptMessage("user", "Where does a bear live?")
                nonce, tokens = handle.to_bytes(32, "big"), options.get("tokens", 6)
                ask = AskTask(
                    handle, self.handles[plain[2]], (turn,), SamplingParams(), nonce, nonce, tokens, timeout_ms
                )
                world.tell(node, ask)
            case "cancel":
                world.tell(node, CancelAsk(handle))
            case "close":
                world.tell(node, CloseAsked(handle))
            case _:
                raise AssertionError(f"no command {name!r}")
