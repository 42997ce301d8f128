"""The process in which grammars run: ``python -m p2pnode.engine.grammar_process``, started by the worker.

It loads the vocabulary once and forks a child for every grammar. Each child serves one answer over a socket of its
own and is killed by its timer if a question costs too much processor time: so no schema, whatever it says, holds up
or takes down more than itself.
"""

import argparse
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from p2pnode.engine.grammar import Grammar, GrammarError, Vocabulary
from p2pnode.engine.wire import LENGTH_BYTES

OPEN_CPU_S = 2.0
"""To read a grammar and go through the tokens emitted before."""
QUESTION_CPU_S = 1.0
SPARE_CPU_S = 2.0
TOKEN_CPU_S = 0.02
"""On average a token may cost this, once ``SPARE_CPU_S`` are used up."""
MEMORY_BYTES = 128 * 1_024 * 1_024
"""That a grammar may use beyond the vocabulary."""


class Open(Struct, frozen=True, array_like=True, tag="open"):
    """The first message: a grammar, and the tokens that were emitted before. Answered by Said twice, when it is begun
    and when it is open, or by Wrong."""

    grammar: str
    emitted: tuple[int, ...]


class Ask(Struct, frozen=True, array_like=True, tag="ask"):
    """Go on behind some tokens; then, which of these may come next? Answered by Said or by Wrong."""

    accepted: tuple[int, ...]
    asked: bytes
    """A bit for each token, packed."""


class Said(Struct, frozen=True, array_like=True, tag="said"):
    """Those that may, packed likewise."""

    permitted: bytes


class Wrong(Struct, frozen=True, array_like=True, tag="wrong"):
    """The grammar is not taken, or the tokens are not permitted."""

    why: str
    breaks: bool
    """It is the tokens that are wrong."""


_encoder = msgspec.msgpack.Encoder()
_question: msgspec.msgpack.Decoder[Open | Ask] = msgspec.msgpack.Decoder(Open | Ask)
_answer: msgspec.msgpack.Decoder[Said | Wrong] = msgspec.msgpack.Decoder(Said | Wrong)


def encode(message: Open | Ask | Said | Wrong) -> bytes:
    """A message with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def read_answer(connection: socket.socket) -> Said | Wrong:
    """The next answer; waits for it. Raises OSError, TimeoutError; EOFError where the other end is gone."""
    return _answer.decode(_read(connection))


def _read(connection: socket.socket) -> bytes:
    size = int.from_bytes(_read_exactly(connection, LENGTH_BYTES), "big")
    return _read_exactly(connection, size)


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def serve(connection: socket.socket, vocabulary: Vocabulary) -> None:
    """Serve one grammar until the other end is closed: first say that it has begun, then that it is open."""
    connection.sendall(encode(Said(b"")))
    opened = _question.decode(_read(connection))
    assert isinstance(opened, Open)
    signal.setitimer(signal.ITIMER_PROF, OPEN_CPU_S)
    try:
        grammar = Grammar(vocabulary, opened.grammar)
    except GrammarError as error:
        connection.sendall(encode(Wrong(str(error), False)))
        return
    try:
        grammar.accept(opened.emitted)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.sendall(encode(Said(b"")))
        spare = SPARE_CPU_S
        while True:
            question = _question.decode(_read(connection))
            assert isinstance(question, Ask)
            spare = _answer_one(connection, vocabulary, grammar, question, spare)
    except GrammarError as error:
        connection.sendall(encode(Wrong(str(error), True)))


def _answer_one(
    connection: socket.socket, vocabulary: Vocabulary, grammar: Grammar, question: Ask, spare: float
) -> float:
    """Returns how much processor time is left to spare."""
    allowed = min(QUESTION_CPU_S, spare + TOKEN_CPU_S)
    signal.setitimer(signal.ITIMER_PROF, allowed)
    grammar.accept(question.accepted)
    asked = np.unpackbits(np.frombuffer(question.asked, dtype=np.uint8), count=vocabulary.size).astype(np.bool_)
    permitted = np.packbits(grammar.permits(asked)).tobytes()
    left, _ = signal.setitimer(signal.ITIMER_PROF, 0)
    connection.sendall(encode(Said(permitted)))
    return min(SPARE_CPU_S, spare + TOKEN_CPU_S - (allowed - left))


def _become_child(connection: socket.socket, vocabulary: Vocabulary) -> None:
    """Never returns."""
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _limit_memory()
        serve(connection, vocabulary)
    except (EOFError, OSError, msgspec.DecodeError):
        os._exit(0)
    finally:
        os._exit(1)


def _limit_memory() -> None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        # No /proc: the time limits have to do.
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Fork a child for every socket that comes over the control socket; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs grammars; the engine's worker starts it.")
    parser.add_argument("--control", type=int, required=True, help="the descriptor of an inherited stream socket")
    parser.add_argument("--model", type=Path, required=True, help="the model file whose vocabulary is used")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    vocabulary = Vocabulary(given.model)
    control = socket.socket(fileno=given.control)
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        except ConnectionError:
            return 0
        if not data:
            return 0
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            if os.fork() == 0:
                control.close()
                _become_child(connection, vocabulary)
            connection.close()


if __name__ == "__main__":
    sys.exit(main())
