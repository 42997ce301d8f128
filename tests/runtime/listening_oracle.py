"""An oracle as any other, that also writes down every signature it hears: ``python -m tests.runtime.listening_oracle``.

It takes the place of ``p2pnode``; ``compare_disks`` looks for each of the signatures in its signer's log.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from p2pnode.cli import entry
from protocol.core.codec import pack, unpack
from protocol.messages.committee import Certificate, SignedBatch, Statement
from protocol.roles.oracle import OracleMachine

HEARD = "heard.log"
"""In the node's folder: each statement, certificate or batch behind its kind and its length in 4 bytes."""
Signed = Statement | Certificate | SignedBatch

KINDS: dict[bytes, type[Signed]] = {b"s": Statement, b"c": Certificate, b"b": SignedBatch}


def signed_in(value: object) -> Iterator[Signed]:
    """Everything signed in a message, however deep."""
    if isinstance(value, Signed):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from signed_in(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from signed_in(item)


def listen(path: Path) -> None:
    """Write down from now on what any oracle of this process hears."""
    file = path.open("ab", buffering=0)
    known: set[bytes] = set()
    handle = OracleMachine.handle

    def listening(self: OracleMachine, event: object, now_ms: int) -> list[object]:
        for signed in signed_in(getattr(event, "message", None)):
            data = pack(signed)
            if data not in known:
                known.add(data)
                kind = next(name for name, cls in KINDS.items() if isinstance(signed, cls))
                with suppress(OSError):  # the disk is full on purpose
                    file.write(kind + len(data).to_bytes(4, "big") + data)
        return handle(self, event, now_ms)

    OracleMachine.handle = listening  # type: ignore[method-assign]


def heard(path: Path) -> Iterator[Signed]:
    """What was written down; the last may be cut short by a kill."""
    data = path.read_bytes()
    at = 0
    while at + 5 <= len(data):
        end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
        if end > len(data):
            return
        yield unpack(KINDS[data[at : at + 1]], data[at + 5 : end], limit_bytes=1 << 20)
        at = end


if __name__ == "__main__":
    listen(Path(os.environ["P2PNODE_NODE_STATE_DIR"]) / HEARD)
    sys.exit(entry.main())
