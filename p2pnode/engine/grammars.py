"""The grammars that a worker's answers hold to, each in a process of its own, and what may come next in each."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import SchemaRefused
from p2pnode.engine.grammar_process import Ask, Open, Said, Wrong, encode, read_answer

ATTEMPTS_MAX = 3
WAIT_S = 20.0
"""For an answer, by the clock on the wall; what it may cost is bounded in processor time by the other end."""
_TOO_DEAR = (
    "the schema costs too much to hold to: fewer counts, shorter patterns, fewer alternatives that begin alike help"
)


class TokensBreakSchema(SchemaRefused):
    """The tokens so far are not what the schema permits."""


@dataclass(slots=True)
class _Held:
    connection: socket.socket
    message: bytes
    """What it was opened with."""
    begun: bool = False
    """A process of its own has it."""
    open: bool = False
    attempts: int = 1
    forker: "subprocess.Popen[bytes] | None" = None
    """Who was to fork it."""


class Grammars:
    """Starts, asks and ends grammars, by the number of the request that each is for."""

    def __init__(self, model_path: Path, vocab_size: int) -> None:
        self._model_path = model_path
        self._vocab_size = vocab_size
        self._held: dict[int, _Held] = {}
        self._forker: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def waiting(self) -> list[int]:
        """The descriptors that become readable when ``opened`` has something to say."""
        return [held.connection.fileno() for held in self._held.values() if not held.open]

    def open(self, number: int, grammar: str, emitted: Sequence[int]) -> None:
        """Begin; ``opened`` tells when it is ready. Raises SchemaRefused."""
        message = encode(Open(grammar, tuple(emitted)))
        self._held[number] = _Held(self._connect(message), message, forker=self._forker)

    def _connect(self, message: bytes) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # Room for the whole message: nobody reads it before the process is up.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_048_576)
            ours.setblocking(False)
            try:
                self._pass_on(theirs)
                sent = ours.send(message)
            except OSError as error:
                ours.close()
                raise SchemaRefused(f"no process can be started to hold to the schema: {error}") from error
        if sent < len(message):
            ours.close()
            raise SchemaRefused(_TOO_DEAR)
        ours.settimeout(WAIT_S)
        return ours

    def opened(self) -> Iterator[tuple[int, SchemaRefused | None]]:
        """The requests whose grammar is ready by now, or is refused, and why."""
        for number, held in [(number, held) for number, held in self._held.items() if not held.open]:
            poll = select.poll()
            poll.register(held.connection, select.POLLIN)
            if not poll.poll(0):
                continue
            try:
                self._go_on(held)
            except SchemaRefused as error:
                held.open = True
                yield number, error
            else:
                if held.open:
                    yield number, None

    def _go_on(self, held: _Held) -> None:
        """Take in what came of opening a grammar. Raises SchemaRefused."""
        try:
            self._read(held.connection)
        except SchemaRefused as error:
            if held.begun:
                raise
            if held.attempts >= ATTEMPTS_MAX:
                raise SchemaRefused("the process that holds to schemas does not start") from error
            # The process that forks died with it in its queue: that was not this grammar's doing.
            held.connection.close()
            if held.forker is self._forker:
                self._end_forker()
            held.connection = self._connect(held.message)
            held.forker = self._forker
            held.attempts += 1
            return
        held.open, held.begun = held.begun, True

    def permits(self, number: int, accepted: Sequence[int], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some tokens may come next behind those accepted now. Raises SchemaRefused."""
        connection = self._held[number].connection
        asked = np.zeros(self._vocab_size, dtype=np.bool_)
        asked[ids] = True
        try:
            connection.sendall(encode(Ask(tuple(accepted), np.packbits(asked).tobytes())))
        except OSError as error:
            raise SchemaRefused(_TOO_DEAR) from error
        said = self._read(connection)
        bits = np.unpackbits(np.frombuffer(said.permitted, dtype=np.uint8), count=self._vocab_size)
        return bits[ids].astype(np.bool_)

    def close(self, number: int) -> None:
        """End a grammar; one that is unknown is fine."""
        held = self._held.pop(number, None)
        if held is not None:
            held.connection.close()

    def _read(self, connection: socket.socket) -> Said:
        try:
            answer = read_answer(connection)
        except (OSError, EOFError) as error:
            raise SchemaRefused(_TOO_DEAR) from error
        if isinstance(answer, Wrong):
            raise (TokensBreakSchema if answer.breaks else SchemaRefused)(answer.why)
        return answer

    def _pass_on(self, theirs: socket.socket) -> None:
        """Hand a socket to the process that forks; start one where none runs."""
        if self._control is not None:
            with suppress(OSError):
                socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
                return
        self._end_forker()
        ours, control = socket.socketpair()
        with control:
            self._forker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "p2pnode.engine.grammar_process"),
                    *("--control", str(control.fileno()), "--model", str(self._model_path)),
                ],
                stdin=subprocess.DEVNULL,
                # The worker's would stay open behind it, and the node waits for the end of that.
                stderr=subprocess.DEVNULL,
                pass_fds=(control.fileno(),),
                # A grammar needs no accelerator, and a process that forks must hold none, nor threads.
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._control = ours
        socket.send_fds(ours, [b"\0"], [theirs.fileno()])

    def _end_forker(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._forker is not None:
            self._forker.kill()
            self._forker.wait()
            self._forker = None
