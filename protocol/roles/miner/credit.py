"""How far a miner serves a client ahead of what the ledger holds for it.

Only what has a price needs credit. What a client has in all its sessions that are not known to be reserved stays within
``unreserved_credit_wei``; a reserved session is served up to its cap, as far as this miner can count.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from protocol.core.ids import NodeId, SessionId
from protocol.core.params import Params
from protocol.ledger.sessions import Session
from protocol.messages.sessions import SessionOpen
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import Lease

TABS_MAX = 1_024
"""Sessions that are remembered; the one that ordered least lately is forgotten for a new one."""
TAB_KEPT_MS = 6 * 3_600_000
"""So long a client owes what was never paid: it bounds what a miner can lose to one key a day."""
PATIENCE_MS = 5_000
"""So long an order waits for its session's reservation."""
BP = 10_000


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether an order may start now; ``refusal`` is code and detail where it never may."""

    granted: bool
    refusal: tuple[str, str] | None = None


@dataclass(slots=True)
class Tab:
    """What a session has had here."""

    client: NodeId
    cap_wei: int
    since_ms: int
    spent_wei: int = 0
    """By lanes that are over."""
    running: dict[tuple[int, int], int] = field(default_factory=dict)
    """What lanes that run may come to, by (task, lane)."""
    reserved: Session | None = None
    """What the ledger holds for it, as far as is known."""
    as_of: tuple[int, int] = (0, 0)
    """Epoch and height of the block that said so."""
    paid: bool = False
    """An outcome of it was paid: so it is reserved, whatever was heard of that."""

    def owed_wei(self) -> int:
        """All of it."""
        return self.spent_wei + sum(self.running.values())


class Credit:
    """See the module. Spec: [MINER-CREDIT.1]"""

    def __init__(self, params: Params) -> None:
        self._params = params
        self.tabs: OrderedDict[SessionId, Tab] = OrderedDict()

    def admit(self, lease: Lease, lane: Lane, epoch: int, now_ms: int) -> Admission:
        """Whether an order may start; if so, what it may come to counts from now on. ``epoch`` is the present one as
        far as is known, 0 if nothing is."""
        price_wei, order = lease.price_wei, lane.order
        if not price_wei:
            return Admission(granted=True)
        if order.cap_wei < price_wei * order.max_tokens:
            return Admission(False, ("bad_request", "the order's cap is less than its tokens cost here"))
        if epoch and not epoch - 1 <= order.home_epoch <= epoch + 1:
            # No committee observes it now: it would never be paid.
            return Admission(False, ("bad_request", f"the order's home epoch is {order.home_epoch}, now it is {epoch}"))
        tab, cost_wei = self._tab(lease, now_ms), self._cost_wei(lease, lane, order.max_tokens)
        if tab.reserved is not None and not tab.reserved.holds(order.home_epoch):
            return Admission(
                False, ("unreserved", "the session's reservation does not hold for the order's home epoch")
            )
        if tab.paid or tab.reserved is not None:
            if tab.owed_wei() + cost_wei > tab.cap_wei:
                return Admission(False, ("unreserved", "what the session has reserved is used up"))
        elif self._owed_wei(tab.client) + cost_wei > self._params.unreserved_credit_wei:
            return Admission(granted=False)
        tab.running[order.task, lane.generation[2]] = cost_wei
        return Admission(granted=True)

    def settle(self, lease: Lease, lane: Lane) -> None:
        """A lane is over: its client had the tokens that were signed, whatever it ended in."""
        tab = self.tabs.get(lease.session)
        if tab is None or tab.running.pop((lane.order.task, lane.generation[2]), None) is None:
            return
        tab.spent_wei += self._cost_wei(lease, lane, lane.writer.index if lane.writer is not None else lane.start_index)

    def wants(self, session: SessionId) -> bool:
        """Whether it matters here what the ledger holds for a session."""
        return session in self.tabs

    def reserved(self, session: SessionId, record: Session | None, as_of: tuple[int, int]) -> None:
        """What the ledger holds for a session after a block; None: nothing, or nothing any more."""
        tab = self.tabs.get(session)
        if tab is not None and as_of >= tab.as_of:
            tab.reserved, tab.as_of, tab.paid = record, as_of, False

    def paid(self, session: SessionId) -> None:
        """An outcome of a session was paid."""
        if session in self.tabs:
            self.tabs[session].paid = True

    def expect(self, session: SessionId, opening: SessionOpen, now_ms: int) -> None:
        """A session is about to order."""
        self._make_room(now_ms)
        self.tabs.setdefault(session, Tab(NodeId(opening.client), opening.cap_wei, now_ms))

    def _tab(self, lease: Lease, now_ms: int) -> Tab:
        self.expect(lease.session, lease.opening, now_ms)
        self.tabs.move_to_end(lease.session)
        return self.tabs[lease.session]

    def _make_room(self, now_ms: int) -> None:
        for session, tab in list(self.tabs.items()):
            idle = not tab.running
            if idle and (len(self.tabs) >= TABS_MAX or now_ms - tab.since_ms > TAB_KEPT_MS):
                del self.tabs[session]
            elif idle:
                return

    def _owed_wei(self, client: NodeId) -> int:
        return sum(
            tab.owed_wei()
            for tab in self.tabs.values()
            if tab.client == client and tab.reserved is None and not tab.paid
        )

    def _cost_wei(self, lease: Lease, lane: Lane, count: int) -> int:
        """What a lane of so many tokens brings this miner at most."""
        cost_wei = (count - lane.start_index) * lease.price_wei
        return cost_wei if lane.generation[2] == 0 else cost_wei * self._params.lane_fee_bp // BP
