"""The model of the contracts with a committee at hand: ledgers become checkpoints, and time passes as a test says."""

import time
from collections.abc import Callable

import trio

from chain.api import TxId
from chain.model.blocks import ModelChain
from chain.model.client import ModelClient
from chain.model.deployed import ModelContracts
from chain.model.reading import ModelEndpoint
from p2pnode.settled_watch import Holds
from protocol.core.ids import Digest, NodeId
from protocol.messages.committee import Certified, header_digest
from protocol.messages.results import SettledNews
from tests.unit.chain.contracts_at_hand import CHAIN_ID, DOMAIN
from tests.unit.chain.side_by_side import terms
from tests.unit.chain.small_ledger import Book, finalized, root_of
from tests.unit.protocol.keys import key

COMMITTEE = tuple(key(number) for number in range(4))
WINDOW_S, DEAD_S = 10, 1_000
COIN = 10**20


class AtHand:
    """See the module. A block is mined whenever somebody waits for one."""

    def __init__(self) -> None:
        given = terms(
            unit=1, deposit_min=1, window_s=WINDOW_S, dead_s=DEAD_S, committee=tuple(k.node for k in COMMITTEE)
        )
        self.terms = given
        self.now_s = int(time.time())
        self.chain = ModelChain(ModelContracts.deploy(given, self.now_s), CHAIN_ID, self.now_s)
        self.submitter = self.client(NodeId(b"\x5b" * 20))
        self.height = 0
        self.proofs: dict[Digest, tuple[Certified, Book]] = {}

    def client(self, address: NodeId) -> ModelClient:
        """Somebody with coin."""
        self.chain.fund(address, COIN)
        return ModelClient(ModelEndpoint(self.chain), address, passes=self.mine)

    def mine(self) -> None:
        """The next block."""
        self.now_s += 1
        self.chain.mine(self.now_s)

    def passes(self, seconds: int) -> None:
        """Time goes by."""
        self.now_s += seconds
        self.mine()

    def checkpoint(self, book: Book) -> Certified:
        """A ledger becomes a checkpoint; it is not usable yet."""
        self.height += 1
        certified, members = finalized(DOMAIN, book.header(1, self.height, root_of(COMMITTEE)), COMMITTEE)
        self.submitter.wait(TxId(self.submitter.submit_checkpoint(certified, members)), 1)
        assert certified.header is not None
        self.proofs[header_digest(DOMAIN, certified.header)] = (certified, book)
        return certified


class Settling:
    """Stands in for what oracles say: the claims that a test gave, until one holds."""

    def __init__(self, at_hand: AtHand, otherwise: Callable[[], None]) -> None:
        self.claims: list[SettledNews] = []
        self._at_hand = at_hand
        self._otherwise = otherwise

    async def settled(self, session: bytes, task: int, holds: Holds, look_again_s: float) -> SettledNews:
        """See SettledWatch."""
        while True:
            for news in self.claims:
                if (news.outcome.session, news.outcome.task) == (session, task) and await holds(news):
                    return news
            self._otherwise()
            await trio.sleep(look_again_s)
