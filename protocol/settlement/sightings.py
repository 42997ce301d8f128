"""What a node has seen of its chain after the ledger's anchor: events of final blocks, all of them, in order.

A node's view of the chain comes from RPC servers, which may be late or lie. It is compared with what the ledger takes
in from f+1 oracles, and given up where the two differ.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.ledger.chain import ChainState
from protocol.messages.chain import Accepted, ChainEvent, ChainWord, run_digest
from protocol.settlement.words import AnchorBlock, next_word

EVENTS_MAX = 1_024
"""Events that wait for the ledger to take them in; a page that begins below it is taken whole."""
BLOCKS_MAX = 4
"""Stride blocks that are remembered: an oracle sees the chain at other moments than the others do."""

Seen = tuple[int, ChainEvent]
"""An event and the number of its block."""


class Sightings:
    """See the module. Bounded by EVENTS_MAX and the size of a page. Spec: [CHAIN-SEEN.1]"""

    def __init__(self, chain: ChainState, stride: int) -> None:
        self._chain = chain
        self._stride = stride
        self._events: deque[Seen] = deque()
        """Those that the ledger has not taken in."""
        self._blocks: deque[AnchorBlock] = deque(maxlen=BLOCKS_MAX)
        self._taken_to = 0
        """The block of the last event that the ledger has beyond its anchor, as far as that was seen."""
        self._skip = chain.beyond
        """Events that the ledger has beyond it, and that were not seen: the next ones."""
        self.through = chain.number
        """All events up to this block are here, or in the ledger."""

    @property
    def cursor(self) -> AnchorBlock:
        """After which block to read where nothing was seen, or it was given up: the ledger's anchor."""
        return AnchorBlock(self._chain.number, Digest(self._chain.hash))

    @property
    def accepted(self) -> Accepted | None:
        """The last checkpoint that the ledger knows of."""
        return self._chain.accepted

    @property
    def full(self) -> bool:
        """Whether the ledger is to take in some before more is read."""
        return len(self._events) >= EVENTS_MAX

    def forget(self) -> None:
        """Everything is to be read again."""
        self._events.clear()
        self._blocks.clear()
        self._taken_to, self._skip = 0, self._chain.beyond
        self.through = self._chain.number

    def see(self, after: int, through: int, events: Iterable[Seen], blocks: Iterable[AnchorBlock]) -> bool:
        """More of the chain; False, and nothing is taken, where it does not go on from what is here."""
        page = list(events)
        numbers = [after + 1, *(number for number, _ in page), through]
        if after != self.through or self.full or through < after or (page and numbers != sorted(numbers)):
            return False
        known = page[: self._skip]
        self._skip -= len(known)
        self._taken_to = max([self._taken_to, *(number for number, _ in known)])
        self._events += page[len(known) :]
        self.through = through
        last = self._blocks[-1].number if self._blocks else self._chain.number
        for block in sorted(blocks):
            if last < block.number <= through and block.number % self._stride == 0:
                self._blocks.append(block)
                last = block.number
        return True

    # What the ledger takes in

    def anchored(self, chain: ChainState) -> bool:
        """The ledger stands here now. False where it has taken in something else than was seen: that is given up."""
        before, self._chain = self._chain, chain
        count = chain.events - before.events
        taken = [self._events.popleft() for _ in range(min(count, len(self._events)))]
        agrees = self._agrees(before, chain, taken, count - len(taken))
        self._skip += count - len(taken)
        self._taken_to = max([self._taken_to, *(number for number, _ in taken)])
        while self._blocks and self._blocks[0].number <= chain.number:
            self._blocks.popleft()
        if chain.number > self.through or not agrees:
            self.forget()
        return agrees

    def _agrees(self, before: ChainState, after: ChainState, taken: Sequence[Seen], unseen: int) -> bool:
        """Whether the events that it took in now are those that were seen, and its anchor is where they end."""
        if not self._skip and not unseen:
            digest: bytes = before.digest
            for _, event in taken:
                digest = run_digest(digest, event)
            if digest != after.digest:
                return False
        if self._events and self._events[0][0] <= after.number:
            return False  # it leaves out an event
        if not before.number < after.number <= self.through:
            return True
        beyond = sum(number > after.number for number, _ in taken) + self._skip + unseen
        mine = next((block.hash for block in self._blocks if block.number == after.number), after.hash)
        return self._taken_to <= after.number and beyond == after.beyond and mine == after.hash

    # What is true here

    def words(self) -> tuple[ChainWord, ...]:
        """The words that are true here, each once, the one that leads furthest at the end."""
        if self._skip:
            return ()  # the ledger is further than what was seen here
        found = []
        waiting = [event for _, event in self._events]
        word = next_word(self._chain, waiting, AnchorBlock(self.through, ZERO_DIGEST))
        if len(word.events) < len(waiting):
            found.append(word)  # it leads to no block, so it is true without one
        for block in self._blocks:
            if block.number >= self._taken_to:
                within = [event for number, event in self._events if number <= block.number]
                found.append(next_word(self._chain, within, block))
        return tuple(dict.fromkeys(found))
