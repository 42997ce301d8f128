"""Receipts of sessions that were not so: the wish, the order, the prompt, the bids and the assignments."""

from typing import Any

from msgspec import structs

from protocol.core.codec import decode, encode, pack
from protocol.core.genesis import parse_genesis
from protocol.core.ids import NO_GENERATION, NOBODY
from protocol.core.signing import payload_digest, typed_digest
from protocol.light.levels import Level
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.receipts import Receipt, SignedAssignment
from protocol.messages.sessions import Announcement, Bid, BidReceipt, BidSet, CountersignedBid
from tests.receipts_made import CLIENT, MINERS, ROUTER, Maker
from tests.unit.protocol.keys import Key
from tests.vectors.receipts.broken import RECEIPT, STRANGER, Named, other, with_
from tests.vectors.receipts.whole import EVERYTHING

TWO_LANES = Maker(level=Level.COMMITTED, lanes=2)
_DOMAIN = EVERYTHING.domain


def broken_sessions() -> Named:
    """The client did not sign this."""
    yield "a session of another client", with_("session.signature", STRANGER.sign(EVERYTHING.session))
    yield "a session that may cost more", with_("session.opening.cap_wei", 2**62)
    yield "a signature with its s in the upper half", with_("session.signature", bytes(32) + b"\xff" * 32 + b"\x1b")
    yield "a signature that recovers to no key", with_("session.signature", b"\xff" * 32 + bytes(31) + b"\x01\x1b")
    yield "a signature whose s is zero", with_("session.signature", b"\x01" * 32 + bytes(32) + b"\x1b")
    yield "a signature whose v is 0", with_("session.signature", CLIENT.sign(EVERYTHING.session)[:64] + b"\0")


def _ordered(signer: Key = CLIENT, **changed: Any) -> bytes:
    order = structs.replace(EVERYTHING.order, **changed)
    receipt = other(RECEIPT, "order", order)
    return pack(other(receipt, "order_signature", signer.sign(typed_digest(_DOMAIN, order))))


def broken_orders() -> Named:
    """The client did not order this, or not in this session."""
    yield "an order of the router", _ordered(ROUTER)
    yield "an order of another session", _ordered(session=b"\x55" * 32)


def broken_prompts() -> Named:
    """This was not asked."""
    yield "another question", with_("prompt.messages.0.content", "Where does a bear die?")
    yield "another role", with_("prompt.messages.0.role", "system")
    yield "another nonce", with_("prompt.nonce", bytes(32))
    yield "another temperature", with_("prompt.sampling.temperature_bp", 0)
    yield "a word to stop at", with_("prompt.sampling.stop", (b"bear",))
    yield "an order of another sampling", _ordered(sampling=b"\x55" * 32)


# Bids

_SET = decode(EVERYTHING.bid_set.payload)
assert isinstance(_SET, BidSet)
_OPENED = decode(_SET.announcement.payload)
_BID = decode(_SET.bids[0].bid.payload)
_NAMED = decode(_SET.bids[0].receipt.payload)


def _set(content: Any = _SET, signer: Key = ROUTER) -> bytes:
    return with_("bid_sets", (seal(_DOMAIN, signer.sign, content),))


def _announced(signer: Key = ROUTER, **changed: Any) -> bytes:
    """The round was opened so; receipts name the other opening, which is looked at later."""
    return _set(other(_SET, "announcement", seal(_DOMAIN, signer.sign, structs.replace(_OPENED, **changed))))


def _entry(made: Any = _BID, bidder: Key = MINERS[0], signer: Key = ROUTER, **changed: Any) -> bytes:
    """The first bid is another one, and its receipt is for it, or says something else."""
    sealed = seal(_DOMAIN, bidder.sign, made)
    said = {"bid": envelope_digest(_DOMAIN, sealed, Bid), **changed}
    receipt = seal(_DOMAIN, signer.sign, structs.replace(_NAMED, **said))
    return _set(other(_SET, "bids.0", CountersignedBid(sealed, receipt)))


def _drawn_of_many() -> bytes:
    """All bids are of a round for which one miner in a million is drawn."""
    opened = seal(_DOMAIN, ROUTER.sign, structs.replace(_OPENED, pool=4_000_000_000))
    round_ = envelope_digest(_DOMAIN, opened, Announcement)
    entries = []
    for entry in _SET.bids:
        receipt = decode(entry.receipt.payload)
        assert isinstance(receipt, BidReceipt)
        named = seal(_DOMAIN, ROUTER.sign, structs.replace(receipt, announcement=round_))
        entries.append(CountersignedBid(entry.bid, named))
    return _set(structs.replace(_SET, announcement=opened, bids=tuple(entries)))


def _raw(payload: bytes) -> bytes:
    return with_("bid_sets", (Envelope(payload, ROUTER.sign(payload_digest(_DOMAIN, "BidSet", payload))),))


def broken_bids() -> Named:
    """There was no such auction."""
    payload = EVERYTHING.bid_set.payload
    yield "a set signed by a miner", _set(signer=MINERS[0])
    yield "a set of another session", _set(other(_SET, "session", b"\x55" * 32))
    yield "a set that is an announcement", _raw(encode(_OPENED))
    yield "a set with a byte behind it", _raw(payload + b"\0")
    yield "a set with its kind in two bytes", _raw(payload[:1] + b"\xcc" + payload[1:])
    yield "a set that is nothing", _raw(b"")
    yield "one set twice", with_("bid_sets", (EVERYTHING.bid_set,) * 2)
    yield "two measurements of one miner", _set(other(_SET, "measurements", _SET.measurements * 2))
    yield "a round opened by another router", _announced(STRANGER)
    yield "a round in the name of another router", _announced(router=STRANGER.node)
    yield "a round of another model", _announced(model=b"\x55" * 32)
    yield "a round at another price", _announced(price_cap_wei=1_001)
    yield "a round for other lanes", _announced(lanes=2)
    yield "a round of which the receipts do not speak", _announced(pool=5)
    yield "a round by a router with an address", _announced(addresses=("/ip4/127.0.0.1/tcp/1",))
    yield "a bid in the name of another miner", _entry(bidder=MINERS[1])
    yield "a bid that its receipt does not name", _entry(other(_BID, "price_wei", 8), bid=_NAMED.bid)
    yield "a receipt signed by another router", _entry(signer=STRANGER)
    yield "a receipt of another session", _entry(session=b"\x55" * 32)
    yield "a receipt of another place", _entry(position=1)
    yield "miners that were not drawn", _drawn_of_many()


# Assignments


def _assigned(signer: Key = ROUTER, place: int = 0, of: Receipt = RECEIPT, **changed: Any) -> bytes:
    """An assignment is another one, and signed."""
    assignment = structs.replace(of.assignments[place].assignment, **changed)
    signature = signer.sign(typed_digest(parse_genesis(of.genesis).domain(), assignment))
    return pack(other(of, f"assignments.{place}", SignedAssignment(assignment, signature)))


def broken_assignments() -> Named:
    """No router of the session gave the lane to this miner."""
    lease = EVERYTHING.generation(1)
    miner, second = MINERS[0].node, MINERS[1].node
    yield "signed by a miner", _assigned(MINERS[0])
    yield "of a router that the client did not name", _assigned(STRANGER, router=STRANGER.node)
    yield "of another session", _assigned(session=b"\x55" * 32)
    yield "of a number that does not rise", _assigned(place=1, number=1)
    yield "of two lanes where one was asked for", _assigned(miners=(miner, second), generations=(lease, b"\x09" * 24))
    yield "of nobody", _assigned(miners=(NOBODY,), generations=(NO_GENERATION,))
    yield "of a miner without a lease", _assigned(generations=(NO_GENERATION,))
    yield "of a miner that did not bid", _assigned(miners=(STRANGER.node,))
    yield "of a bid set that is not here", _assigned(bid_set=b"\x55" * 32)
    yield "with a bid set that none names", _with_another_set()


def _with_another_set() -> bytes:
    another = seal(_DOMAIN, ROUTER.sign, structs.replace(_SET, measurements=()))
    return with_("bid_sets", (EVERYTHING.bid_set, another))


def broken_two_lanes() -> Named:
    """Lanes that are to be apart are not: of a session of two."""
    of, miner, lease = TWO_LANES.receipt(), MINERS[0].node, TWO_LANES.generation(1)
    yield "of one miner for two lanes", _assigned(of=of, miners=(miner, miner))
    yield "of one lease for two lanes", _assigned(of=of, generations=(lease, lease))
    yield "of one lane where two were asked for", _assigned(of=of, miners=(miner,), generations=(lease,))
