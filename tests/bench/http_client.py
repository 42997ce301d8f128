"""The client that measures HTTP servers, a process of its own: ``python -m tests.bench.http_client``.

It must not be what is measured. So it is one thread around ``epoll`` and non-blocking sockets, which is what wrk, hey
and the like are: no HTTP library, no event loop beyond the selector, one ``recv`` and one time stamp for whatever a
wake-up brings, then only the splitting of chunks and one ``json.loads`` an event, about 10 µs a token. Connections are
kept alive and opened before the clock starts; ``TCP_NODELAY`` is on, acknowledgements are left as the kernel makes
them, as with any plain client. Every answer is checked to be whole.

Reads one order a line from standard input and answers each with one line of JSON, as path_client does.
"""

import gc
import json
import selectors
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.bench.http_sse import AnswerReader, MalformedAnswer, Said, chat_request, post_request
from tests.bench.path_streams import StreamResult

SILENCE_S = 60.0
"""A stream that says nothing for so long has failed."""
READ_BYTES = 262_144


class StreamFailed(Exception):
    """A server did not give what was asked of it; the message says what it gave."""


class Stream:
    """One stream of an order: a connection that asks for some answers, one after the other."""

    def __init__(self, index: int, order: dict[str, Any]) -> None:
        self.index = index
        self.begins = order["spread_s"] * index / order["streams"]
        self.heard = 0.0
        self.result = StreamResult()
        self._order = order
        self._answered = 0
        self._began = 0.0
        self.wire_bytes = 0
        self.connect()

    def connect(self) -> None:
        """A connection of its own, outside of what is timed."""
        self.socket = socket.create_connection(("127.0.0.1", self._order["port"]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def ask(self) -> None:
        """Send the next question."""
        text = self._order["questions"][self.index].format(number=self._answered)
        tokens = self._order["tokens"]
        request = chat_request(text, tokens, self._order["model"])
        if self._order["style"] == "completion":
            prompt = self._order["template"].replace("{}", text)
            body = {"prompt": prompt, "n_predict": tokens, "seed": self.index, "stream": True, "cache_prompt": True}
            request = post_request("/completion", body | self._order["options"], close=self._order["reconnect"])
        self._reader, self._said, self._tokens = AnswerReader(), Said([]), 0
        self._arrivals: list[float] = []
        self._at = self.heard = time.perf_counter()
        self._began = self._began or self._at
        self.wire_bytes += len(request)
        if self.socket.send(request) != len(request):
            raise StreamFailed("a question did not fit into the socket's buffer")

    def read(self) -> bool:
        """Take in what has come; whether that was the end of an answer. Raises StreamFailed."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StreamFailed(f"after {self._tokens} tokens: {error}") from error
        now = self.heard = time.perf_counter()
        self.wire_bytes += len(data)
        if not data:
            self._reader.ended()
        events = self._reader.feed(data)
        tokens = sum(map(self._note, events))
        if tokens:
            self._tokens += tokens
            self._arrivals.append(now)
        if self._reader.complete:
            self._check_whole(events)
            self._answered += 1
            self.result.add(self._at, self._arrivals, self._tokens, self._reader.frames)
            self.result.elapsed_s = time.perf_counter() - self._began
            return True
        if not data:
            raise StreamFailed(f"the connection ended after {self._tokens} tokens")
        return False

    def _note(self, event: bytes) -> int:
        if self._order["style"] == "chat":
            return self._said.note(event)
        message = json.loads(event)
        # llama.cpp's server says at the end how many there were: a token may be without text.
        return int(message["tokens_predicted"]) - self._tokens if message.get("stop") else 1

    def _check_whole(self, events: list[bytes]) -> None:
        if self._reader.status != 200:
            raise StreamFailed(f"status {self._reader.status} {b' '.join(events)[:200]!r}")
        if self._order["style"] == "chat" and (self._tokens != self._order["tokens"] or not self._said.finish):
            raise StreamFailed(f"{self._tokens} of {self._order['tokens']} tokens {self._said.error[:200]}")

    @property
    def over(self) -> bool:
        """All answers are there."""
        return self._answered >= int(self._order["answers"])


def run_streams(order: dict[str, Any]) -> dict[str, Any]:
    """Carry an order out. Raises StreamFailed."""
    streams = [Stream(index, order) for index in range(order["streams"])]
    try:
        _pump(streams, reconnect=bool(order["reconnect"]))
        return {
            "rows": [asdict(stream.result) for stream in streams],
            "wire_bytes": sum(stream.wire_bytes for stream in streams),
        }
    finally:
        for stream in streams:
            stream.socket.close()


def _pump(streams: list[Stream], *, reconnect: bool) -> None:
    running, waiting = 0, sorted(streams, key=lambda stream: -stream.begins)
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        while waiting or running:
            now = time.perf_counter()
            while waiting and waiting[-1].begins <= now - began:
                stream = waiting.pop()
                selector.register(stream.socket, selectors.EVENT_READ, stream)
                stream.ask()
                running += 1
            pause = waiting[-1].begins - (now - began) if waiting else 1.0
            ready = selector.select(max(pause, 0.0))
            for key, _ in ready:
                stream = key.data
                if not stream.read():
                    continue
                if stream.over or reconnect:
                    # At once: llama.cpp's server keeps a thread for a connection that may ask again.
                    selector.unregister(stream.socket)
                    stream.socket.close()
                if stream.over:
                    running -= 1
                    continue
                if reconnect:
                    stream.connect()
                    selector.register(stream.socket, selectors.EVENT_READ, stream)
                stream.ask()
            if not ready:
                _check_silence(streams)


def _check_silence(streams: list[Stream]) -> None:
    now = time.perf_counter()
    if any(stream.heard and not stream.over and now - stream.heard > SILENCE_S for stream in streams):
        raise StreamFailed(f"nothing came for {SILENCE_S:g} s")


def main() -> None:
    """Obey until standard input ends."""
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            answer = run_streams(json.loads(line))
        except (StreamFailed, MalformedAnswer, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
