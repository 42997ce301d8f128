"""What the routes stand on: a light client, the sessions that it keeps open, and what is remembered of answers."""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from p2pnode.answer import Answer, RequestFailed
from p2pnode.http.limits import NOBODY, Caller
from p2pnode.http.pool import Net as SessionNet
from p2pnode.http.pool import Pool, PoolTerms
from p2pnode.http.view import View
from p2pnode.transport.unwrap import unwrapped
from protocol.core.genesis import Genesis
from protocol.messages.adverts import ModelOffer

if TYPE_CHECKING:
    from p2pnode.telemetry.metrics import Metrics

MODELS_S = 2.0
"""What the router has miners for is asked for anew at most so often."""
KEPT_MAX = 512
KEPT_CHARACTERS_MAX = 8 << 20


class Net(SessionNet, Protocol):
    """What of a light client the routes need; ``p2pnode.client.LightClient`` is one."""

    @property
    def genesis(self) -> Genesis:
        """The network."""

    @property
    def settles(self) -> bool:
        """Whether they get settled, as far as it can."""

    @property
    def models(self) -> Sequence[ModelOffer]:
        """What there were miners for when the router was asked last."""

    async def refresh(self) -> None:
        """Ask the router again what it has miners for."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The bounds of the surface."""

    pool: PoolTerms = field(default_factory=PoolTerms)
    max_tokens: int = 1_024
    """Of an answer whose request does not say."""
    timeout_ms: int = 300_000
    """Of a request, from its arrival to its end."""
    open_ms: int = 60_000
    """Of that, for a miner to be free."""
    ping_s: float = 15.0
    """So long a stream is silent before a comment shows that it lives."""
    answers_max: int = 16
    """Of one request: OpenAI's n, over all prompts."""


@dataclass(slots=True, eq=False)
class Request:
    """One request for answers, as it is counted and traced."""

    kind: str
    """chat, completion or embedding."""
    model: str
    """By name."""
    id: str = ""
    """As x-request-id has it."""
    owner: str = ""
    """The name of the API key that it came with; empty where none is needed."""
    traceparent: str = ""
    """As it came, or empty."""
    streamed: bool = False
    began_ns: int = field(default_factory=time.monotonic_ns)
    ordered_ns: int = 0
    """When the first order went to the network."""
    first_ns: int = 0
    """When its first signed token was here."""
    ended_ns: int = 0
    attempts: int = 0
    """Orders that were given; more than asked for where one failed before its first token."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    code: str = ""
    """Why it failed; empty where it did not."""
    caller: Caller = NOBODY
    """Whose limits it counts against."""
    tasks: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    """Session, task and miner of each answer that began."""
    sessions: list[bytes] = field(default_factory=list)
    """Of each attempt."""

    @property
    def overhead_ms(self) -> float:
        """What this process took until the first token: the network's own time is from the order to the token."""
        now = time.monotonic_ns()
        waited = (self.first_ns or now) - self.ordered_ns if self.ordered_ns else 0
        return max(0.0, (self.first_ns or now) - self.began_ns - waited) / 1e6


class Watcher(Protocol):
    """Who is told of requests: metrics and traces."""

    def began(self, request: Request) -> None:
        """It was understood, and will be tried."""

    def first(self, request: Request) -> None:
        """Its first token is here."""

    def ended(self, request: Request) -> None:
        """It is over, one way or another."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that is remembered for whoever asked for it."""

    answer: Answer
    owner: str
    session: bytes
    task: int
    model: str
    """By name."""
    miner: bytes
    created_s: int


class Service:
    """See the module. Made by :func:`open_service`."""

    def __init__(self, net: Net, nursery: trio.Nursery, terms: Terms, now_s: Callable[[], float]) -> None:
        self.net = net
        self.terms = terms
        self.start = nursery.start_soon
        """Begins what goes on when the connection that asked for it is gone, until the service ends."""
        self.ending = trio.Event()
        """Set when the process begins to end: a connection that waits for nothing is let go."""
        self.pool = Pool(net, nursery, terms.pool)
        self.metrics: Metrics | None = None
        """What /metrics shows; None: nothing."""
        self.watchers: list[Watcher] = []
        self.models: Callable[[], Sequence[ModelOffer]] = lambda: net.models
        """What is offered now; a router's own process knows better than the greeting."""
        self.trusts_router = False
        """Whether this process is the router itself, and so the client of those who ask over HTTP."""
        self.view: View | None = None
        """What the process says of itself; None: what its light client knows."""
        self.now_s = now_s
        self.started_s = int(now_s())
        self._asked = -math.inf
        """When the router was asked for its models."""
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._kept_characters = 0

    async def offers(self) -> Sequence[ModelOffer]:
        """What is offered, as of a moment ago. Raises RequestFailed."""
        if trio.current_time() - self._asked > MODELS_S:
            self._asked = trio.current_time()
            await self.net.refresh()
        return self.models()

    async def find(self, wanted: str) -> ModelOffer:
        """The offer of a model, even of one whose miner came just now. Raises RequestFailed."""
        try:
            return self.model(wanted)
        except RequestFailed:
            await self.offers()
            return self.model(wanted)

    def model(self, wanted: str) -> ModelOffer:
        """The offer of a model by name, or by its digest's first digits. Raises RequestFailed."""
        offers = self.models()
        for offer in offers:
            digest = offer.manifest.digest().hex()
            if wanted == offer.manifest.name or (len(wanted) >= 6 and digest.startswith(wanted.lower())):
                return offer
        names = ", ".join(offer.manifest.name for offer in offers) or "none"
        raise RequestFailed("model_not_found", f"no miner is known for model {wanted[:80]!r}; there are: {names}")

    def keep(self, kept: Kept) -> str:
        """Remember an answer for a while; its receipt's id."""
        name = receipt_id(kept.session, kept.task)
        self._kept[name] = kept
        self._kept_characters += len(kept.answer.text)
        while len(self._kept) > KEPT_MAX or self._kept_characters > KEPT_CHARACTERS_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._kept_characters -= len(oldest.answer.text)
        return name

    def kept(self, receipt: str, owner: str) -> Kept | None:
        """The answer of a receipt id, if it is remembered and was given to that owner."""
        found = self._kept.get(receipt)
        return found if found is not None and found.owner == owner else None

    def kept_of(self, owner: str) -> Sequence[Kept]:
        """All that are remembered of an owner's, the latest first."""
        return [kept for kept in reversed(self._kept.values()) if kept.owner == owner]


@asynccontextmanager
async def open_service(
    net: Net, terms: Terms | None = None, *, now_s: Callable[[], float] = time.time
) -> AsyncIterator[Service]:
    """A service over a light client; its sessions are closed with the block."""
    with unwrapped():
        async with trio.open_nursery() as nursery:
            yield Service(net, nursery, terms or Terms(), now_s)
            nursery.cancel_scope.cancel()


def receipt_id(session: bytes, task: int) -> str:
    """How an answer's receipt is named: session, hyphen, order."""
    return f"{session.hex()}-{task}"


def new_request_id() -> str:
    """Drawn for a request that names none."""
    return f"req_{secrets.token_hex(12)}"
