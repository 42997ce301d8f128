"""How miners are chosen and held: announcement, bid, lease, assignment; and the client's side of a session."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.ids import SessionId
from protocol.core.signing import (
    U8,
    U32,
    U64,
    Bytes20,
    Bytes24,
    Bytes32,
    Domain,
    SignatureBytes,
    TypedStruct,
    typed_digest,
)
from protocol.messages.adverts import Address
from protocol.messages.envelope import Envelope

LEASE_ORDERS_MAX = 64
ROUTERS_MAX = 4
BIDS_MAX = 128
LANES_MAX = 16


class SessionOpen(TypedStruct, frozen=True):
    """The client's signed wish for a session; its digest is the session id."""

    client: Bytes20
    routers: Annotated[tuple[Bytes20, ...], Meta(min_length=1, max_length=ROUTERS_MAX)]
    """Any of these may serve the session."""
    model: Bytes32
    lanes: Annotated[int, Meta(ge=1, le=LANES_MAX, extra={"eip712": "uint8"})]
    price_cap_wei: U64
    """The most the client pays for a token."""
    cap_wei: U64
    """The most the whole session may cost: the ledger reserves it from the client's balance."""
    tasks_max: U32
    expires_ms: U64
    audits: bool
    """The client lets oracles open its tasks to score them."""
    nonce: Bytes32
    header: Bytes32
    """A recent finalized header, zero where there is no committee."""


class RouterTerm(TypedStruct, frozen=True):
    """The client's signed word that another of its routers serves the session from now on."""

    session: Bytes32
    router: Bytes20
    after: U32
    """Assignments of this router carry greater numbers than this, those of earlier routers none."""


class SignedTerm(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A RouterTerm and the client's signature over it."""

    term: RouterTerm
    signature: SignatureBytes


def session_id(domain: Domain, opening: SessionOpen) -> SessionId:
    """The id of a session: what the client signed. Spec: [SESSION-ID.1]"""
    return SessionId(typed_digest(domain, opening))


@message(kind=3, limit_bytes=4_096)
class Announcement(Message, frozen=True):
    """A router asks for bids on a session (topic ``sessions``)."""

    session: Bytes32
    router: Bytes20
    addresses: Annotated[tuple[Address, ...], Meta(max_length=8)]
    model: Bytes32
    lanes: U8
    price_cap_wei: U64
    pool: U32
    """Miners of the model the router knows: the lottery's threshold follows from it."""
    widening: U8
    """Doublings of the lottery's threshold, when too few bid before."""
    issued_ms: U64


@message(kind=4, limit_bytes=1_024)
class Bid(Message, frozen=True):
    """A miner's offer to serve a session; stated figures are claims, weighed against what was measured."""

    session: Bytes32
    miner: Bytes20
    model: Bytes32
    price_wei: U64
    slots_free: U32
    slots_total: U32
    tokens_per_second: U32
    """Of one stream, as the miner measured itself lately; 0 when it has not yet."""
    first_token_ms: U32
    context_tokens: U32
    issued_ms: U64


@message(kind=5, limit_bytes=1_024)
class BidReceipt(Message, frozen=True):
    """The router's countersignature: holding it, a miner can prove that its bid was left out."""

    bid: Bytes32
    """The digest the bid's signature covers."""
    session: Bytes32
    position: U32
    announcement: Bytes32
    """The digest of the announcement whose round took the bid: a session may need several rounds."""


class CountersignedBid(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A bid as the miner signed it and the router's receipt for it."""

    bid: Envelope
    receipt: Envelope


class Measurement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the router itself measured of a miner: smoothed, published with the bid set."""

    miner: Bytes20
    tasks: U32
    tokens_per_second: U32
    first_token_ms: U32
    success_bp: U32


@message(kind=6, limit_bytes=65_536)
class BidSet(Message, frozen=True):
    """Everything the pick was computed from; signed by the router, its digest is in the assignment."""

    session: Bytes32
    announcement: Envelope
    """What opened the round, as the router signed it: its pool and widening say who was eligible."""
    bids: Annotated[tuple[CountersignedBid, ...], Meta(max_length=BIDS_MAX)]
    measurements: Annotated[tuple[Measurement, ...], Meta(max_length=BIDS_MAX)]


class Assignment(TypedStruct, frozen=True):
    """Which miner runs which lane, under which lease. Numbers of a session only rise."""

    session: Bytes32
    number: U32
    router: Bytes20
    miners: Annotated[tuple[Bytes20, ...], Meta(min_length=1, max_length=LANES_MAX)]
    """Lane i is run by ``miners[i]``; zero where a lane has nobody at present."""
    generations: Annotated[tuple[Bytes24, ...], Meta(min_length=1, max_length=LANES_MAX)]
    bid_set: Bytes32


# Between client and router, protocol ``client``


@message(kind=12, limit_bytes=2_048)
class OpenSession(Message, frozen=True):
    """The client opens a session."""

    opening: SessionOpen
    signature: SignatureBytes
    timeout_ms: U32
    """How long the client waits for miners, queueing included."""
    tokens: U32
    """Tokens the client expects to ask for first: what the session weighs in the router's queue."""
    term: SignedTerm | None = None
    """Set when another router, or another life of this one, served the session before."""


@message(kind=13, limit_bytes=131_072)
class SessionReady(Message, frozen=True):
    """Miners are leased; orders may follow. The client recomputes the pick from the bid set.

    The miner of lane 0 is shown the first one of its lease too, by routers that keep receipts.
    """

    session: Bytes32
    assignment: Assignment
    signature: SignatureBytes
    bid_set: Envelope
    addresses: Annotated[tuple[Address, ...], Meta(max_length=8)] = ()
    """Where the miner of lane 0 says that it can be dialed: a client may take its frames directly."""


@message(kind=14, limit_bytes=2_048)
class SessionEnded(Message, frozen=True):
    """The session was refused or is over; ``code`` is one of :data:`protocol.session.lifecycle.TERMINAL_CODES`."""

    session: Bytes32
    code: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=1_024)]
    retry_after_ms: U32


@message(kind=15, limit_bytes=256)
class CloseSession(Message, frozen=True):
    """The client is done with the session."""

    session: Bytes32
    signature: SignatureBytes | None = None
    """Of its SessionClose: with that the router has the ledger free what was reserved."""


@message(kind=20, limit_bytes=128)
class ResumeSession(Message, frozen=True):
    """A client whose stream was lost is back: send what it missed, as it was sent."""

    session: Bytes32
    received: U32
    """Messages of this session that arrived before."""


@message(kind=21, limit_bytes=128)
class SessionResumed(Message, frozen=True):
    """The router still holds the session; what was missed follows."""

    session: Bytes32
    last_task: U32
    """The latest order that arrived."""


# Between router and miner, protocol ``task``


@message(kind=30, limit_bytes=4_096)
class LeaseRequest(Message, frozen=True):
    """A router asks a miner for a slot on the strength of its bid."""

    opening: SessionOpen
    signature: SignatureBytes
    bid: Bytes32
    term: SignedTerm | None = None
    """The router's right to the session where it is not the first to serve it."""


@message(kind=31, limit_bytes=256)
class LeaseGrant(Message, frozen=True):
    """One slot is held for the session, idle for at most ``idle_ms``."""

    session: Bytes32
    generation: Bytes24
    idle_ms: U32
    orders: Annotated[int, Meta(ge=1, le=LEASE_ORDERS_MAX)] = 1
    """So many the miner runs at once, as long as nobody else has the slots beside the one that is held."""


@message(kind=32, limit_bytes=512)
class LeaseBusy(Message, frozen=True):
    """No slot; a miner alone decides over its slots."""

    session: Bytes32
    retry_after_ms: U32
    detail: Annotated[str, Meta(max_length=256)]
    term: SignedTerm | None = None
    """By which another router serves the session: the one that reads this does not any more."""


@message(kind=33, limit_bytes=128)
class LeaseRelease(Message, frozen=True):
    """Either side ends the lease."""

    session: Bytes32
