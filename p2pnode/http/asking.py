"""Orders on behalf of a request: each in a session of the pool, tried again where nothing of it was shown yet."""

import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from p2pnode.answer import Answer, RequestFailed, TokenLogprob
from p2pnode.http.limits import Taken
from p2pnode.http.pool import Held, Want
from p2pnode.http.service import Kept, Request, Service
from p2pnode.transport.unwrap import unwrapped
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage

TRIES = 3
AGAIN = frozenset(("session_closed", "session_expired", "router_lost", "unreserved", "miner_lost", "shutting_down"))
"""Another session may do better."""
HARMLESS = frozenset(("bad_request", "prompt_too_long", "schema_refused", "tools_refused", "cancelled"))
"""The session is as good as before."""
LEAST_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Wish:
    """One answer that a request asks for."""

    model: str
    """The digest, in hexadecimal digits."""
    model_name: str
    messages: tuple[PromptMessage, ...]
    sampling: SamplingParams
    max_tokens: int
    price_wei: int = 0
    """Of a token, as far as is known."""
    seed: bytes | None = None
    tools: str = ""
    label: str = ""
    """The session that the request would like to have, by id or by a name of its own."""
    yields: bool = False
    """Whether max_tokens is our own choice: it is lowered where the prompt leaves no room."""


@dataclass(frozen=True, slots=True)
class Said:
    """Verified text of one answer."""

    choice: int
    text: str
    """Empty where its bytes are half a character."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of its tokens, if they were asked for."""


@dataclass(frozen=True, slots=True)
class Over:
    """The signed end of one answer."""

    choice: int
    reason: str
    """stop, length or cancelled."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    answer: Answer
    session: bytes
    task: int
    miner: bytes
    router: bytes
    receipt: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that has no signed end."""

    choice: int
    error: RequestFailed


Event = Said | Over | Failed


@asynccontextmanager
async def asking(
    service: Service, request: Request, wishes: Sequence[Wish]
) -> AsyncIterator[trio.MemoryReceiveChannel[Event]]:
    """The answers to some wishes as they come: of each some Said, and then exactly one Over or Failed. The channel ends
    after the last. Leaving the block cancels what still runs, down to the miners' engines. Raises ApiError where the
    caller may not ask for so much."""
    most = [wish.max_tokens for wish in wishes]
    wei = sum(wish.max_tokens * wish.price_wei for wish in wishes)
    with request.caller.taking(tokens=sum(most), wei=wei) as taken, watched(service, request):
        send, receive = trio.open_memory_channel[Event](0)
        with unwrapped():
            async with trio.open_nursery() as nursery:
                async with send:
                    for choice, wish in enumerate(wishes):
                        one = _One(service, request, taken, choice, wish, send.clone())
                        nursery.start_soon(one.run)
                yield receive
                nursery.cancel_scope.cancel()


@contextmanager
def watched(service: Service, request: Request) -> Iterator[None]:
    """Those who watch are told of the request's beginning and end."""
    for watcher in service.watchers:
        watcher.began(request)
    try:
        yield
    finally:
        request.ended_ns = time.monotonic_ns()
        for watcher in service.watchers:
            watcher.ended(request)


class _One:
    """One wish."""

    def __init__(
        self,
        service: Service,
        request: Request,
        taken: Taken,
        choice: int,
        wish: Wish,
        send: trio.MemorySendChannel[Event],
    ) -> None:
        self._service = service
        self._request = request
        self._taken = taken
        self._choice = choice
        self._wish = wish
        self._send = send
        self._until = trio.current_time() + service.terms.timeout_ms / 1_000
        self._max_tokens = wish.max_tokens
        self._shown = False

    async def run(self) -> None:
        """Until it is answered, or will not be."""
        async with self._send:
            tries = 0
            while True:
                try:
                    await self._try()
                    return
                except RequestFailed as error:
                    tries += 1
                    if not self._again(error, tries):
                        self._request.code = error.code
                        await self._send.send(Failed(self._choice, error))
                        return

    def _again(self, error: RequestFailed, tries: int) -> bool:
        if self._shown:
            return False
        if error.code == "prompt_too_long" and self._wish.yields and self._max_tokens > LEAST_TOKENS:
            self._max_tokens = max(LEAST_TOKENS, self._max_tokens // 4)
            return True
        return error.code in AGAIN and tries < TRIES

    def _left_ms(self) -> int:
        return max(1, int((self._until - trio.current_time()) * 1_000))

    async def _try(self) -> None:
        wish, beginnings = self._wish, _beginnings(self._wish.messages)
        open_ms = min(self._left_ms(), self._service.terms.open_ms)
        want = Want(wish.model, self._max_tokens, open_ms, self._request.owner, wish.label, beginnings)
        async with self._service.pool.take(want) as held:
            self._request.attempts += 1
            self._request.sessions.append(held.session.id)
            self._request.ordered_ns = self._request.ordered_ns or time.monotonic_ns()
            order = held.session.ask(
                wish.messages,
                tools=wish.tools,
                sampling=wish.sampling,
                seed=wish.seed,
                max_tokens=self._max_tokens,
                timeout_ms=self._left_ms(),
            )
            try:
                async with order as answer:
                    await self._read(held, answer)
            except RequestFailed as error:
                held.over = held.over or error.code not in HARMLESS
                raise
            said = PromptMessage("assistant", answer.text)
            held.beginnings = frozenset(_beginnings((*wish.messages, said)))

    async def _read(self, held: Held, answer: Answer) -> None:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                if not self._shown:
                    self._first(answer)
                await self._send.send(Said(self._choice, piece.text, piece.logprobs))
        await self._send.send(self._over(held, answer))

    def _first(self, answer: Answer) -> None:
        request, head = self._request, answer.heads[-1]
        self._shown = True
        request.tasks.append((head.session, head.task, head.miner))
        if not request.first_ns:
            request.first_ns = time.monotonic_ns()
            for watcher in self._service.watchers:
                watcher.first(request)

    def _over(self, held: Held, answer: Answer) -> Over:
        finish, head, request = answer.finish, answer.heads[-1], self._request
        assert finish is not None
        request.prompt_tokens += finish.prompt_tokens
        request.completion_tokens += finish.completion_tokens
        request.cached_tokens += finish.cached_tokens
        used = finish.completion_tokens
        self._taken.used(prompt_tokens=finish.prompt_tokens, completion_tokens=used, wei=used * self._wish.price_wei)
        name = self._wish.model_name
        created_s = int(self._service.now_s())
        kept = Kept(answer, request.owner, head.session, head.task, name, head.miner, created_s)
        return Over(
            choice=self._choice,
            reason=finish.reason,
            prompt_tokens=finish.prompt_tokens,
            completion_tokens=finish.completion_tokens,
            cached_tokens=finish.cached_tokens,
            answer=answer,
            session=head.session,
            task=head.task,
            miner=head.miner,
            router=held.session.router,
            receipt=self._service.keep(kept),
        )


def _beginnings(messages: Sequence[PromptMessage]) -> list[bytes]:
    """A digest of the first turn, of the first two, and so on."""
    running, digests = hashlib.sha256(), []
    for turn in messages:
        for part in (turn.role, turn.content, turn.calls, turn.call_id):
            raw = part.encode("utf-8", "replace")
            running.update(len(raw).to_bytes(4, "big") + raw)
        digests.append(running.digest())
    return digests
