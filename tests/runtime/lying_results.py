"""A miner that lies in how it commits: ``python -m tests.runtime.lying_results run …``, in the place of ``p2pnode``.

A file in the node's folder says how it lies in a session (``tell``): a test chooses when it knows who has which lane.
All else is the miner's own.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from p2pnode.cli import entry
from protocol.core.codec import pack, unpack
from protocol.core.machine import Send
from protocol.core.signing import Domain, Sign, keccak, typed_digest
from protocol.messages.results import CommitMessage, RevealMessage, SignedCommit, SignedReveal
from protocol.results.commitment import commit_of, opening_root
from protocol.roles.miner import outstanding
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.machine import MinerMachine
from protocol.roles.miner.result import StoredResult, make_result

LIES = "lies"
"""In the node's folder, with a file for each session in which it lies."""
SAID = "said"
"""Beside the nodes' folders: what lane 0's miners commit and open, for those that copy it."""
AGAIN_MS = 20
"""Who waits for something to copy looks so often."""

Said = CommitMessage | RevealMessage


def tell(folder: Path, session: bytes, lie: str) -> None:
    """Have the miner of a folder lie in a session."""
    (folder / LIES).mkdir(exist_ok=True)
    (folder / LIES / session.hex()).write_text(lie, encoding="utf-8")


class Lies:
    """What one miner says in place of what it would say."""

    def __init__(self, folder: Path, late_ms: int) -> None:
        self._folder = folder
        self._late_ms = late_ms
        """How long it keeps back a commit."""
        self._kept: list[tuple[int, Any]] = []
        """What is to leave later, and when."""
        self._said = folder.parent / SAID
        self._said.mkdir(exist_ok=True)
        self._ways: dict[str, Callable[[MinerMachine, Any, int], list[object]]] = {
            "silent": self._silent,
            "twice": self._twice,
            "false": self._false,
            "copies": self._copies,
            "late": self._late,
        }

    def lie_in(self, session: bytes) -> str:
        """How it lies in a session; empty if it does not."""
        path = self._folder / LIES / session.hex()
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def says(self, machine: MinerMachine, effects: list[object], now_ms: int) -> list[object]:
        """What leaves the machine."""
        due = [effect for at_ms, effect in self._kept if at_ms <= now_ms]
        self._kept = [(at_ms, effect) for at_ms, effect in self._kept if at_ms > now_ms]
        copied = [one for effect in due for one in self._due(machine, effect, now_ms)]
        return [one for effect in effects for one in self._instead(machine, effect, now_ms)] + copied

    def next_deadline(self) -> int | None:
        """When something that was kept back leaves."""
        return min((at_ms for at_ms, _ in self._kept), default=None)

    def _instead(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        message = getattr(effect, "message", None)
        if not isinstance(message, Said):
            return [effect]
        session, _, lane = place_of(message)
        if not lane:
            self._write(message)
        way = self._ways.get(self.lie_in(session))
        return [effect] if way is None else way(machine, effect, now_ms)

    def _due(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        if self.lie_in(place_of(effect.message)[0]) == "copies":
            return self._copies(machine, effect, now_ms)
        return [effect]

    # The ways

    def _silent(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        """It opens nothing."""
        return [] if isinstance(effect.message, RevealMessage) else [effect]

    def _late(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        """It commits when the window is over."""
        if isinstance(effect.message, RevealMessage):
            return [effect]
        self._kept.append((now_ms + self._late_ms, effect))
        return []

    def _false(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        """It opens with another salt than it committed with."""
        message = effect.message
        if isinstance(message, CommitMessage):
            return [effect]
        reveal = replace(message.signed.reveal, salt=keccak(message.signed.reveal.salt))
        return sent(effect, RevealMessage(SignedReveal(reveal, sign(machine, reveal)), message.opening))

    def _twice(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        """It tells every second oracle another commit, and both to all when it opens the first."""
        message, proving = effect.message, machine._proving
        if isinstance(message, RevealMessage):
            commits = [result.commit() for result in proving.outstanding.held.values()]
            first = next(each for each in commits if place_of(each) == place_of(message))
            return [*sent(effect, first), *sent(effect, other_commit(machine, first)), effect]
        both = (message, other_commit(machine, message))
        said: list[object] = []
        for channel in channels_of(effect):
            oracle = proving._links.oracle(channel)
            assert oracle is not None
            said.append(Send(channel, both[proving._links.oracles.index(oracle) % 2], key=effect.key))
        return said

    def _copies(self, machine: MinerMachine, effect: Any, now_ms: int) -> list[object]:
        """It commits to what lane 0's miner committed to, and opens it with that one's words, in its own name."""
        path = self._path(effect.message)
        if not path.exists():
            self._kept.append((now_ms + AGAIN_MS, effect))
            return []
        if isinstance(effect.message, CommitMessage):
            copied = unpack(SignedCommit, path.read_bytes(), limit_bytes=1 << 16)
            commit = replace(effect.message.signed.commit, commitment=copied.commit.commitment)
            return sent(effect, replace(effect.message, signed=SignedCommit(commit, sign(machine, commit))))
        theirs = unpack(SignedReveal, path.read_bytes(), limit_bytes=1 << 16).reveal
        reveal = replace(effect.message.signed.reveal, root=theirs.root, count=theirs.count, salt=theirs.salt)
        signed = SignedReveal(reveal, sign(machine, reveal))
        return sent(effect, RevealMessage(signed, effect.message.opening))

    # What can be copied

    def _path(self, message: Said) -> Path:
        session, task, _ = place_of(message)
        return self._said / f"{session.hex()}-{task}-{type(message).__name__}"

    def _write(self, message: Said) -> None:
        half = self._path(message).with_suffix(".half")
        half.write_bytes(pack(message.signed))
        half.replace(self._path(message))


def another(stored: StoredResult, own_sign: Sign, domain: Domain) -> StoredResult:
    """A result that holds in itself, of other tokens than were streamed."""
    opening = replace(stored.opening, chain=keccak(stored.opening.chain))
    reveal = replace(stored.reveal.reveal, root=opening_root(domain, opening))
    commit = commit_of(domain, reveal)
    signed = SignedReveal(reveal, own_sign(typed_digest(domain, reveal)))
    return replace(
        stored,
        commit=SignedCommit(commit, own_sign(typed_digest(domain, commit))),
        reveal=signed,
        opening=opening,
    )


def place_of(message: Said) -> tuple[bytes, int, int]:
    """Session, task and lane."""
    of = message.signed.commit if isinstance(message, CommitMessage) else message.signed.reveal
    return of.session, of.task, of.lane


def sign(machine: MinerMachine, struct: Any) -> bytes:
    """The miner signs anything."""
    own = machine._proving.outstanding
    return own._sign(typed_digest(own._domain, struct))


def other_commit(machine: MinerMachine, message: CommitMessage) -> CommitMessage:
    """A commit to nothing, of the same lane."""
    commit = replace(message.signed.commit, commitment=keccak(message.signed.commit.commitment))
    return replace(message, signed=SignedCommit(commit, sign(machine, commit)))


def channels_of(effect: Any) -> tuple[Any, ...]:
    """Where an effect sends to."""
    return (effect.channel,) if isinstance(effect, Send) else tuple(effect.channels)


def sent(effect: Any, message: Said) -> list[object]:
    """The same effect with another message."""
    return [Send(channel, message, key=effect.key) for channel in channels_of(effect)]


def lie(lies: Lies) -> None:
    """From now on any miner of this process may lie."""
    handle, next_deadline = MinerMachine.handle, MinerMachine.next_deadline

    def lying(self: MinerMachine, event: object, now_ms: int) -> list[object]:
        return lies.says(self, handle(self, event, now_ms), now_ms)

    def sooner(self: MinerMachine) -> int | None:
        clocks = (next_deadline(self), lies.next_deadline())
        return min((at_ms for at_ms in clocks if at_ms is not None), default=None)

    def made(domain: Domain, sign: Sign, salt_key: bytes, lane: Lane, now_ms: int) -> StoredResult:
        stored = make_result(domain, sign, salt_key, lane, now_ms)
        lies_here = lies.lie_in(stored.commit.commit.session) == "another"
        return another(stored, sign, domain) if lies_here else stored

    MinerMachine.handle = lying  # type: ignore[method-assign]
    MinerMachine.next_deadline = sooner  # type: ignore[method-assign]
    outstanding.make_result = made  # type: ignore[attr-defined]


if __name__ == "__main__":
    lie(Lies(Path(os.environ["P2PNODE_NODE_STATE_DIR"]), int(os.environ["LATE_MS"])))
    sys.exit(entry.main())
