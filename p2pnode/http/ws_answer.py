"""A request of a WebSocket as it is answered: written into its journal, whether or not a socket reads it."""

from collections.abc import Mapping
from typing import Any

import trio

from p2pnode.answer import Answer
from p2pnode.http.chat import Chat
from p2pnode.http.errors import as_api_error
from p2pnode.http.limits import Caller
from p2pnode.http.service import Request, Service
from p2pnode.http.ws_journal import Journal

LAST_LEVELS = frozenset(("finalized", "settled"))


class _Written:
    """Where an answer's chunks go: into its journal."""

    def __init__(self, journal: Journal) -> None:
        self.headers: dict[str, str] = {}
        self.receipts: dict[int, str] = {}
        """Of each answer that has ended, by its choice."""
        self._journal = journal

    async def event(self, *values: Mapping[str, Any]) -> None:
        """Chunks, as they go out over HTTP."""
        for value in values:
            self._add(value)

    async def done(self, *values: Mapping[str, Any]) -> None:
        """The last chunks, and the end of an answer that is whole."""
        for value in values:
            self._add(value)
        self._journal.end("done", cancelled=False)

    def _add(self, value: Mapping[str, Any]) -> None:
        if not value["choices"]:
            self._journal.add("usage", usage=value["usage"])
            return
        told = {"p2pnode": value["p2pnode"]} if "p2pnode" in value else {}
        self._journal.add("token", choices=value["choices"], **told)
        if told:
            self.receipts[value["choices"][0]["index"]] = value["p2pnode"]["receipt"]


async def answer(
    service: Service, caller: Caller, chat: Chat, request: Request, journal: Journal, level_s: float
) -> None:
    """One request, to its end and until its answers are certain. The socket may be gone meanwhile."""
    written = _Written(journal)
    try:
        with journal.order:
            await chat.stream(written)
        if not journal.answered:
            journal.end("done", cancelled=True)
            return
    except Exception as error:
        failed = as_api_error(error)
        again = {} if failed.retry_after_s is None else {"retry_after_s": failed.retry_after_s}
        journal.end("error", **failed.body(), **again)
        return
    finally:
        caller.leave()
    with trio.move_on_after(level_s):
        async with trio.open_nursery() as nursery:
            for index, receipt in written.receipts.items():
                kept = service.kept(receipt, request.owner)
                if kept is not None:
                    nursery.start_soon(_follow, journal, index, receipt, kept.answer)


async def _follow(journal: Journal, index: int, receipt: str, answer: Answer) -> None:
    """Tell of each level that an answer comes to."""
    told: set[str] = set()
    while True:
        for reached in answer.levels:
            if reached.level not in told:
                told.add(reached.level)
                about = {"level": reached.level, "after_ms": reached.after_ms, "detail": reached.detail}
                journal.add("level", index=index, receipt=receipt, **about)
        if answer.against:
            journal.add("level", index=index, receipt=receipt, level=answer.level, against=answer.against)
        if told & LAST_LEVELS or answer.against or not await answer.changed():
            return
