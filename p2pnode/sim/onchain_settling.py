"""What an oracle's node does with the chain, as ``p2pnode.chain_watch`` and ``p2pnode.chain_sender`` do it, but at once
and on the world's clock: it reads on, says what it read, and sends what the machine wants settled.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from chain.api import EventCursor, EventPage
from chain.errors import ChainError, HistoryChanged, NoFunds, Reverted
from chain.model.client import ModelClient
from p2pnode.sim.byzantine import ByzantineMachine
from p2pnode.sim.host import Boot, Dispatch, Part, Perform, Program
from protocol.core.ids import Digest, NodeId
from protocol.core.params import Params
from protocol.messages.chain import Accepted
from protocol.roles.oracle import AnchorsSeen, ChainLost, ChainSeen, ContractSeen, OracleMachine
from protocol.settlement.duty import RecordDraw, ReportEvidence, Settle, SubmitHeader
from protocol.settlement.words import AnchorBlock

POLL_MS = 250
LATENCY_MS = 150
"""From a wish to the network, at most."""
PAGE_EVENTS = 8
"""Small, so that worlds have pages."""
BLOCKS_SHOWN = 4


@dataclass(slots=True)
class SettlingProgram:
    """An oracle's program with eyes on the chain; what it has sent outlives it."""

    inner: Program
    client: ModelClient
    params: Params
    me: NodeId
    rng: Random

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        (part,) = self.inner.start(boot)
        machine = part.machine.inner if isinstance(part.machine, ByzantineMachine) else part.machine
        assert isinstance(machine, OracleMachine)
        settling = Settling(machine, self.client, self.params, self.me, self.rng, boot.later)
        return [Part(part.machine, settling.performers)]


class Settling:
    """One life of it."""

    def __init__(
        self,
        machine: OracleMachine,
        client: ModelClient,
        params: Params,
        me: NodeId,
        rng: Random,
        later: Callable[[int, Callable[[], None]], None],
    ) -> None:
        self._machine = machine
        self._client = client
        self._params = params
        self._me = me
        self._rng = rng
        self._later = later
        self._dispatch: Dispatch = lambda _: None
        self._cursor: EventCursor | None = None
        self._wishes: dict[tuple[type, bytes], Settle] = {}

    def performers(self, dispatch: Dispatch) -> Mapping[type, Perform]:
        """What takes the machine's effects."""
        self._dispatch = dispatch
        self._later(self._rng.randrange(POLL_MS * 1_000), self._poll)
        return {SubmitHeader: self._take, RecordDraw: self._take, ReportEvidence: self._take}

    # Looking

    def _poll(self) -> None:
        try:
            self._once()
        except HistoryChanged:
            self._cursor = None
            self._dispatch(ChainLost())
        except ChainError:
            pass  # it is asked again soon
        self._later(POLL_MS * 1_000, self._poll)

    def _once(self) -> None:
        more = True
        while more and not self._machine.chain.full:
            more = self._read_on()
        last, due = self._client.latest_checkpoint(), self._client.undrawn()
        accepted = None if last is None else Accepted(last.epoch, last.height, last.digest)
        self._dispatch(ContractSeen(accepted, None if due is None else due.epoch))
        self._work()

    def _read_on(self) -> bool:
        chain = self._machine.chain
        if self._cursor is None or self._cursor.number != chain.through:
            number, name = chain.cursor
            self._cursor = EventCursor(number, Digest(name)) if number else self._client.start()
            if number != chain.through:
                self._dispatch(ChainLost())
        before = self._cursor
        page, blocks = self._page(before)
        self._dispatch(AnchorsSeen(tuple(self._client.block_header(block.hash) for block in blocks)))
        if page.through > before.number:
            self._dispatch(ChainSeen(chain.through, page.through, page.events, blocks))
        self._cursor = page.cursor
        return page.more and chain.through == page.through

    def _page(self, cursor: EventCursor) -> tuple[EventPage, tuple[AnchorBlock, ...]]:
        page, stride = self._client.events(cursor, PAGE_EVENTS), self._params.anchor_stride
        last = page.through // stride * stride
        numbers = [number for number in range(last - (BLOCKS_SHOWN - 1) * stride, last + 1, stride) if number > 0]
        return page, tuple(AnchorBlock(number, self._client.block_at(number).hash) for number in numbers)

    # Sending

    def _take(self, effect: object) -> None:
        assert isinstance(effect, SubmitHeader | RecordDraw | ReportEvidence)
        of = effect.convicted if isinstance(effect, ReportEvidence) else b""
        self._wishes[type(effect), of] = effect
        self._later(self._rng.randrange(LATENCY_MS * 1_000), self._hurry)

    def _hurry(self) -> None:
        with suppress(ChainError):  # the next look tries again
            self._work()

    def _work(self) -> None:
        """What the contract refuses is none any more; where it cannot be reached, all of it waits."""
        for name, wish in list(self._wishes.items()):
            with suppress(Reverted, NoFunds):
                self._send(wish)
            self._wishes.pop(name, None)
        self._client.maintain()

    def _send(self, wish: Settle) -> None:
        match wish:
            case SubmitHeader(certified=certified, members=members):
                last, header = self._client.latest_checkpoint(), certified.certificate
                if last is None or (last.epoch, last.height) < (header.epoch, header.height):
                    self._client.submit_checkpoint(certified, members)
            case RecordDraw(epoch=epoch):
                due = self._client.undrawn()
                if due is not None and due.epoch == epoch:
                    self._client.draw(due)
            case ReportEvidence(evidence=evidence):
                self._client.slash(evidence, self._me)
