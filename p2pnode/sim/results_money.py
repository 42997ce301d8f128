"""S7 and S8: where the money goes. Both are asked after every final block, of the auditor's state.

What may be paid at most is reckoned here from what clients really signed, as it left their hosts, and from nothing that
a miner says, but for lanes above 0, which no client acknowledges.
"""

from collections import defaultdict
from collections.abc import Iterator

from p2pnode.sim.host import Host
from p2pnode.sim.results_replay import Entered, Follower, OneLedger
from p2pnode.sim.results_seen import Seen, Task
from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.ledger.sessions import Session
from protocol.ledger.state import State
from protocol.light.handovers import HandOverBook
from protocol.light.news import check_session
from protocol.messages.handover import HandOvers
from protocol.messages.results import SessionNews, Verdict
from protocol.messages.tasks import FrameMessage


class ValueIsConserved(Follower):
    """S7: what all accounts have together is what the genesis gave them; what is reserved is what sessions may still
    cost; nothing is ever negative; what may be withdrawn only grows, and only by what its account signed."""

    invariant = "S7"

    def __init__(self, seen: Seen) -> None:
        self.blocks = 0
        self.withdrawn_wei = 0
        self._seen = seen

    def entered(self, entered: Entered) -> None:
        """After every block, and every turn."""
        self.blocks += 1
        at = f"{entered.header.epoch}/{entered.header.height}"
        total, reserved = 0, dict[bytes, int]()
        for address, account in accounts(entered.state):
            total += account.balance_wei + account.reserved_wei + account.withdrawable_wei
            if min(account.balance_wei, account.reserved_wei, account.withdrawable_wei) < 0:
                self.fail(f"an account is overdrawn after {at}")
            if account.reserved_wei:
                reserved[address] = account.reserved_wei
            self._check_withdrawn(address, account, entered.before.account(address), at)
        given = self.given(entered.state)
        if total != given:
            self.fail(f"there are {total} wei after {at}, and {given} were given out")
        owed: dict[bytes, int] = defaultdict(int)
        for _, session in sessions(entered.state):
            if session.cap_wei > session.spent_wei:
                owed[session.client] += session.cap_wei - session.spent_wei
        if dict(owed) != reserved:
            self.fail(f"what is reserved after {at} is not what sessions may still cost")

    def given(self, _state: State) -> int:
        """What all accounts ever got."""
        return self.world.genesis.allocated()

    def _check_withdrawn(self, address: bytes, account: Account, before: Account, at: str) -> None:
        risen = account.withdrawable_wei - before.withdrawable_wei
        if risen < 0:
            self.fail(f"what may be withdrawn shrank in {at}")
        if risen and account.withdrawable_wei not in self._seen.withdrawals[address]:
            self.fail(f"{account.withdrawable_wei} wei may be withdrawn after {at}, and nobody signed that")
        self.withdrawn_wei += risen


class PaidAsSigned(Follower):
    """S8: a session is paid at most its cap, only for orders that its client signed, lane 0 to the last ack; and nobody
    gains what nobody signed for him."""

    invariant = "S8"

    def __init__(self, seen: Seen, ledger: OneLedger) -> None:
        self.paid_wei = 0
        self._seen = seen
        self._ledger = ledger

    def entered(self, entered: Entered) -> None:
        """Sessions of which more is spent than before the block."""
        for name, session in sessions(entered.state):
            before = entered.before.session(name)
            spent = session.spent_wei - (0 if before is None else before.spent_wei)
            if spent:
                self.paid_wei += spent
                self._check(name, session)
        # What the turn of an epoch decides, and pays, stands in the first block of it.
        for outcome in entered.state.decided if entered.header.height else ():
            known = entered.before.session(outcome.session) or entered.state.session(outcome.session)
            if outcome.paid_wei and (known is None or outcome.verdict is not Verdict.OK):
                self.fail(f"a lane of task {outcome.task} is paid without a reservation, or though it is not ok")

    def _check(self, name: bytes, session: Session) -> None:
        what = f"session {name.hex()[:8]}"
        if session.spent_wei > session.cap_wei:
            self.fail(f"{what} cost {session.spent_wei} wei, its cap is {session.cap_wei}")
        tasks = [task for task in self._seen.orders if task[0] == name]
        most = sum(sum(amount for _, amount in self._most(task, session)) for task in tasks)
        capped = sum(self._order_cap(task) for task in tasks)
        if session.spent_wei > min(most, capped):
            self.fail(
                f"{what} cost {session.spent_wei} wei, its client signed for {most}, in orders capped at {capped}"
            )

    def _order_cap(self, task: Task) -> int:
        return max(order.cap_wei for order in self._seen.orders[task].values())

    def _most(self, task: Task, session: Session) -> Iterator[tuple[NodeId, int]]:
        """What may be paid for a task at most, to whom."""
        for lane in range(session.lanes):
            decided = self._ledger.outcomes.get((*task, lane))
            if decided is None or decided[0].verdict is not Verdict.OK:
                continue
            if lane == 0:
                for segment, ack in self._seen.acks[*task, 0].items():
                    head = self._seen.heads.get(segment)
                    if head is not None and (head.session, head.task, head.lane) == (*task, 0):
                        price_wei = min(head.price_wei, session.price_cap_wei)
                        yield NodeId(head.miner), max(0, ack.index - head.start_index) * price_wei
            else:
                fee_bp = self.world.genesis.params.lane_fee_bp
                # No client signs for these: the price is what their result binds.
                for miner, price_wei in self._seen.openers((*task, lane), decided[0].root).items():
                    yield miner, decided[0].count * min(price_wei, session.price_cap_wei) * fee_bp // 10_000

    def ended(self) -> None:
        """What each miner has more than at the beginning is for what it did itself."""
        last = self._ledger.states[self._ledger.best]
        owed: dict[NodeId, int] = defaultdict(int)
        for task, session in self._tasks():
            for miner, amount in self._most(task, session):
                owed[miner] += amount
        given = self.given()
        for host in self.world.hosts.values():
            if host.name.startswith("miner"):
                payee = self.payee(host)
                account = last.account(payee)
                has = account.balance_wei + account.reserved_wei + account.withdrawable_wei
                if has - given.get(payee, 0) > owed[host.node]:
                    self.fail(f"has gained {has - given.get(payee, 0)} wei of {owed[host.node]} at most", host)

    def payee(self, host: Host) -> NodeId:
        """Whose account a node is paid to."""
        return host.node

    def given(self) -> dict[NodeId, int]:
        """What accounts got from outside."""
        return dict(self.world.genesis.allocation)

    def _tasks(self) -> Iterator[tuple[Task, Session]]:
        """Every task of a session that was ever reserved."""
        known: dict[bytes, Session] = {}
        for state in self._ledger.states.values():
            known.update(sessions(state))
        for task in self._seen.orders:
            if task[0] in known:
                yield task, known[task[0]]


class CreditIsBounded(Follower):
    """S8, of what nobody pays: a miner streams a client no more than ``unreserved_credit_wei`` worth of tokens in all
    sessions for which the ledger never held anything, whatever its routers say. A restart forgets what was owed."""

    invariant = "S8"

    def __init__(self, seen: Seen) -> None:
        self.largest_wei = 0
        self._seen = seen
        self._reserved: set[bytes] = set()
        self._given: dict[tuple[str, int, bytes], dict[Task, int]] = defaultdict(dict)
        """What each life of a miner streamed to a client, by order."""
        self._book: HandOverBook | None = None

    def entered(self, entered: Entered) -> None:
        """Sessions that are reserved."""
        self._reserved.update(name for name, _ in sessions(entered.state))

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """A correct miner is shown a reservation, before it is on any correct node's disk, perhaps; or it streams."""
        if isinstance(message, SessionNews | HandOvers):
            self._shown(message)
        if not isinstance(message, FrameMessage) or not sender.correct or message.lane or protocol != "task":
            return
        opening, head = self._seen.sessions.get(message.session), self._seen.latest.get((message.session, message.task))
        if opening is None or head is None or head.miner != sender.node:
            return
        given = self._given[sender.name, sender.incarnation, opening.client]
        tokens = message.first_index + len(message.ids) - head.start_index
        given[message.session, message.task] = tokens * head.price_wei
        owed_wei = sum(amount for task, amount in given.items() if task[0] not in self._reserved)
        self.largest_wei = max(self.largest_wei, owed_wei)
        if owed_wei > self.world.genesis.params.unreserved_credit_wei:
            self.fail(f"has streamed {owed_wei} wei worth of tokens to one client that reserved nothing", sender)

    def _shown(self, news: SessionNews | HandOvers) -> None:
        if self._book is None:
            self._book = HandOverBook(self.world.genesis)
        try:
            if isinstance(news, HandOvers):
                self._book.take(news.hand_overs)
                return
            _, record = check_session(self._book.trust, news)
        except RemoteProtocolError:
            return
        if record is not None:
            self._reserved.add(bytes(news.proof.key))


def accounts(state: State) -> Iterator[tuple[bytes, Account]]:
    """All accounts."""
    return ((key, Account.read(data)) for key, data in state.tree(Section.ACCOUNTS).items())


def sessions(state: State) -> Iterator[tuple[bytes, Session]]:
    """All reservations."""
    return ((key, Session.read(data)) for key, data in state.tree(Section.SESSIONS).items())
