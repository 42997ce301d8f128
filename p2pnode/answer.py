"""One answer as it streams, and how requests fail."""

import codecs
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import trio

from protocol.core.errors import P2PNodeError
from protocol.messages.tasks import SegmentHead
from protocol.roles.client import Item, TaskHead, TaskOver, TaskText


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
    "miner_lost": "ask again: another miner will take it",
    "router_lost": "check that the router runs, or name another one",
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


class Answer:
    """One answer, streamed: an async iterator of text. Leaving its block early cancels it."""

    def __init__(self, cancel: Callable[[], None], items: trio.MemoryReceiveChannel[Item]) -> None:
        self.heads: list[SegmentHead] = []
        """One for each miner that worked on the answer; more than one after a failover."""
        self.finish: Finish | None = None
        self.token_ids: list[int] = []
        self.text = ""
        self._cancel = cancel
        self._items = items
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __aiter__(self) -> AsyncIterator[str]:
        return self._texts()

    async def _texts(self) -> AsyncIterator[str]:
        async for item in self._items:
            match item:
                case TaskHead():
                    self.heads.append(item.head)
                case TaskText():
                    self.token_ids.extend(item.ids)
                    text = self._decoder.decode(item.text)
                    self.text += text
                    if text:
                        yield text
                case TaskOver():
                    rest = self._decoder.decode(b"", final=True)
                    self.text += rest
                    if rest:
                        yield rest
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
