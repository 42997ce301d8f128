"""How much each caller of the HTTP surface may ask: requests and tokens a minute, requests at once, and a total.

A caller is an API key, or where none are needed the address that a request comes from. The guard counts requests; a
route takes its tokens with :meth:`Caller.taking` before it orders, and says afterwards what was used:

    with caller_of(request.scope).taking(tokens=max_tokens, wei=max_tokens * price) as taken:
        ...
        taken.used(prompt_tokens=17, completion_tokens=64, wei=64 * price)
"""

import ipaddress
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from p2pnode.http.errors import ApiError
from p2pnode.http.keys import ApiKey, write_private

log = logging.getLogger(__name__)

CALLERS_MAX = 4_096
"""Callers that are remembered; the one that was silent for longest is forgotten, its total is not."""
USAGE_FILE = "api-usage.json"
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class LimitTerms:
    """What a caller may, where its key says nothing else. 0: no limit."""

    requests_minute: int = 600
    tokens_minute: int = 0
    at_once: int = 64
    at_once_all: int = 256


@dataclass(slots=True)
class Usage:
    """What a key has used since it was made."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wei: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class Taken:
    """What a request took beforehand; what of it was not used is given back."""

    tokens: int
    wei: int
    usage: Usage = field(default_factory=Usage)

    def used(self, *, prompt_tokens: int, completion_tokens: int, wei: int = 0) -> None:
        """Say what an order came to; of several in one request, each."""
        self.usage.prompt_tokens += prompt_tokens
        self.usage.completion_tokens += completion_tokens
        self.usage.wei += wei


class _Bucket:
    """So many a minute, all of them at once if need be."""

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self._level = float(size)
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Take some; 0, or how many seconds until it may be tried again. One that is larger than all waits for all."""
        if not self.size:
            return 0.0
        self._level = min(self.size, self._level + (now - self._at) * self.size / MINUTE_S)
        self._at = now
        wanted = min(count, self.size)
        if self._level < wanted:
            return (wanted - self._level) * MINUTE_S / self.size
        self._level -= count
        return 0.0

    def give_back(self, count: int) -> None:
        """What was taken and not used; less than nothing is taken after all."""
        self._level = min(self.size, self._level + count)


class Caller:
    """One who asks; ``key`` is None where none is needed."""

    def __init__(self, name: str, key: ApiKey | None, terms: LimitTerms, clock: Callable[[], float]) -> None:
        self.name = name
        self.key = key
        self.usage = Usage()
        self.running = 0
        """Requests that run now."""
        self._clock = clock
        self._taken = Taken(0, 0)
        self.limit(key, terms)

    def limit(self, key: ApiKey | None, terms: LimitTerms) -> None:
        """Go by these limits from now on: the key has others than before."""
        own, now = key or ApiKey("", "", 0), self._clock()
        self.key = key
        self._at_once = own.at_once or terms.at_once
        self._requests = _Bucket(own.requests_minute or terms.requests_minute, now)
        self._tokens = _Bucket(own.tokens_minute or terms.tokens_minute, now)

    def enter(self) -> None:
        """A request begins. Raises ApiError."""
        if self.running >= self._at_once:
            raise _too_many(f"{self.running} requests of this caller run already, at most {self._at_once} may", 1.0)
        wait_s = self._requests.take(1, self._clock())
        if wait_s:
            raise _too_many(f"more than {self._requests.size} requests a minute", wait_s)
        self.running += 1
        self.usage.requests += 1

    def leave(self) -> None:
        """A request is over."""
        self.running -= 1

    @contextmanager
    def taking(self, *, tokens: int, wei: int = 0) -> Iterator[Taken]:
        """Take what a request may use at most. Raises ApiError."""
        self._check_totals(tokens, wei)
        wait_s = self._tokens.take(tokens, self._clock())
        if wait_s:
            raise _too_many(f"more than {self._tokens.size} tokens a minute", wait_s)
        taken = Taken(tokens, wei)
        self._taken.tokens += tokens
        self._taken.wei += wei
        try:
            yield taken
        finally:
            self._taken.tokens -= tokens
            self._taken.wei -= wei
            self._tokens.give_back(tokens - taken.usage.tokens)
            self.usage.prompt_tokens += taken.usage.prompt_tokens
            self.usage.completion_tokens += taken.usage.completion_tokens
            self.usage.wei += taken.usage.wei

    def _check_totals(self, tokens: int, wei: int) -> None:
        if self.key is None:
            return
        for limit, used, wanted, what in (
            (self.key.tokens_total, self.usage.tokens + self._taken.tokens, tokens, "tokens"),
            (self.key.wei_total, self.usage.wei + self._taken.wei, wei, "wei"),
        ):
            if limit and used + wanted > limit:
                message = f"this key may use {limit} {what} in all, has used {used}, and asks for up to {wanted}"
                raise ApiError(429, message, type="insufficient_quota", code="insufficient_quota")


def _too_many(what: str, wait_s: float) -> ApiError:
    again_s = max(1, math.ceil(wait_s))
    message = f"{what}; try again in {again_s} s"
    return ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", retry_after_s=again_s)


class Limits:
    """All callers. ``folder``: where the totals of keys are kept; None: nowhere."""

    def __init__(
        self, terms: LimitTerms, folder: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.terms = terms
        self.running = 0
        """Requests of all that run now."""
        # All programs of this machine have one address: counted as one caller they would keep each other out.
        self._here = replace(terms, requests_minute=0)
        self._clock = clock
        self._path = None if folder is None else folder / USAGE_FILE
        self._callers: OrderedDict[str, Caller] = OrderedDict()
        self._totals = _read_usage(self._path)
        self._written: Mapping[str, Any] = {}

    def __len__(self) -> int:
        """Callers that are remembered."""
        return len(self._callers)

    def caller(self, key: ApiKey | None, address: str) -> Caller:
        """Who asks, by the key or else the address. Without a key, this machine's own requests are not counted."""
        name = _network(address) if key is None else key.id
        caller = self._callers.get(name)
        if caller is None:
            terms = self._here if key is None and _is_here(address) else self.terms
            caller = self._callers[name] = Caller(name, key, terms, self._clock)
            if key is not None:
                caller.usage = self._totals.setdefault(key.id, Usage())
        elif caller.key != key:
            caller.limit(key, self.terms)
        self._callers.move_to_end(name)
        if len(self._callers) > CALLERS_MAX:
            idle = next((each for each, held in self._callers.items() if not held.running and each != name), None)
            if idle is not None:
                del self._callers[idle]
        return caller

    @contextmanager
    def running_one(self, caller: Caller) -> Iterator[None]:
        """A request of a caller, from its beginning to its end. Raises ApiError."""
        if self.running >= self.terms.at_once_all:
            message = f"{self.running} requests run here already; try again in a second"
            raise ApiError(503, message, type="server_error", code="overloaded", retry_after_s=1)
        caller.enter()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            caller.leave()

    def save(self) -> None:
        """Write the totals down, if they changed. An error is logged: nobody is refused for it."""
        totals = {key: asdict(usage) for key, usage in self._totals.items()}
        if self._path is None or totals == self._written:
            return
        try:
            write_private(self._path, json.dumps(totals))
            self._written = totals
        except OSError as error:
            log.warning("what API keys have used cannot be written to %s: %s", self._path, error)


def read_usage(folder: Path) -> Mapping[str, Usage]:
    """What each key has used, by its id, as it was last written down."""
    return _read_usage(folder / USAGE_FILE)


def _read_usage(path: Path | None) -> dict[str, Usage]:
    if path is None or not path.exists():
        return {}
    try:
        return {str(key): Usage(**{name: int(count) for name, count in usage.items()}) for key, usage in _loaded(path)}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("what API keys have used cannot be read from %s, and is counted from 0: %s", path, error)
        return {}


def _loaded(path: Path) -> Any:
    return json.loads(path.read_bytes()).items()


def _network(address: str) -> str:
    """One caller of an address; of IPv6 a whole network, as each host has one."""
    if ":" not in address:
        return f"address {address}"
    return f"address {':'.join(address.split(':')[:4])}"


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


NOBODY = Caller("", None, LimitTerms(0, 0, 1 << 30), time.monotonic)
"""Where nothing is guarded, as in a program of its own."""


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Who sent the request of an ASGI scope."""
    caller = scope.get("state", {}).get("caller", NOBODY)
    assert isinstance(caller, Caller)
    return caller
