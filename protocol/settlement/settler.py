"""When it is this member's turn to put something on the chain, and what: headers, draws, evidence.

It decides by what the contracts were last seen to say. Whoever sends looks at them once more before.
"""

from collections.abc import Callable

from protocol.committee.storage import Record
from protocol.core.ids import NetworkId, NodeId
from protocol.core.params import Params
from protocol.ledger.records import Section
from protocol.ledger.state import State
from protocol.messages.chain import Accepted
from protocol.messages.committee import Certified
from protocol.messages.handover import HandOver
from protocol.results.evidence import Evidence
from protocol.settlement.docket import Docket
from protocol.settlement.duty import (
    NO_SLOT,
    RecordDraw,
    Settle,
    Slot,
    Standing,
    SubmitHeader,
    due_ms,
    is_pressing,
)
from protocol.settlement.turns import begins_ms, turn_order

HandOverOf = Callable[[int], HandOver | None]
"""The hand-over of an epoch, if it is here."""

_HEADER = b"header"
_SETTLED = (Section.ACCOUNTS, Section.NAMES)
"""What of the ledger the contracts read, beside the results."""


class Settler:
    """See the module. Spec: [SETTLE-HEADER.1] [SETTLE-DRAW.1]"""

    def __init__(
        self,
        params: Params,
        network_id: NetworkId,
        me: NodeId,
        first: tuple[NodeId, ...],
        hand_over: HandOverOf,
        docket: Docket,
    ) -> None:
        self._params = params
        self._network_id = network_id
        self._me = me
        self._first = first
        """The committee of epoch 1."""
        self._hand_over = hand_over
        self.docket = docket
        self._accepted: Accepted | None = None
        self._accepted_ms: int | None = None
        """None until the contracts were seen."""
        self._undrawn: tuple[int, int] | None = None
        """An epoch that may be drawn, and since when that is known here."""
        self._final: tuple[Certified, State] | None = None
        self._changed: Slot = NO_SLOT
        self._pressing_ms: int | None = None
        self._asked: dict[bytes, int] = {}
        """What was asked for, and when, while it is due."""
        self._next: tuple[int | None] | None = None
        """The next deadline; None until it is looked for."""

    # What happens

    def contract(self, accepted: Accepted | None, undrawn: int | None, now_ms: int) -> None:
        """What the contracts say now, in blocks that need not be final."""
        if self._accepted_ms is None or accepted != self._accepted:
            self._accepted, self._accepted_ms, self._pressing_ms = accepted, now_ms, None
            # A block of the chain may have been undone: the same header is then due anew.
            self._asked = {name: at_ms for name, at_ms in self._asked.items() if not name.startswith(_HEADER)}
        if undrawn is None or self._undrawn is None or undrawn != self._undrawn[0]:
            self._undrawn = None if undrawn is None else (undrawn, now_ms)
        self._look(now_ms)

    def finalized(self, certified: Certified, state: State, now_ms: int) -> list[Record]:
        """A header is final, and its state known here; what is to be durable of it."""
        before, self._final = self._final, (certified, state)
        # Nobody knows what came before the first that is seen here.
        if before is None or _settled(before[1]) != _settled(state):
            self._changed = self._newest()
        dropped = self.docket.settle(state)
        self._look(now_ms)
        return dropped

    def convicted(self, node: NodeId, evidence: Evidence, state: State, now_ms: int) -> list[Record]:
        """Evidence convicts a node; what is to be durable of it."""
        kept = self.docket.add(node, evidence, state, now_ms)
        self._look(now_ms)
        return kept

    def _look(self, now_ms: int) -> None:
        self._next = None
        if self._pressing_ms is None and is_pressing(self._params, self._slot(), self._newest(), self._changed):
            self._pressing_ms = now_ms

    def _slot(self) -> Slot:
        return NO_SLOT if self._accepted is None else (self._accepted.epoch, self._accepted.height)

    def _newest(self) -> Slot:
        certificate = None if self._final is None else self._final[0].certificate
        return NO_SLOT if certificate is None else (certificate.epoch, certificate.height)

    # What is to be done

    def next_deadline(self) -> int | None:
        """When the next turn of this member begins, or its last one is to be taken again."""
        if self._next is None:
            self._next = (min((at_ms for _, _, at_ms in self._turns()), default=None),)
        return self._next[0]

    def due(self, now_ms: int) -> list[Settle]:
        """What this member is to send now: its turn has come, and in this one it was not asked for it yet."""
        turns, self._next = self._turns(), None
        names = {name for name, _, _ in turns}
        self._asked = {name: at_ms for name, at_ms in self._asked.items() if name in names}
        found = [(name, settle) for name, settle, at_ms in turns if at_ms <= now_ms]
        self._asked.update((name, now_ms) for name, _ in found)
        return [settle for _, settle in found]

    def _turns(self) -> list[tuple[bytes, Settle, int]]:
        """All that is due, each with its name, and when this member is to send it."""
        if self._final is None or self._accepted_ms is None:
            return []
        state = self._final[1]
        due: list[tuple[bytes, Settle, int]] = []
        header, from_ms = self._header(), due_ms(self._params, self._standing(self._accepted_ms))
        if header is not None and from_ms is not None:
            due.append((_HEADER + _bytes(*self._slot()), header, from_ms))
        if self._undrawn is not None:
            due.append((b"draw" + _bytes(self._undrawn[0]), RecordDraw(self._undrawn[0]), self._undrawn[1]))
        due += [(b"evidence" + identity, report, since_ms) for identity, report, since_ms in self.docket.open(state)]
        members, found = state.homes[state.epoch], []
        for subject, settle, since_ms in due:
            order = turn_order(self._network_id, subject, members)
            at_ms = begins_ms(order, self._me, since_ms, self._params.turn_ms)
            if at_ms is not None:
                asked_ms = self._asked.get(subject)
                found.append((subject, settle, at_ms if asked_ms is None else asked_ms + self._params.turn_ms))
        return found

    def _standing(self, accepted_ms: int) -> Standing:
        return Standing(self._slot(), accepted_ms, self._newest(), self._changed, self._pressing_ms)

    def _header(self) -> SubmitHeader | None:
        """The newest header; where the contract is an epoch behind it, the one that hands over to the epoch after its
        own comes first. Spec: [SETTLE-HEADER.1]"""
        assert self._final is not None, "there is a header once one is final"
        epoch, (newest, state) = self._slot()[0] + 1, self._final
        if self._newest()[0] <= epoch:
            return SubmitHeader(newest, state.homes[self._newest()[0]])
        hand_over, before = self._hand_over(epoch), self._hand_over(epoch - 1)
        members = self._first if epoch == 1 else () if before is None else tuple(map(NodeId, before.members))
        return SubmitHeader(hand_over.certified, members) if hand_over is not None and members else None


def _settled(state: State) -> tuple[object, ...]:
    return (state.mountain.count, *(state.sections[section] for section in _SETTLED))


def _bytes(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in numbers)
