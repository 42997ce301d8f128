"""The router's queue: bounded, fair to every client, and honest about what it can still serve.

Clients take turns by deficit round robin over tokens, so one that sends a hundred requests waits behind its
own ninety-nine and nobody else's. Inside one client the earliest deadline goes first. What cannot start before
its deadline at the present rate of service is refused at once, with the time after which to ask again.
Source: M. Shreedhar and G. Varghese, Efficient Fair Queuing Using Deficit Round-Robin, 1995.
"""

from bisect import insort
from collections import deque
from dataclasses import dataclass, field

from protocol.core.deadlines import Deadlines
from protocol.core.errors import LocalProtocolError
from protocol.core.params import Params
from protocol.session.service_rate import ServiceRate

QUANTUM_TOKENS = 512
"""What a client's turn is worth; a larger request saves up over several turns."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request. ``key`` is unique among those that wait; it must start before ``deadline_ms``."""

    key: bytes
    client: bytes
    cost_tokens: int
    """Prompt and tokens asked for, at least 1."""
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits. ``position`` (1 is next) and ``wait_ms`` are estimates under fair turns."""

    position: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not taken; ``code`` is one of the lifecycle's terminal codes."""

    code: str
    retry_after_ms: int


@dataclass(slots=True)
class _Turn:
    """One client's requests, earliest deadline first, and what it has saved up."""

    entries: list[tuple[int, int, Waiting]] = field(default_factory=list)
    tokens: int = 0
    deficit: int = 0

    def first_live(self, now_ms: int) -> Waiting | None:
        """The earliest request that is not past its deadline."""
        return next((item for deadline_ms, _, item in self.entries if deadline_ms > now_ms), None)


class FairQueue:
    """Requests that wait for a miner. Every one pushed leaves once: by pop, remove or expire."""

    def __init__(self, params: Params) -> None:
        self._params = params
        self._requests: dict[bytes, Waiting] = {}
        self._turns: dict[bytes, _Turn] = {}
        self._ring: deque[bytes] = deque()
        self._deadlines: Deadlines[bytes] = Deadlines()
        self._rate = ServiceRate()
        self._tokens = 0
        self._order = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def tokens(self) -> int:
        """Tokens asked for by all that wait."""
        return self._tokens

    def push(self, item: Waiting, now_ms: int) -> Queued | Refused:
        """Take a request or refuse it. Spec: [QUEUE-BOUND.1] [QUEUE-DEADLINE.1]

        Raises LocalProtocolError for a key that waits already or a cost below 1.
        """
        if item.key in self._requests or item.cost_tokens < 1:
            raise LocalProtocolError(f"request {item.key.hex()} waits already, or costs nothing")
        refusal = self._refusal(item, now_ms)
        if refusal is not None:
            return refusal
        ahead, ahead_tokens = self._ahead_of(item)
        wait_ms = self._rate.time_for(ahead_tokens)
        if now_ms + wait_ms >= item.deadline_ms:
            return Refused("deadline_exceeded", self._rate.retry_after(ahead_tokens))
        self._insert(item)
        return Queued(ahead + 1, wait_ms)

    def pop(self, now_ms: int) -> Waiting | None:
        """The next request to serve, or None; those past their deadline stay for expire. Spec: [QUEUE-FAIR.1]"""
        while True:
            served = self._serve_one_round(now_ms)
            if served is not None:
                self._delete(served)
                self._rate.served(served.cost_tokens, now_ms, backlogged=bool(self._requests))
                return served
            if not self._save_up(now_ms):
                return None

    def remove(self, key: bytes) -> Waiting | None:
        """Take a request out whosever turn it is; None if it does not wait."""
        item = self._requests.get(key)
        if item is not None:
            self._delete(item)
        return item

    def expire(self, now_ms: int) -> tuple[Waiting, ...]:
        """Take out what is past its deadline, earliest first. Spec: [QUEUE-DEADLINE.1]"""
        expired = tuple(self._requests[key] for key in self._deadlines.due(now_ms))
        for item in expired:
            self._delete(item)
        return expired

    def next_deadline(self) -> int | None:
        """When expire is due next, or None."""
        return self._deadlines.next()

    def _refusal(self, item: Waiting, now_ms: int) -> Refused | None:
        params, turn = self._params, self._turns.get(item.client, _Turn())
        if item.deadline_ms <= now_ms:
            return Refused("deadline_exceeded", 0)
        full = len(self._requests) >= params.queue_requests_max
        heavy = self._tokens + item.cost_tokens > params.queue_tokens_max
        greedy = len(turn.entries) >= params.queue_client_requests_max
        if not (full or heavy or greedy):
            return None
        retry_after_ms = self._rate.retry_after(self._fair_tokens(item.client, turn.tokens))
        return Refused("rate_limited" if greedy else "queue_full", retry_after_ms)

    def _ahead_of(self, item: Waiting) -> tuple[int, int]:
        """Requests and tokens that are served before a new one, if every client gets its turns."""
        turn = self._turns.get(item.client, _Turn())
        earlier = [entry[2].cost_tokens for entry in turn.entries if entry[0] <= item.deadline_ms]
        turns = len(earlier) + 1
        others = sum(min(len(other.entries), turns) for name, other in self._turns.items() if name != item.client)
        return len(earlier) + others, self._fair_tokens(item.client, sum(earlier))

    def _fair_tokens(self, client: bytes, own_tokens: int) -> int:
        """Own tokens, and what the others are served in as many turns."""
        share = own_tokens + QUANTUM_TOKENS
        return own_tokens + sum(min(turn.tokens, share) for name, turn in self._turns.items() if name != client)

    def _insert(self, item: Waiting) -> None:
        turn = self._turns.get(item.client)
        if turn is None:
            turn = self._turns[item.client] = _Turn()
            self._ring.append(item.client)
        self._order += 1
        insort(turn.entries, (item.deadline_ms, self._order, item))
        turn.tokens += item.cost_tokens
        self._tokens += item.cost_tokens
        self._requests[item.key] = item
        self._deadlines.set(item.key, item.deadline_ms)

    def _delete(self, item: Waiting) -> None:
        turn = self._turns[item.client]
        turn.entries = [entry for entry in turn.entries if entry[2].key != item.key]
        turn.tokens -= item.cost_tokens
        self._tokens -= item.cost_tokens
        del self._requests[item.key]
        self._deadlines.clear(item.key)
        if not turn.entries:
            # A client that leaves forgets what it saved up, or it could hoard turns.
            del self._turns[item.client]
            self._ring.remove(item.client)
        if not self._requests:
            self._rate.idle()

    def _serve_one_round(self, now_ms: int) -> Waiting | None:
        """Go once round the clients, from whoever's turn it is; stop at the first who can pay."""
        for _ in range(len(self._ring)):
            turn = self._turns[self._ring[0]]
            item = turn.first_live(now_ms)
            if item is not None and item.cost_tokens <= turn.deficit:
                turn.deficit -= item.cost_tokens
                return item
            self._ring.rotate(-1)
        return None

    def _save_up(self, now_ms: int) -> bool:
        """Grant as many rounds of quanta as bring the nearest client to its turn; False if nobody waits alive."""
        missing: dict[bytes, int] = {}
        for client, turn in self._turns.items():
            item = turn.first_live(now_ms)
            if item is not None:
                missing[client] = item.cost_tokens - turn.deficit
        if not missing:
            return False
        rounds = -(-min(missing.values()) // QUANTUM_TOKENS)
        for client in missing:
            self._turns[client].deficit += rounds * QUANTUM_TOKENS
        return True
