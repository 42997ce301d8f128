"""Which tests the ledger calls for, as far as this oracle can make them."""

from collections.abc import Callable, Collection, Iterable

from protocol.core.ids import ModelDigest, NodeId
from protocol.core.sparse import EMPTY_TREE
from protocol.ledger.miners import Call, Miner, PoolState, TestKind
from protocol.ledger.records import Section
from protocol.ledger.state import State
from protocol.messages.results import Verdict
from protocol.roles.tester.events import Called, CalledLane, Calls

Offered = Callable[[NodeId], Iterable[ModelDigest]]
"""What a miner says it serves."""


class CallBook:
    """Reads the ledger's calls, each state from what changed since the last one. Spec: [TEST-CALLED.1]"""

    def __init__(self, me: NodeId, held: Collection[ModelDigest], offered: Offered) -> None:
        self._me = me
        self._held = held
        self._offered = offered
        self._pool = EMPTY_TREE
        self._open: dict[NodeId, Miner] = {}
        """Miners that are called to a test."""

    def read(self, state: State) -> Calls:
        """All calls that this oracle can answer and has not answered yet; none if it is in no committee."""
        pool = state.tree(Section.MINERS)
        for key, data in pool.diff(self._pool):
            miner = None if data is None else Miner.read(data)
            if miner is None or miner.call is None:
                self._open.pop(NodeId(key), None)
            else:
                self._open[NodeId(key)] = miner
        self._pool = pool
        present = state.homes.get(state.epoch, ())
        if self._me not in present:
            return Calls(())
        found = (self._called(state, node, miner) for node, miner in self._open.items())
        return Calls(tuple(called for called in found if called is not None), len(present))

    def _called(self, state: State, node: NodeId, miner: Miner) -> Called | None:
        call = miner.call
        assert call is not None
        if any(vote.oracle == self._me for vote in call.votes):
            return None
        model = self._model(state, node, miner, call)
        if model not in self._held:
            return None
        lane = _lane(state, call)
        # What is available may be busy: then the claim is no measure of it, and its speed is only noted.
        claimed = miner.claimed_tokens_per_second if miner.state is PoolState.TESTING else 0
        return Called(node, miner.test, call.seed, model, claimed, lane)

    def _model(self, state: State, node: NodeId, miner: Miner, call: Call) -> ModelDigest:
        """The session's where a lane is scored, else the one it enlisted with, else one that it says it serves."""
        session = state.session(call.session) if call.kind is TestKind.LANE else None
        if session is not None:
            return ModelDigest(session.model)
        if any(miner.model):
            return ModelDigest(miner.model)
        return next((model for model in self._offered(node) if model in self._held), ModelDigest(miner.model))


def _lane(state: State, call: Call) -> CalledLane | None:
    """The lane to score, and what the committee certified of it; None: a challenge stands in."""
    if call.kind is not TestKind.LANE:
        return None
    lane = state.lane(call.session, call.task, call.lane)
    if lane is None or lane.outcome is None or lane.outcome.verdict is not Verdict.OK:
        return None
    return CalledLane(call.lane, lane.outcome.root)
