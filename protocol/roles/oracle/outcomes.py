"""All outcomes since genesis, with the nodes of their tree, on this node's disk: what proofs are made of."""

from collections.abc import Sequence

from protocol.committee.storage import Record
from protocol.core.codec import pack, unpack
from protocol.ledger.records import lane_key
from protocol.ledger.state import State
from protocol.messages.committee import Certified
from protocol.messages.results import Outcome, OutcomeNews
from protocol.results.mountain import Place, prove
from protocol.results.papers import Lane
from protocol.roles.oracle.syncing import Load

NODE = b"results/node/"
OUTCOME = b"results/outcome/"
LANE = b"results/lane/"

RECENT_MAX = 16_384
"""Records kept in memory beside the disk, on which the last ones may not be yet."""
OF_SESSION_MAX = 64
"""Outcomes that are told of a session at once: those of its last orders."""

_BYTES_MAX = 1_024


class Outcomes:
    """Durable before the blocks that decided them are. Spec: [RESULTS-KEPT.1]"""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._recent: dict[bytes, bytes] = {}

    def records(self, states: Sequence[object]) -> tuple[Record, ...]:
        """What blocks with these states after them have decided."""
        found: dict[bytes, bytes] = {}
        for state in states:
            if isinstance(state, State):
                for place, digest in state.nodes:
                    found[_node_key(place)] = digest
                for index, outcome in decided(state):
                    found[_outcome_key(index)] = pack(outcome)
                    found[_lane_key(outcome.session, outcome.task, outcome.lane)] = index.to_bytes(8, "big")
        self._recent.update(found)
        for key in list(self._recent)[: max(0, len(self._recent) - RECENT_MAX)]:
            del self._recent[key]
        return tuple(found.items())

    def index(self, lane: Lane) -> int | None:
        """The place of a lane's outcome; None if there is none here."""
        data = self._read(_lane_key(*lane))
        return None if data is None else int.from_bytes(data, "big")

    def of_session(self, session: bytes) -> list[int]:
        """The places of a session's outcomes, those of its last orders, in the order of tasks and lanes."""
        prefix = LANE + session
        found = {**self._load(prefix), **{key: data for key, data in self._recent.items() if key.startswith(prefix)}}
        return [int.from_bytes(found[key], "big") for key in sorted(found)[-OF_SESSION_MAX:]]

    def news(self, index: int, certified: Certified) -> OutcomeNews | None:
        """An outcome and its proof against a header; None if the header is older, or a record is missing here."""
        header, data = certified.header, self._read(_outcome_key(index))
        if header is None or data is None or index >= header.results_count:
            return None
        try:
            proof = prove(index, header.results_count, self._node)
        except KeyError:
            return None
        return OutcomeNews(unpack(Outcome, data, limit_bytes=_BYTES_MAX), proof, certified)

    def _node(self, place: Place) -> bytes:
        data = self._read(_node_key(place))
        if data is None:
            raise KeyError(place)
        return data

    def _read(self, key: bytes) -> bytes | None:
        return self._recent.get(key) or self._load(key).get(key)


def decided(state: State) -> list[tuple[int, Outcome]]:
    """The outcomes that a block decided, with their places among all."""
    first = state.mountain.count - len(state.decided)
    return [(first + place, outcome) for place, outcome in enumerate(state.decided)]


def _node_key(place: Place) -> bytes:
    return NODE + bytes([place[0]]) + place[1].to_bytes(8, "big")


def _outcome_key(index: int) -> bytes:
    return OUTCOME + index.to_bytes(8, "big")


def _lane_key(session: bytes, task: int, lane: int) -> bytes:
    return LANE + lane_key(session, task, lane)
