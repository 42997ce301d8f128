"""The process that runs the model: ``python -m p2pnode.engine.worker --channel FD``, started by the supervisor.

One loop: take in what the node sent, do one step of batching, send what came of it. With nothing to do it sleeps in
``poll``. It never waits for a slow reader: what the socket does not take is kept, and while much is kept no more
tokens are made. It leaves when the node's end of the channel closes, in the middle of a decode if need be.
"""

import argparse
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import assert_never

import p2pnode.engine.wire as wire
from p2pnode.engine.api import Embeddings, EngineConfig, EngineError, EngineStats
from p2pnode.engine.batcher import Batcher, Drawn, Ended, Outcome, Refused, Scored
from p2pnode.engine.channel import Channel, NodeGoneError
from p2pnode.engine.chat import ChatRenderer
from p2pnode.engine.embedding import Embedder
from p2pnode.engine.grammars import Grammars
from p2pnode.engine.llama import Llama
from p2pnode.engine.slots import IDLE_FEED_MICROBATCHES


class Worker:
    """One model served over one channel."""

    def __init__(self, channel: Channel, config: EngineConfig) -> None:
        self._channel = channel
        self._model = Llama(
            config.model_path,
            slots=config.slots,
            context_slot_tokens=config.context_slot_tokens,
            threads=config.threads or max(1, (os.cpu_count() or 1) // 2),
            gpu_layers=config.gpu_layers,
            microbatch_tokens=config.microbatch_tokens,
            debug=config.debug,
        )
        self._chat = ChatRenderer(self._model)
        self._embedder = Embedder(self._model, queue_max=config.queue_max)
        self._grammars = Grammars(config.model_path, self._model.vocab_size)
        self._batcher = Batcher(self._model, queue_max=config.queue_max, clock=time.monotonic, grammars=self._grammars)
        channel.send(wire.Loaded(self._model.info(takes_tools=self._chat.takes_tools)))

    def run(self) -> None:
        """Serve until the node is gone."""
        while True:
            wait = self._idle or self._channel.congested
            for message in self._channel.receive(wait=wait, also=self._grammars.waiting):
                self._take(message)
            for number, refused in self._grammars.opened():
                self._report(self._batcher.grammar_opened(number, refused))
            if self._channel.congested:
                continue
            for number, embeddings in self._embed(1 if not self._batcher.idle else IDLE_FEED_MICROBATCHES):
                self._channel.send(wire.Answer(number, wire.encode_value(embeddings)))
            if not self._batcher.idle:
                self._report(self._batcher.step())

    @property
    def _idle(self) -> bool:
        return self._batcher.idle and self._embedder.idle

    def _embed(self, microbatches: int) -> Iterator[tuple[int, Embeddings]]:
        for _ in range(microbatches):
            yield from self._embedder.step()

    def _take(self, message: wire.ToWorker) -> None:
        match message:
            case wire.Cancel(number):
                self._batcher.cancel(number)
                self._embedder.cancel(number)
            case wire.Load():
                raise EngineError("a worker loads one model, once")
            case _:
                try:
                    self._answer(message)
                except EngineError as error:
                    self._channel.send(wire.failure(message.number, error))

    def _answer(self, message: wire.Generate | wire.Query) -> None:
        match message:
            case wire.Generate(number, request):
                return self._report(self._batcher.generate(number, request))
            case wire.Score(number, request, claimed):
                return self._report(self._batcher.score(number, request, claimed))
            case wire.Embed(number, texts):
                return self._embedder.submit(number, texts)
            case wire.Render(_, messages, tools):
                value: wire.QueryValue = self._chat.render(messages, tools)
            case wire.Tokenize(_, text, add_bos):
                value = self._model.tokenize(text, add_special=add_bos, parse_special=False)
            case wire.Detokenize(_, tokens):
                self._batcher.check_ids(tokens)
                value = b"".join(map(self._model.piece, tokens))
            case wire.Stats():
                value = self._stats()
            case _:
                assert_never(message)
        return self._channel.send(wire.Answer(message.number, wire.encode_value(value)))

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        """Send a step's outcomes at once: all tokens in one message, then what they ended."""
        drawn = tuple((o.number, o.token, o.text, o.logprobs) for o in outcomes if isinstance(o, Drawn))
        messages: list[wire.FromWorker] = [wire.Progress(drawn)] if drawn else []
        for outcome in outcomes:
            match outcome:
                case Ended(number, finished):
                    messages.append(wire.Done(number, finished))
                case Scored(number, tokens):
                    messages.append(wire.Answer(number, wire.encode_value(list(tokens))))
                case Refused(number, error):
                    messages.append(wire.failure(number, error))
        if messages:
            self._channel.send(*messages)

    def _stats(self) -> EngineStats:
        table, totals = self._batcher.table, self._batcher.totals
        return EngineStats(
            slots_total=len(table.slots),
            slots_busy=table.busy,
            queued=table.queued,
            prompt_tokens_total=totals.prompt_tokens,
            generated_tokens_total=totals.generated_tokens,
            cached_tokens_total=totals.cached_tokens,
            decode_calls_total=totals.decode_calls,
            tokens_per_second=self._batcher.rate.per_second(),
            kv_cells_used=table.cells_used,
            kv_cells_total=len(table.slots) * self._model.context_tokens,
            worker_restarts=0,
            memory_bytes=_resident_bytes(),
        )


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        # No /proc: the peak is the nearest there is (in bytes on macOS).
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _leave_with_node(descriptor: int) -> None:
    """Sleep until the node's end is closed, then end this process at once: a load or a decode may take long."""
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", select.POLLHUP))
    poll.poll()
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one node over an inherited socket; returns the exit status."""
    parser = argparse.ArgumentParser(description="The engine's worker process; the supervisor starts it.")
    parser.add_argument("--channel", type=int, required=True, help="the descriptor of an inherited stream socket")
    descriptor: int = parser.parse_args(argv).channel
    # Ctrl-C reaches the whole foreground group; when to stop is the node's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        first = channel.receive(wait=True)
        while not first:
            first = channel.receive(wait=True)
        threading.Thread(target=_leave_with_node, args=(descriptor,), daemon=True).start()
        if len(first) != 1 or not isinstance(first[0], wire.Load):
            raise EngineError("the first message must be what to load")
        try:
            worker = Worker(channel, first[0].config)
        except EngineError as error:
            channel.send(wire.failure(wire.LOAD, error))
            return 1
        worker.run()
    except NodeGoneError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
