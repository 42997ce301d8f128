"""What an oracle says of lanes: from the first commit that it sees to its own signed value, and to the final block."""

from collections.abc import Mapping
from dataclasses import dataclass

from p2pnode.telemetry.miner_work import Lane, miner_span
from p2pnode.telemetry.span import Attribute
from p2pnode.telemetry.tap import Take
from p2pnode.telemetry.teller import Table, Teller
from protocol.core.machine import Note, Persist
from protocol.messages.committee import Offer, SignedBatch
from protocol.messages.results import CommitMessage, Commits
from protocol.results.evidence import observations_of
from protocol.roles.oracle.outcomes import LANE


@dataclass(slots=True)
class _Seen:
    start_ns: int
    miner: bytes


class OracleWork:
    """Hears an oracle's machine."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._seen: Table[Lane, _Seen] = Table()
        self._said: Table[Lane, int] = Table()
        """Lanes that this oracle has signed a value for, and when."""
        self._decided: list[Lane] = []
        """Lanes that a block decides which is about to be final."""
        self._last: tuple[int, int] = (-1, -1)
        """Home epoch and number of the last batch of its own that was told."""
        self.events: Mapping[type, Take] = {}
        self.effects: Mapping[type, Take] = {Persist: self._persists, Note: self._notes}
        self.received: Mapping[type, Take] = {CommitMessage: self._committed, Commits: self._gossiped}
        self.sent: Mapping[type, Take] = {Offer: self._offered}

    def _committed(self, message: CommitMessage) -> None:
        commit = message.signed.commit
        self._saw((commit.session, commit.task, commit.lane), commit.miner)

    def _gossiped(self, message: Commits) -> None:
        for signed in message.commits:
            self._saw((signed.commit.session, signed.commit.task, signed.commit.lane), signed.commit.miner)

    def _saw(self, lane: Lane, miner: bytes) -> None:
        if self._seen.get(lane) is None and self._said.get(lane) is None:
            self._seen.put(lane, _Seen(self._teller.now_ns(), miner))

    def _offered(self, message: Offer) -> None:
        """Its own batch leaves, with the values that it signed; again and again, to each member."""
        signed: SignedBatch = message.signed
        name = (signed.batch.home_epoch, signed.batch.number)
        if signed.batch.oracle != self._teller.node or name <= self._last:
            return
        self._last = name
        for value in observations_of(signed):
            lane = (value.session, value.task, value.lane)
            now_ns = self._teller.now_ns()
            seen = self._seen.pop(lane) or _Seen(now_ns, b"")
            self._said.put(lane, now_ns)
            said: dict[str, Attribute] = {"verdict": value.verdict.name.lower(), "tokens": value.count}
            parent = miner_span(*lane, seen.miner) if seen.miner else None
            session, task, number = lane
            self._teller.tell("observation", session, task, seen.start_ns, lane=number, parent=parent, attributes=said)

    def _persists(self, effect: Persist) -> None:
        """Outcomes are durable before the blocks that decided them are final."""
        for key, _ in effect.records:
            if key.startswith(LANE):
                self._decided.append(_lane_of(key.removeprefix(LANE)))

    def _notes(self, effect: Note) -> None:
        if effect.what != "oracle.final":
            return
        fields = dict(effect.fields)
        for lane in self._decided:
            said_ns = self._said.pop(lane)
            self._seen.pop(lane)
            if said_ns is not None:
                session, task, number = lane
                at: dict[str, Attribute] = {"epoch": fields["epoch"], "height": fields["height"]}
                self._teller.tell("finalization", session, task, said_ns, part="final", lane=number, attributes=at)
        self._decided.clear()


def _lane_of(key: bytes) -> Lane:
    """As ``protocol.ledger.records.lane_key`` makes it."""
    return key[:32], int.from_bytes(key[32:36], "big"), key[36]
