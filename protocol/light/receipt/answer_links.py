"""The links from the client's wish to the answer's signed end: all of them can be checked without trusting anybody."""

from collections.abc import Iterable

from protocol.core.errors import AuctionError, RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import typed_digest
from protocol.light.receipt.reading import Reading
from protocol.light.receipt.verdict import LinkBroken, LinkSkipped, expect
from protocol.messages.envelope import envelope_digest, unseal
from protocol.messages.receipts import SegmentRecord, SignedAssignment
from protocol.messages.sessions import BidSet
from protocol.messages.tasks import Ack, Frame
from protocol.session.auction import check_assigned, recompute_auction, terms_of
from protocol.session.transcript import advance

_HEAD_FROM_ORDER = ("session", "task", "lane", "order", "prompt", "model", "sampling")
_HEAD_FROM_ASSIGNMENT = ("generation", "miner", "router", "price_wei", "start_index", "previous_head")


def check_session(at: Reading) -> str:
    """The client signed the SessionOpen, whose digest is the session's id. Spec: [RECEIPT-SESSION.1]"""
    signed = at.receipt.session
    at.signed(at.session, signed.signature, signed.opening.client, "the session")
    return f"client {_short(signed.opening.client)} opened session {_short(at.session)}"


def check_order(at: Reading) -> str:
    """The client signed the order, which names the session. Spec: [RECEIPT-ORDER.1]"""
    receipt = at.receipt
    expect("the order names another session", at.session, receipt.order.session)
    at.signed(at.order, receipt.order_signature, receipt.session.opening.client, "the order")
    return f"order {receipt.order.task}, at most {receipt.order.max_tokens} tokens"


def check_prompt(at: Reading) -> str:
    """The prompt and its sampling are those of the order. Spec: [RECEIPT-PROMPT.1]"""
    prompt, order = at.receipt.prompt, at.receipt.order
    if prompt is None:
        raise LinkSkipped("redacted: the prompt is not shown")
    expect("the prompt has another commitment", order.prompt, prompt.commitment())
    expect("the sampling has another digest", order.sampling, prompt.sampling.digest())
    return f"{len(prompt.messages)} messages"


def check_bids(at: Reading) -> str:
    """Each bid set is of a router of the session; its auction is computed again. Spec: [RECEIPT-BIDS.1]"""
    opening = at.receipt.session.opening
    terms, bids = terms_of(at.domain, opening), 0
    for envelope in at.receipt.bid_sets:
        try:
            _, router = unseal(at.domain, envelope, BidSet)
        except RemoteProtocolError as error:
            raise LinkBroken(f"the bid set: {error}") from error
        if router not in opening.routers:
            raise LinkBroken("the bid set is signed by no router of the session", _any(opening.routers), router)
        try:
            auction = recompute_auction(at.domain, at.genesis.params, terms, router, envelope)
        except AuctionError as error:
            raise LinkBroken(str(error)) from error
        digest = envelope_digest(at.domain, envelope, BidSet)
        if digest in at.auctions:
            raise LinkBroken("one bid set twice", "each once", digest)
        at.auctions[digest] = router, auction
        bids += len(auction.prices_wei)
    return f"{bids} usable bids, every signature checked, the ranking computed again"


def check_assignment(at: Reading) -> str:
    """A router of the session signed each assignment, their numbers rise, and each gives lane 0 to a miner of the bid
    set that it names. Spec: [RECEIPT-ASSIGNMENT.1]"""
    opening, number, named = at.receipt.session.opening, -1, list[Digest]()
    terms = terms_of(at.domain, opening)
    for signed in at.receipt.assignments:
        assignment = signed.assignment
        try:
            check_assigned(terms, opening, assignment)
        except AuctionError as error:
            raise LinkBroken(str(error)) from error
        at.signed(typed_digest(at.domain, assignment), signed.signature, assignment.router, "the assignment")
        if assignment.number <= number:
            raise LinkBroken("the numbers of assignments rise", f"more than {number}", assignment.number)
        number, digest = assignment.number, Digest(assignment.bid_set)
        router, auction = at.auctions.get(digest, (b"", None))
        if auction is None:
            raise LinkBroken("the assignment names a bid set that is not here", _any(at.auctions), digest)
        expect("the bid set is signed by another router", assignment.router, router)
        if NodeId(assignment.miners[0]) not in auction.ranking.scores:
            raise LinkBroken(
                "lane 0 goes to a miner without a usable bid", _any(auction.prices_wei), assignment.miners[0]
            )
        named.append(digest)
    expect("the assignments name other bid sets, or in another order", list(dict.fromkeys(named)), [*at.auctions])
    last = at.receipt.assignments[-1].assignment
    _, auction = at.auctions[named[-1]]
    assert auction is not None
    rank = auction.ranking.order.index(NodeId(last.miners[0])) + 1
    return f"miner {_short(last.miners[0])}, number {rank} of the ranking, by router {_short(last.router)}"


def check_segments(at: Reading) -> str:
    """Each head binds what was ordered and assigned, and follows on the segment before. Spec: [RECEIPT-SEGMENTS.1]"""
    segments, assignments = at.receipt.segments, at.receipt.assignments
    expect("there is one assignment for each segment", len(segments), len(assignments))
    index, chain, leases = 0, bytes(ZERO_DIGEST), set[bytes]()
    for place, (segment, signed) in enumerate(zip(segments, assignments, strict=True)):
        _check_head(at, segment, signed, index, chain)
        if segment.head.generation in leases:
            raise LinkBroken("one lease has two segments", "each its own", segment.head.generation)
        leases.add(segment.head.generation)
        least = index + (place < len(segments) - 1)
        if segment.index < least:
            raise LinkBroken("a segment ends before it starts, or is empty", f"{least} or more", segment.index)
        index, chain = segment.index, segment.chain
    return "one miner" if len(segments) == 1 else f"{len(segments)} segments, each from where the one before ended"


def _check_head(at: Reading, segment: SegmentRecord, signed: SignedAssignment, index: int, chain: bytes) -> None:
    head, order, assignment = segment.head, at.receipt.order, signed.assignment
    _, auction = at.auctions[Digest(assignment.bid_set)]
    miner = NodeId(assignment.miners[0])
    ordered = (at.session, order.task, 0, at.order, order.prompt, at.receipt.session.opening.model, order.sampling)
    price = auction.prices_wei[miner]
    assigned = (assignment.generations[0], miner, assignment.router, price, index, chain)
    for name, expected in zip((*_HEAD_FROM_ORDER, *_HEAD_FROM_ASSIGNMENT), (*ordered, *assigned), strict=True):
        expect(f"the segment's head has another {name}", expected, getattr(head, name))


def check_tokens(at: Reading) -> str:
    """Token by token the chain leads from each segment's head to its last frame. Spec: [RECEIPT-TOKENS.1]"""
    receipt = at.receipt
    tokens = receipt.tokens
    if tokens is None:
        raise LinkSkipped("redacted: the tokens are not shown")
    segments = receipt.segments
    expect("as many tokens as the last frame signs", segments[-1].index, len(tokens.ids))
    expect("as many texts as tokens", len(tokens.ids), len(tokens.texts))
    for place, (segment, start) in enumerate(zip(segments, at.segments, strict=True)):
        chain = start
        for index in range(segment.head.start_index, segment.index):
            chain = advance(chain, index + 1, tokens.ids[index], tokens.texts[index])
            at.chains[index + 1] = chain
        last = place == len(segments) - 1
        expect("the tokens lead to another chain", receipt.chain if last else segment.chain, chain)
    return f"{len(tokens.ids)} tokens"


def check_frames(at: Reading) -> str:
    """Each segment's miner signed its last frame, and with it all before. Spec: [RECEIPT-FRAMES.1]"""
    segments = at.receipt.segments
    for place, (segment, name) in enumerate(zip(segments, at.segments, strict=True)):
        frame = Frame(name, segment.index, segment.chain, place == len(segments) - 1)
        what = f"the frame of segment {place} that ends with token {segment.index}"
        at.signed(typed_digest(at.domain, frame), segment.signature, segment.head.miner, what)
    return f"signed by {' and '.join(_short(segment.head.miner) for segment in segments)}"


def check_end(at: Reading) -> str:
    """The last frame signs this end record, with this usage. Spec: [RECEIPT-END.1]"""
    end, last = at.receipt.end, at.receipt.segments[-1]
    expect("the last frame signs another end", end.close(at.receipt.chain), last.chain)
    expect("the end record counts other tokens", last.index, end.completion_tokens)
    expect("the end record counts other prompt tokens", last.head.prompt_token_count, end.prompt_tokens)
    for why, most, count in (
        ("more cached prompt tokens than prompt tokens", end.prompt_tokens, end.cached_tokens),
        ("more tokens than were ordered", at.receipt.order.max_tokens, end.completion_tokens),
    ):
        if count > most:
            raise LinkBroken(why, f"at most {most}", count)
    return f"{end.reason.name.lower()}; {end.prompt_tokens} prompt tokens, {end.completion_tokens} of the answer"


def check_acks(at: Reading) -> str:
    """The client signed the acks, of tokens and chains of their segments. Spec: [RECEIPT-ACKS.1]"""
    receipt, seen = at.receipt, 0
    order = receipt.order
    for segment, name in zip(receipt.segments, at.segments, strict=True):
        word = segment.ack
        if word is None:
            continue
        seen = word.index
        first, last = segment.head.start_index, segment.index
        if not first <= word.index <= last:
            raise LinkBroken("an ack of a token that is not in its segment", f"{first} to {last}", word.index)
        known = _chain_at(at, segment, name, word.index)
        if known is not None:
            expect("an ack of another chain", known, word.chain)
        ack = Ack(order.session, order.task, 0, segment.head.generation, name, word.index, word.chain)
        at.signed(typed_digest(at.domain, ack), word.signature, receipt.session.opening.client, "the ack")
    if not any(segment.ack for segment in receipt.segments):
        raise LinkSkipped("the client signed no ack that is kept here")
    return f"the client has seen {seen} of {at.count} tokens"


def _chain_at(at: Reading, segment: SegmentRecord, name: Digest, index: int) -> bytes | None:
    """The chain value after a token of a segment, as far as it can be told without the tokens."""
    if index == segment.head.start_index:
        return name
    if index == segment.index:
        return at.receipt.chain if segment is at.receipt.segments[-1] else segment.chain
    return at.chains.get(index)


def _short(value: bytes) -> str:
    return f"0x{value[:4].hex()}…"


def _any(values: Iterable[bytes]) -> str:
    return "one of " + " ".join(f"0x{value.hex()}" for value in values)
