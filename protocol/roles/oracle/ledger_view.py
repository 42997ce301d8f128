"""What the finalized ledger says, as the desk and whoever fills batches ask for it."""

from collections.abc import Collection, Iterator, Mapping

from protocol.committee.payload import LedgerState
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.ledger.claims import take_opening
from protocol.ledger.lanes import Lane as LaneRecord
from protocol.ledger.payments import take_withdrawal
from protocol.ledger.pool import take_enlistment
from protocol.ledger.records import Section
from protocol.ledger.registry import take_entry
from protocol.ledger.reservations import take_close, take_session
from protocol.ledger.state import State
from protocol.ledger.verdicts import place_of
from protocol.ledger.working import Working
from protocol.messages.results import (
    Observation,
    Opening,
    SignedClose,
    SignedEnlist,
    SignedEntry,
    SignedSession,
    SignedWithdraw,
)
from protocol.results.papers import Lane

Item = Opening | SignedSession | SignedClose | SignedWithdraw | SignedEnlist | SignedEntry
"""What whoever it concerns has signed, and the ledger has a use for."""


class LedgerView:
    """Of one finalized state. Over a payload that is no ledger it says nothing of any lane."""

    def __init__(self, domain: Domain, params: Params, final: LedgerState) -> None:
        self._domain = domain
        self._params = params
        self._final = final
        self.state = final if isinstance(final, State) else None

    @property
    def homes(self) -> Mapping[int, tuple[NodeId, ...]]:
        """See Known."""
        return self._final.homes

    def spoken(self, lane: Lane, home_epoch: int | None = None) -> Collection[NodeId]:
        """See Known."""
        found = None if self.state is None else self.state.lane(*lane)
        return () if found is None or home_epoch not in (None, found.home_epoch) else found.values.keys()

    def decided(self, lane: Lane) -> bool:
        """See Known."""
        found = None if self.state is None else self.state.lane(*lane)
        return found is not None and found.outcome is not None

    def is_member(self, oracle: NodeId) -> bool:
        """Whether an oracle is in the present committee."""
        return self.state is not None and oracle in self.state.homes[self.state.epoch]

    def reserved(self, session: bytes) -> bool:
        """See Known."""
        return self.state is not None and self.state.session(session) is not None

    def said_by(self, oracle: NodeId) -> Iterator[tuple[int, Observation]]:
        """What an oracle has said of lanes that are not decided, with their home epochs."""
        if self.state is None:
            return
        for key, data in self.state.tree(Section.OPEN).items():
            home_epoch, lane = int.from_bytes(key[:8], "big"), place_of(key[8:])
            members, record = self.homes.get(home_epoch, ()), LaneRecord.read(data)
            said = record.said_by(members.index(oracle)) if oracle in members else None
            if said is not None:
                yield home_epoch, Observation(*lane, said.verdict, said.root, said.count)

    def takes(self, item: Item) -> bool:
        """Whether an item would change the ledger as it is: neither void, nor in it already."""
        if self.state is None:
            return False
        work = Working(self._domain, self._params, self.state)
        match item:
            case Opening():
                take_opening(work, item)
            case SignedSession():
                take_session(work, item)
            case SignedClose():
                take_close(work, item)
            case SignedWithdraw():
                take_withdrawal(work, item)
            case SignedEnlist():
                take_enlistment(work, item)
            case SignedEntry():
                take_entry(work, item)
        after = work.after(self.state.cut, self.state.homes, self.state.next_members)
        return any(new is not old for new, old in zip(after.trees, self.state.trees, strict=True))
