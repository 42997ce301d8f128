"""The verifier in JavaScript computes the auctions of sessions again as Python does: who was drawn, who ranks where."""

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from msgspec import structs

from protocol.core.codec import pack
from protocol.core.errors import AuctionError
from protocol.core.signing import typed_digest
from protocol.light.levels import Level
from protocol.light.receipt import Link, verify_receipt
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.receipts import SignedAssignment
from protocol.messages.sessions import Announcement, Bid, BidReceipt, BidSet, CountersignedBid, Measurement
from protocol.session.auction import recompute_auction, terms_of
from tests.browser.node import question, verdicts
from tests.receipts_made import MODEL, NOW_MS, ROUTER, Maker
from tests.unit.browser.test_verifier import needs_node
from tests.unit.protocol.keys import key

AUCTIONS = 40
BIDDERS = tuple(key(500 + number) for number in range(9))
EDGES = (0, 1, 39, 40, 41, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class _Drawn(Maker):
    """A session with an auction by chance: some bids are of no use, some bidders may not have been drawn."""

    seed: int = 0

    @cached_property
    def bid_set(self) -> Envelope:
        """See Maker."""
        chance = random.Random(self.seed)

        def number() -> int:
            return chance.choice(EDGES) if chance.random() < 0.3 else chance.randrange(200)

        pool = chance.choice((4, 32, 33, 60, 2**32 - 1) if self.seed % 4 == 0 else (9, 32))
        asked = Announcement(self.session, ROUTER.node, (), MODEL, self.lanes, 1_000, pool, chance.randrange(4), NOW_MS)
        opened = seal(self.domain, ROUTER.sign, asked)
        round_ = envelope_digest(self.domain, opened, Announcement)
        entries = []
        bidders = chance.choices(BIDDERS, k=9) if self.seed % 3 else list(BIDDERS)
        for position, bidder in enumerate(bidders):
            price, slots = chance.choice((0, 7, 500, 1_000, 1_000, 1_001)), chance.randrange(5)
            free = min(slots, chance.randrange(4))
            offer = Bid(self.session, bidder.node, MODEL, price, free, slots, number(), number(), number(), NOW_MS)
            bid = seal(self.domain, bidder.sign, offer)
            named = BidReceipt(envelope_digest(self.domain, bid, Bid), self.session, position, round_)
            entries.append(CountersignedBid(bid, seal(self.domain, ROUTER.sign, named)))
        measured = chance.sample(BIDDERS, chance.randrange(6))
        seen = tuple(Measurement(miner.node, number(), number(), number(), number() * 100) for miner in measured)
        return seal(self.domain, ROUTER.sign, BidSet(self.session, opened, tuple(entries), seen))

    def assignment(self, number: int) -> SignedAssignment:
        """To one of those in the ranking, and to others in the other lanes."""
        made = super().assignment(number).assignment
        try:
            terms = terms_of(self.domain, self.opening)
            auction = recompute_auction(self.domain, self.genesis.params, terms, ROUTER.node, self.bid_set)
            order = auction.ranking.order or (BIDDERS[0].node,)
        except AuctionError:
            order = (BIDDERS[0].node,)
        first = order[self.seed % len(order)]
        miners = (first, *[bidder.node for bidder in BIDDERS if bidder.node != first][: self.lanes - 1])
        assignment = structs.replace(made, miners=miners)
        return SignedAssignment(assignment, ROUTER.sign(typed_digest(self.domain, assignment)))


@needs_node
@pytest.mark.spec("RECEIPT-BIDS.1", "AUCTION-SCORE.1", "AUCTION-PICK.1", "AUCTION-LOTTERY.1")
def test_auctions_by_chance_come_to_one_ranking() -> None:
    made = [_Drawn(level=Level.STREAMED, lanes=1 + seed % 3, seed=seed) for seed in range(AUCTIONS)]
    files = [pack(maker.receipt()) for maker in made]
    said = [_found(answer["links"]) for answer in verdicts(question(data) for data in files)]
    expected = [_found([_plain(checked) for checked in verify_receipt(data).links]) for data in files]
    assert said == expected
    marks = [tuple(links.values()) for links in expected]
    assert sum("number" in why for _, (mark, why) in marks if mark == "holds") > AUCTIONS // 2, "most of them hold"
    assert any(mark == "failed" for (mark, _), _ in marks), "and in some a bidder was not drawn"


def _plain(checked: Any) -> dict[str, str]:
    return {"link": checked.link.value, "mark": checked.mark.value, "why": checked.why}


def _found(links: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    """What became of the auction; how it is worded that something is wrong is each verifier's own."""
    about = (Link.BIDS, Link.ASSIGNMENT)
    return {
        each["link"]: (each["mark"], each["why"] if each["mark"] == "holds" else "")
        for each in links
        if each["link"] in about
    }
