"""An oracle that votes twice when a test tells it to: ``python -m tests.runtime.equivocating_oracle run …``.

It takes the place of ``p2pnode``. Once the file ``equivocate`` is in its folder, it sends with each vote another one
for the same slot, signed with the same key past its signer log, as a second process with a copy of the key would.
"""

import os
import sys
from pathlib import Path

from msgspec.structs import replace as changed

from p2pnode.cli import entry
from protocol.core.machine import Send, SendAll
from protocol.core.signing import keccak
from protocol.messages.committee import State, Statement, StatementKind, statement_digest
from protocol.roles.oracle import OracleMachine

SIGN = "equivocate"
"""The file that tells it to."""


def tell(folder: Path) -> None:
    """Have the oracle of a folder equivocate from now on."""
    (folder / SIGN).touch()


def other(machine: OracleMachine, said: Statement) -> Statement:
    """A second vote in the slot of the first."""
    header = keccak(said.header)
    digest = statement_digest(machine._domain, StatementKind.VOTE, said.epoch, said.height, header)
    return changed(said, header=header, signature=machine._sign(digest))


def lie(told: Path) -> None:
    """From now on the oracles of this process look whether they are told to."""
    handle = OracleMachine.handle

    def twice(self: OracleMachine, event: object, now_ms: int) -> list[object]:
        effects = handle(self, event, now_ms)
        if not told.exists():
            return effects
        out: list[object] = []
        for effect in effects:
            out.append(effect)
            message = getattr(effect, "message", None)
            if isinstance(message, State) and message.statement.kind is StatementKind.VOTE:
                second = State(other(self, message.statement))
                if isinstance(effect, Send):
                    out.append(Send(effect.channel, second, key=effect.key))
                elif isinstance(effect, SendAll):
                    out.append(SendAll(effect.channels, second, effect.key))
        return out

    OracleMachine.handle = twice  # type: ignore[method-assign]


if __name__ == "__main__":
    lie(Path(os.environ["P2PNODE_NODE_STATE_DIR"]) / SIGN)
    sys.exit(entry.main())
