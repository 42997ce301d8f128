"""Cables between processes that can be cut, each direction of each pair on its own, without either end being told.

Every node announces its proxy's address in place of its own. Who dials is told by the process that owns the other end
of the connection, as on one machine every address is the same.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

CHUNK_BYTES = 65_536

Owner = Callable[[int], str | None]
"""Whose process has a connection from this local port."""


class Cables:
    """Which directions are open. What is sent into a closed one waits, as in a network that loses packets."""

    def __init__(self) -> None:
        self._closed: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self.ended = False

    def cut(self, sides: tuple[Iterable[str], Iterable[str]], *, both_ways: bool = True) -> None:
        """Let nothing through from the first side to the second, nor back."""
        pairs = {(one, other) for one in sides[0] for other in sides[1]}
        with self._changed:
            self._closed |= pairs | ({(other, one) for one, other in pairs} if both_ways else set())

    def heal(self) -> None:
        """Let everything through again, first of all what waits."""
        with self._changed:
            self._closed.clear()
            self._changed.notify_all()

    def end(self) -> None:
        """Let go of everybody who waits."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def pass_through(self, source: str, sink: str) -> bool:
        """Wait until the direction is open; False when the test is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or (source, sink) not in self._closed)
        return not self.ended


class Proxy:
    """The way to one node."""

    def __init__(self, name: str, cables: Cables, owner: Owner) -> None:
        self.name = name
        self.target = 0
        """The port of the node itself, once it is known."""
        self._cables = cables
        self._owner = owner
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, address = self._listener.accept()
                threading.Thread(target=self._carry, args=(near, address[1]), daemon=True).start()

    def _carry(self, near: socket.socket, port: int) -> None:
        dialer = self._owner(port)
        with near, suppress(OSError):
            if dialer is None or not self._cables.pass_through(dialer, self.name):
                return
            with socket.create_connection(("127.0.0.1", self.target)) as far:
                self._open |= {near, far}
                back = threading.Thread(target=self._copy, args=(far, near, self.name, dialer), daemon=True)
                back.start()
                self._copy(near, far, dialer, self.name)
                back.join()
                self._open -= {near, far}

    def _copy(self, source: socket.socket, sink: socket.socket, sender: str, receiver: str) -> None:
        try:
            while (data := source.recv(CHUNK_BYTES)) and self._cables.pass_through(sender, receiver):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
