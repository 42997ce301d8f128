"""Several endpoints of one chain as one: which of them is asked, and what is believed.

Whatever is only worth sending or showing is asked of one endpoint, the first that answers. What decides something is
asked of all that answer, and believed if more than half say the same: one endpoint that lies among three is outvoted,
and of two that differ neither is believed. An endpoint of another chain, one that stands still while another moves,
and one that was outvoted are left out for a while; none is left out for ever.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from chain.api import EvmBlock
from chain.endpoint import CALL_TIMEOUT_S, Call, Endpoint, Refused, open_endpoint
from chain.errors import ChainError, ChainUnreachable, RpcNonsense, WrongChain
from chain.replies import Block, octets, quantity
from protocol.core.errors import ParameterError
from protocol.core.ids import Digest

URLS_MAX = 8
CHECK_EVERY_S = 15.0
"""Chain id and head of an endpoint are looked at this often, if it is used at all."""
STALE_S = 120
"""An endpoint whose head is older than another's by more than this stands still."""
CHECK_TIMEOUT_S = 3.0
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 10.0
OUTVOTED_S = 300.0

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint does, for a status."""

    name: str
    usable: bool
    head: int
    head_time_s: int
    trouble: str


class _Known:
    """What is known of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.checked_s: float | None = None
        self.head = 0
        self.head_time_s = 0
        self.failures = 0
        self.out_until_s = 0.0
        self.trouble: ChainError | None = None


class Rpc:
    """See the module. Used from any thread."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        chain_id: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        if not 1 <= len(endpoints) <= URLS_MAX:
            raise ParameterError(f"a chain has 1 to {URLS_MAX} URLs")
        self.chain_id = chain_id
        self._known = [_Known(endpoint) for endpoint in endpoints]
        self._clock = clock
        self._timeout_s = timeout_s
        self._lock = threading.Lock()

    def close(self) -> None:
        """Keep no connection open."""
        for known in self._known:
            known.endpoint.close()

    def call(self, method: str, params: Sequence[Any], kind: Any) -> Any:
        """What the first endpoint that can says. Raises Refused where a contract does, else ChainUnreachable or, where
        all refuse, what the last one said."""
        return self.ask(lambda endpoint: endpoint.call(method, params, kind, self._timeout_s))

    def number(self, method: str, params: Sequence[Any]) -> int:
        """Like :meth:`call`, for a number."""
        return int(self.ask(lambda endpoint: quantity(endpoint.call(method, params, str, self._timeout_s))))

    def ask(self, question: Callable[[Endpoint], Any]) -> Any:
        """What the first endpoint that can answers a question of several calls."""
        refused: Refused | None = None
        for known in self._usable():
            try:
                answer = question(known.endpoint)
            except Refused as error:
                if error.reverts:
                    raise
                refused = error  # it has not heard of a block yet, or has no such method: another one may
            except ChainError as error:
                self._failed(known, error)
            else:
                known.failures = 0
                return answer
        raise refused or self._nobody()

    def found(self, method: str, params: Sequence[Any], kind: Any) -> Any:
        """The first answer that is not None; None if nobody has another."""
        refused: Refused | None = None
        silent = 0
        for known in self._usable():
            try:
                answer = known.endpoint.call(method, params, kind | None, self._timeout_s)
            except Refused as error:
                refused = error
            except ChainError as error:
                self._failed(known, error)
            else:
                known.failures = 0
                if answer is not None:
                    return answer
                silent += 1
        if not silent:
            raise refused or self._nobody()
        return None

    def agreed(self, question: Callable[[Endpoint], T], what: str) -> T:
        """What more than half of the endpoints that answer say. Raises RpcNonsense if no answer is that of so many."""
        answers: list[tuple[_Known, T]] = []
        refused: Refused | None = None
        for known in self._usable():
            try:
                answers.append((known, question(known.endpoint)))
                known.failures = 0
            except Refused as error:
                refused = error
            except ChainError as error:
                self._failed(known, error)
        if not answers:
            raise refused or self._nobody()
        (answer, count), *_ = Counter(said for _, said in answers).most_common(1)
        if count * 2 <= len(answers):
            names = ", ".join(known.endpoint.name for known, _ in answers)
            raise RpcNonsense(f"the endpoints {names} contradict each other on {what}, and none is outvoted")
        for known, said in answers:
            if said != answer:
                self._out(known, OUTVOTED_S, RpcNonsense(f"{known.endpoint.name} contradicts the others on {what}"))
        return answer

    def newest(self, number_of: Callable[[Endpoint], int]) -> int:
        """The highest number that more than half of the endpoints that answer reach."""
        numbers: list[int] = []
        refused: Refused | None = None
        for known in self._usable():
            try:
                numbers.append(number_of(known.endpoint))
            except Refused as error:
                refused = error
            except ChainError as error:
                self._failed(known, error)
        if not numbers:
            raise refused or self._nobody()
        return sorted(numbers, reverse=True)[len(numbers) // 2]

    def send(self, raw: bytes) -> list[Refused]:
        """Hand a signed transaction to every usable endpoint; what those said that refuse it. Raises ChainUnreachable
        if none took notice of it."""
        refusals: list[Refused] = []
        reached = 0
        for known in self._usable():
            try:
                known.endpoint.call("eth_sendRawTransaction", [f"0x{raw.hex()}"], str, self._timeout_s)
                reached += 1
            except Refused as error:
                refusals.append(error)
                reached += 1
            except ChainError as error:
                self._failed(known, error)
        if not reached:
            raise self._nobody()
        return refusals

    def health(self) -> list[Health]:
        """How each endpoint does, looked at now if that was long ago."""
        usable = {id(known) for known in self._checked()}
        return [
            Health(known.endpoint.name, id(known) in usable, known.head, known.head_time_s, str(known.trouble or ""))
            for known in self._known
        ]

    # Which endpoints are asked

    def _usable(self) -> list[_Known]:
        usable = self._checked()
        if not usable:
            raise self._nobody()
        return usable

    def _checked(self) -> list[_Known]:
        with self._lock:
            now = self._clock()
            for known in self._known:
                if now >= known.out_until_s and (known.checked_s is None or now - known.checked_s >= CHECK_EVERY_S):
                    self._check(known)
            alive = [known for known in self._known if known.checked_s is not None and now >= known.out_until_s]
        newest = min(max((known.head_time_s for known in alive), default=0), int(time.time()))
        fresh = []
        for known in alive:
            if known.head_time_s + STALE_S < newest:
                known.trouble = ChainUnreachable(f"{known.endpoint.name} stands still at block {known.head}")
            else:
                fresh.append(known)
        return fresh

    def _check(self, known: _Known) -> None:
        """Look at chain id and head. Others wait meanwhile, so it is given less time than a call."""
        timeout_s = min(CHECK_TIMEOUT_S, self._timeout_s)
        try:
            chain_id = quantity(known.endpoint.call("eth_chainId", [], str, timeout_s))
            if chain_id != self.chain_id:
                name = known.endpoint.name
                raise WrongChain(f"{name} is of the chain {chain_id}, the genesis names {self.chain_id}")
            head = known.endpoint.call("eth_getBlockByNumber", ["latest", False], Block, timeout_s)
            known.head, known.head_time_s = quantity(head.number), quantity(head.timestamp)
        except ChainError as error:
            self._failed(known, error)
            return
        known.checked_s, known.trouble, known.failures = self._clock(), None, 0

    def _failed(self, known: _Known, error: ChainError) -> None:
        """Leave it out, longer each time; when it is asked again, its chain id is looked at anew."""
        known.failures += 1
        self._out(known, min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(known.failures - 1, 8)), error)

    def _out(self, known: _Known, for_s: float, error: ChainError) -> None:
        name = known.endpoint.name
        known.out_until_s = self._clock() + for_s
        known.checked_s = None
        known.trouble = error if name in str(error) else RpcNonsense(f"{name} {error}")

    def _nobody(self) -> ChainError:
        troubles = [known.trouble for known in self._known if known.trouble is not None]
        if troubles and all(isinstance(trouble, WrongChain) for trouble in troubles):
            return troubles[0]
        return ChainUnreachable("; ".join(map(str, troubles)) or "no endpoint of the chain can be asked")


def open_rpc(urls: Sequence[str], chain_id: int, *, timeout_s: float = CALL_TIMEOUT_S) -> Rpc:
    """The endpoints at some URLs. Raises ParameterError for one that is none; asks nobody yet."""
    return Rpc([open_endpoint(url) for url in urls], chain_id, timeout_s=timeout_s)


def block_of(reply: Block) -> EvmBlock:
    """A block as the rest sees it. Raises RpcNonsense."""
    return EvmBlock(quantity(reply.number), Digest(octets(reply.hash, 32)), quantity(reply.timestamp))


def block_call(number: int | str) -> Call:
    """Asks for a block by its number or tag."""
    return "eth_getBlockByNumber", [hex(number) if isinstance(number, int) else number, False]
