"""Raises a receipt: asks routers, miners and oracles for what proves more of its answer, and the chain what is settled.

Nobody who is asked is believed: what comes is put into a copy of the receipt, and the copy replaces it if it holds, and
proves more.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import trio
from msgspec.structs import replace as replaced

from chain.api import Proving
from chain.errors import ChainError
from p2pnode.address import RouterAddress
from p2pnode.chain_access import open_proving
from p2pnode.light_asker import LightAsker, NotTold, Told, asking
from p2pnode.transport.seam import Transport, TransportError
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import parse_genesis
from protocol.core.ids import Digest, NodeId
from protocol.light.handovers import HandOverBook
from protocol.light.headers import HeaderTrust, place
from protocol.light.levels import Level
from protocol.light.proofs import with_committees
from protocol.light.raising import raised_by_outcome, raised_by_receipt, raised_by_settled
from protocol.light.receipt import Invalid, verify_receipt
from protocol.messages.committee import Certified, header_digest
from protocol.messages.handover import HandOver
from protocol.messages.receipts import Receipt
from protocol.messages.results import SettledNews

CONNECT_MS = 10_000

Found = TypeVar("Found")
Tell = Callable[[str], None]
"""Told, line by line, what came of each question."""


def level_of(receipt: Receipt, trust: HeaderTrust) -> Level | None:
    """What a receipt proves to a reader; None if a link of it is broken.

    A settlement without its proof counts: whoever calls this has asked the chain.
    """
    verdict = verify_receipt(receipt, trust, accepted=lambda _digest: True)
    return None if isinstance(verdict, Invalid) else verdict.level


async def reached(transport: Transport, address: RouterAddress) -> NodeId:
    """A node, once it can be asked. Raises TransportError."""
    return await transport.connect(str(replace(address, network=None)), timeout_ms=CONNECT_MS)


@dataclass
class Refreshing:
    """See the module. ``receipt`` is the best that there is."""

    receipt: Receipt
    book: HandOverBook
    """Whom the reader believes; it learns what nodes show."""
    tell: Tell

    def __post_init__(self) -> None:
        self.genesis = parse_genesis(self.receipt.genesis)
        self._domain = self.genesis.domain()
        self.answered = 0
        """How many nodes had something to say."""
        self._settled: list[SettledNews] = []
        """Headers that are said to settle the outcome."""
        self._head: Certified | None = None
        """The newest final one that anybody showed."""
        self._learn(self.receipt.hand_overs)

    @property
    def level(self) -> Level | None:
        """What it proves by now."""
        return level_of(self.receipt, self.book.trust)

    async def ask(self, transport: Transport, address: RouterAddress) -> None:
        """Ask one node; why it does not help is told."""
        try:
            async with asking(transport, await reached(transport, address)) as asker:
                await self.take_from(asker)
        except (TransportError, NotTold) as error:
            self.tell(f"{address.multiaddr}: {error}")

    async def take_from(self, asker: LightAsker) -> None:
        """Take what one node has to tell. Raises NotTold if it has not all of it."""
        order = self.receipt.order
        with suppress(NotTold):
            self._offer(raised_by_receipt, await asker.receipt(order.session, order.task))
            self.answered += 1
        told = await asker.outcome(order.session, order.task)
        self.answered += 1
        await self._follow(asker, told)
        self._offer(raised_by_outcome, told.final)
        if told.settled is not None:
            self._settled.append(told.settled)
        if told.head is not None:
            self._see(told.head)

    def _see(self, head: Certified) -> None:
        """The newest header that is final to this reader: what anchors a block is to be believed."""
        with suppress(RemoteProtocolError):
            header, before = self.book.trust.check(head), self._head
            if before is None or before.header is None or place(header) > place(before.header):
                self._head = head

    async def _follow(self, asker: LightAsker, told: Told) -> None:
        """Learn the committees that lead to what was told."""
        settled = None if told.settled is None else told.settled.certified
        shown = [each for each in (told.final.certified, settled, told.head) if each is not None]
        last = max(certified.certificate.epoch for certified in shown) - 1
        first = self.book.trust.wanted
        if last >= first:
            self._learn(await asker.hand_overs(first, last))

    def _learn(self, hand_overs: Sequence[HandOver]) -> None:
        with suppress(RemoteProtocolError):
            for hand_over in hand_overs:
                self.book.skip(hand_over)

    def _offer(self, raise_: Callable[[Receipt, Found], Receipt], found: Found) -> None:
        """Take what was found if the receipt holds with it, and proves more."""
        try:
            raised = raise_(self.receipt, found)
        except RemoteProtocolError as error:
            self.tell(f"what was told is of no use: {error}")
            return
        if raised != self.receipt:
            self._take(raised)

    def _take(self, raised: Receipt) -> None:
        """The committees may be led to by what is known here, or by what came along."""
        self._learn(raised.hand_overs)
        best, receipt = self.level, None
        for candidate in (raised, with_committees(self._domain, raised, self.book)):
            level = level_of(candidate, self.book.trust)
            if level is not None and (best is None or level >= best):
                best, receipt = level, candidate
        if receipt is None:
            self.tell("what was told does not hold")
        else:
            self.receipt = receipt

    # The chain

    async def ask_chain(self, urls: Sequence[str]) -> None:
        """Ask the chain which of the headers it accepted. Raises WrongChain."""
        await trio.to_thread.run_sync(self._settle, urls)

    def _settle(self, urls: Sequence[str]) -> None:
        if self.receipt.final is None or self.genesis.contracts is None:
            self.tell("only what is final, in a network with contracts, can be settled")
            return
        chain = open_proving(self.genesis, urls)
        try:
            for news in self._settled if self.receipt.settled is None else []:
                header = news.certified.header
                if header is not None and chain.accepted(Digest(header_digest(self._domain, header))) is not None:
                    self._offer(raised_by_settled, news)
                    break
            self._prove(chain)
        except ChainError as error:
            self.tell(f"the chain: {error}" + (f" ({error.hint})" if error.hint else ""))

    def _prove(self, chain: Proving) -> None:
        """Add the proof by which who asks no chain can tell that it is settled."""
        settled = self.receipt.settled
        if settled is None:
            self.tell("no header that holds the outcome is known to be accepted by the contract")
            return
        if settled.evm is not None or self._head is None or settled.certified.header is None:
            return
        proof = chain.settled_proof(self._domain, settled.certified.header, self._head)
        if proof is None:
            self.tell("accepted, but the committee has not anchored a block after that yet: ask again in a moment")
            return
        self._take(replaced(self.receipt, settled=replaced(settled, evm=proof)))
