"""One answer as it streams and as it becomes certain, and how requests fail."""

import codecs
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import trio

from protocol.core.errors import P2PNodeError
from protocol.light.levels import Level
from protocol.messages.evidence import ConflictingValues
from protocol.messages.logprobs import Likely, TokenLogProbs
from protocol.messages.receipts import Receipt
from protocol.messages.tasks import SegmentHead
from protocol.roles.client import Item, TaskHead, TaskLevel, TaskOver, TaskReceipt, TaskText, TaskTranscript


class RequestFailed(P2PNodeError):
    """A session or an answer ended without success; ``code`` is one of the lifecycle's terminal codes."""

    def __init__(self, code: str, detail: str, *, retry_after_ms: int = 0, text: str = "") -> None:
        super().__init__(detail, code=code, hint=_HINTS.get(code))
        self.retry_after_ms = retry_after_ms
        self.text = text
        """What had been answered, and verified, before."""


_HINTS = {
    "model_not_found": "`p2pnode chat --router ADDRESS --models` lists what the router has miners for",
    "no_capacity": "try again in a moment, or start another miner: p2pnode run --role miner",
    "queue_full": "try again in a moment",
    "rate_limited": "close other sessions first",
    "prompt_too_long": "shorten the prompt, start a new conversation, or ask for fewer tokens",
    "schema_refused": "give a simpler JSON schema; the message says what is wrong with this one",
    "tools_refused": "ask without tools, or a model whose chat template has a place for them",
    "miner_lost": "ask again: another miner will take it",
    "router_lost": "check that the router runs, or name another one",
    "unreserved": "give the session a cap and the client a balance, or ask for less at a time",
    "transcript_broken": "do not trust this answer; try another router",
    "deadline_exceeded": "allow more time with --timeout, or ask for fewer tokens",
}


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended."""

    reason: str
    """stop, length or cancelled."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    frames: int


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token, and how likely the miner says it was."""

    id: int
    text: bytes
    """The token's own bytes, the first 64 of them."""
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer whose log probabilities were ordered. The miner signed them; nothing proves them."""

    id: int
    text: bytes
    logprob: float
    """Natural logarithm of its probability, at temperature 1 and before any choice among tokens."""
    top: tuple[LikelyToken, ...] = ()
    """The likeliest in its place, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one frame brought."""

    text: str
    """Empty where its bytes are half a character, which comes with the next piece."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of ``ids``, if they were ordered."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A level that an answer has come to."""

    level: str
    """committed, certified, finalized or settled."""
    after_ms: int
    """Since the signed end."""
    detail: str
    """How many oracles certified it, as ``4 of 4``; where it is final, or what settled it, as ``epoch/height``."""


class Answer:
    """One answer, streamed: an async iterator of text. Leaving its block early cancels it; its level still rises after
    that, for as long as the session stands.
    """

    def __init__(self, cancel: Callable[[], None], items: trio.MemoryReceiveChannel[Item]) -> None:
        self.heads: list[SegmentHead] = []
        """One for each miner that worked on the answer; more than one after a failover."""
        self.finish: Finish | None = None
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        """One for each of ``token_ids``, if they were ordered."""
        self.text = ""
        self.transcript: TaskTranscript | None = None
        """All that its result root is computed from; once it ended, and only if it was asked for."""
        self.news: TaskLevel | None = None
        """The latest of its levels, with all that is known; none while it is only streamed."""
        self._receipt: Receipt | None = None
        self._reached: dict[Level, int] = {}
        self._settled = False
        self._risen = trio.Event()
        self._cancel = cancel
        self._items = items
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __aiter__(self) -> AsyncGenerator[str, None]:
        return self._texts()

    async def _texts(self) -> AsyncGenerator[str, None]:
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer frame by frame: text with the tokens that it is of. Raises RequestFailed."""
        async for item in self._items:
            match item:
                case TaskHead():
                    self.heads.append(item.head)
                case TaskText():
                    self.token_ids.extend(item.ids)
                    text = self._decoder.decode(item.text)
                    self.text += text
                    logprobs = tuple(map(_logprob, item.logprobs))
                    self.logprobs += logprobs
                    yield Piece(text, item.ids, logprobs)
                case TaskTranscript():
                    self.transcript = item
                case TaskOver():
                    rest = self._decoder.decode(b"", final=True)
                    self.text += rest
                    if rest:
                        yield Piece(rest)
                    self._finish(item)
                    return
        raise RequestFailed("router_lost", "the router said more than an answer can hold", text=self.text)

    def _finish(self, over: TaskOver) -> None:
        if over.end is None:
            raise RequestFailed(over.code, over.detail, retry_after_ms=over.retry_after_ms, text=self.text)
        end = over.end
        self.finish = Finish(
            end.reason.name.lower(), end.prompt_tokens, end.completion_tokens, end.cached_tokens, over.frames
        )

    def cancel(self) -> None:
        """Ask the miner to stop; the iteration goes on to the signed end."""
        self._cancel()

    async def read(self) -> str:
        """The whole answer. Raises RequestFailed."""
        async for _ in self:
            pass
        return self.text

    @property
    def level(self) -> str:
        """How certain it is: streamed, committed, certified, finalized or settled. It never falls."""
        return _named(Level.STREAMED if self.news is None else self.news.level)

    @property
    def levels(self) -> list[Reached]:
        """The levels whose proof is here, in order; the proof of one may come before that of one below."""
        reached = sorted(self._reached.items())
        return [Reached(_named(level), after_ms, self._detail(level)) for level, after_ms in reached]

    @property
    def against(self) -> str:
        """Why it will not rise, in a word or two, such as ``late``; empty as long as it may."""
        return "" if self.news is None else self.news.against

    @property
    def unfinalized(self) -> bool:
        """Whether it should have been final by now and no router has shown that it is; the client goes on asking."""
        return self.news is not None and self.news.overdue

    @property
    def evidence(self) -> tuple[ConflictingValues, ...]:
        """What convicts each oracle that signed two values for it; `p2pnode.evidence_papers` writes a file of it."""
        return () if self.news is None else self.news.convicting

    @property
    def paid_wei(self) -> int | None:
        """What its lane was paid when it became final; None before."""
        return None if self.news is None or self.news.final is None else self.news.final.paid_wei

    def _detail(self, level: Level) -> str:
        news = self.news
        if news is None or level is Level.COMMITTED:
            return ""
        if level is Level.CERTIFIED:
            return f"{news.agreeing} of {news.members}"
        at = news.settled if level is Level.SETTLED else news.final
        return "" if at is None else f"{at.epoch}/{at.height}"

    def receipt(self) -> Receipt:
        """All that is needed to verify it, on the level that it has by now; `p2pnode verify` reads the file that
        `p2pnode.receipts.save_receipt` makes of it. Raises RequestFailed before its signed end."""
        if self._receipt is None:
            detail = "an answer has a receipt once its signed end is here, and all segments came by way of this client"
            raise RequestFailed("no_receipt", detail, text=self.text)
        return self._receipt

    def rise(self, news: TaskLevel | TaskReceipt) -> None:
        """Take in what is known of it now."""
        if isinstance(news, TaskReceipt):
            self._receipt = news.receipt
            return
        self.news = news
        for level in news.proved:
            self._reached.setdefault(level, news.after_ms)
        self._wake()

    def settle(self) -> None:
        """Nothing more will be heard of it: its session is closed."""
        self._settled = True
        self._wake()

    def _wake(self) -> None:
        self._risen.set()
        self._risen = trio.Event()

    async def changed(self) -> bool:
        """Wait for the next that is heard of it; False if nothing more will be."""
        if self._settled:
            return False
        await self._risen.wait()
        return True

    async def wait_for(self, level: str, *, timeout_ms: int | None = None) -> bool:
        """Wait until it is as certain as ``level``, or can not become so; whether it is. Raises ValueError for a level
        that does not exist."""
        wanted = Level[level.upper()] if level.upper() in Level.__members__ else None
        if wanted is None:
            raise ValueError(f"a level is one of {', '.join(map(_named, Level))}")
        with trio.move_on_after(float("inf") if timeout_ms is None else timeout_ms / 1_000):
            while Level[self.level.upper()] < wanted and not self.against and await self.changed():
                pass
        return Level[self.level.upper()] >= wanted


def _logprob(token: TokenLogProbs) -> TokenLogprob:
    drawn, top = _likely(token.drawn), tuple(map(_likely, token.top))
    return TokenLogprob(drawn.id, drawn.text, drawn.logprob, top)


def _likely(token: Likely) -> LikelyToken:
    return LikelyToken(token.id, token.text, 0 - token.minus_log_bp / 10_000)


def _named(level: Level) -> str:
    return level.name.lower()
