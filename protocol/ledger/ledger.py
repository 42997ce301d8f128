"""The ledger: what consensus plugs in as its payload. A body is a cut; its batches' contents are what it is about."""

from collections.abc import Sequence
from dataclasses import replace

from protocol.committee.certificates import batch_digest
from protocol.committee.cut import home_of, omitted, open_cut, pack_cut
from protocol.committee.members import Committee
from protocol.committee.payload import HOMES_KEPT, NextCommittee, same_members
from protocol.core.errors import DecodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.core.sparse import SparseTree
from protocol.ledger.accounts import Account
from protocol.ledger.chain import ChainState
from protocol.ledger.items import take_batches
from protocol.ledger.pool import genesis_miner, turn_pool
from protocol.ledger.records import Section, lanes_of
from protocol.ledger.reservations import release_due
from protocol.ledger.state import EMPTY_TREES, State, params_digest, unpack_state
from protocol.ledger.verdicts import run_out
from protocol.ledger.working import Working
from protocol.messages.committee import SignedBatch


class Ledger:
    """See the module and ``Payload``."""

    def __init__(self, domain: Domain, params: Params, genesis: Genesis, follow: NextCommittee = same_members) -> None:
        self._domain = domain
        self._params = params
        self._genesis = genesis
        self._follow = follow

    def genesis(self, committee: Committee) -> State:
        """See Payload. Spec: [LEDGER-GENESIS.1]"""
        trees = list(EMPTY_TREES)
        accounts = ((address, Account(amount).packed()) for address, amount in self._genesis.allocation)
        trees[Section.ACCOUNTS] = SparseTree.of(accounts)
        miners = ((miner, genesis_miner(miner).packed()) for miner in self._genesis.miners)
        trees[Section.MINERS] = SparseTree.of(miners)
        homes = {committee.epoch: committee.members}
        digest = params_digest(self._params)
        chain = None if self._genesis.contracts is None else ChainState()
        follow = self._follow(committee) if chain is None else committee.members
        return State(digest, committee.epoch, homes, follow, trees=tuple(trees), chain=chain)

    def restore(self, packed: bytes) -> State:
        """See Payload."""
        state = unpack_state(packed)
        if state.params_digest != params_digest(self._params):
            raise DecodeError("the state is of a network with other parameters")
        return state

    def turn(self, state: State, committee: Committee) -> State:
        """See Payload. Spec: [LEDGER-TURN.1]"""
        work = Working(self._domain, self._params, state)
        work.epoch = committee.epoch
        run_out(work)
        release_due(work)
        turn_pool(work)
        work.clear(lanes_of(committee.epoch))
        homes = {epoch: members for epoch, members in state.homes.items() if epoch > committee.epoch - HOMES_KEPT}
        homes[committee.epoch] = committee.members
        cut = {home: last for home, last in state.cut.items() if home[0] in homes}
        work.opened = {home: count for home, count in work.opened.items() if home[0] in homes}
        return replace(work.after(cut, homes, self._next(work, committee)), turned=True)

    def _next(self, work: Working, committee: Committee) -> tuple[NodeId, ...]:
        """Who follows a committee that begins."""
        if work.chain is None:
            return self._follow(committee)
        work.chain, members = work.chain.turned(committee.epoch, committee.members)
        return members

    def propose(self, state: State, offered: Sequence[SignedBatch]) -> bytes:
        """See Payload."""
        return pack_cut(self._params, state, offered)

    def execute(self, state: State, body: bytes) -> State:
        """See Payload."""
        batches = open_cut(self._domain, self._params, state, body)
        work = Working(self._domain, self._params, state)
        cut = dict(state.cut)
        for signed in batches:
            cut[home_of(signed)] = (signed.batch.number, Digest(batch_digest(self._domain, signed.batch)))
        take_batches(work, batches)
        return replace(work.after(cut, state.homes, state.next_members), batches=state.batches + len(batches))

    def omits(self, before: State, after: State, body: bytes, owed: Sequence[SignedBatch]) -> SignedBatch | None:
        """See Payload."""
        return omitted(self._params, before, after, body, owed)
