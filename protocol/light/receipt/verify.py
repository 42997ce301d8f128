"""Checks a receipt link by link, and says what it proves to its reader."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import msgpack

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, ParameterError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NetworkId
from protocol.core.signing import Domain
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Level
from protocol.light.receipt import answer_links, committee_links
from protocol.light.receipt.reader import Claimed, Reader
from protocol.light.receipt.reading import Accepted, Reading
from protocol.light.receipt.verdict import (
    Checked,
    Invalid,
    Link,
    LinkBroken,
    LinkSkipped,
    LinkUntrusted,
    Mark,
    NotEnoughTrust,
    Verdict,
    Verified,
)
from protocol.messages.receipts import RECEIPT_BYTES_MAX, RECEIPT_FORMAT, Receipt

_CHECKS: tuple[tuple[Link, Callable[[Reading], str]], ...] = (
    (Link.SESSION, answer_links.check_session),
    (Link.ORDER, answer_links.check_order),
    (Link.PROMPT, answer_links.check_prompt),
    (Link.BIDS, answer_links.check_bids),
    (Link.ASSIGNMENT, answer_links.check_assignment),
    (Link.SEGMENTS, answer_links.check_segments),
    (Link.TOKENS, answer_links.check_tokens),
    (Link.FRAMES, answer_links.check_frames),
    (Link.END, answer_links.check_end),
    (Link.ACKS, answer_links.check_acks),
    (Link.COMMIT, committee_links.check_commit),
    (Link.REVEAL, committee_links.check_reveal),
    (Link.HANDOVER, committee_links.check_hand_overs),
    (Link.OBSERVATIONS, committee_links.check_observations),
    (Link.CERTIFICATE, committee_links.check_certificate),
    (Link.OUTCOME, committee_links.check_outcome),
    (Link.CHECKPOINT, committee_links.check_checkpoint),
)


def read_receipt(data: bytes) -> Receipt:
    """A receipt file (untrusted). Raises LinkBroken. Spec: [RECEIPT-FORM.1]"""
    version = _version(data)
    if version not in (None, RECEIPT_FORMAT):
        raise LinkBroken("a receipt of another format", RECEIPT_FORMAT, version)
    try:
        receipt = unpack(Receipt, data, limit_bytes=RECEIPT_BYTES_MAX)
    except DecodeError as error:
        raise LinkBroken(f"these bytes are no receipt: {error}") from error
    for why, wrong in (
        ("of prompt and tokens either both are shown or none", (receipt.prompt is None) != (receipt.tokens is None)),
        ("a settlement is of an outcome", receipt.settled is not None and receipt.final is None),
    ):
        if wrong:
            raise LinkBroken(why)
    return receipt


def claimed_level(receipt: Receipt) -> Level:
    """The level of the highest part that a receipt has, whether it holds or not."""
    parts = (receipt.settled, receipt.final, receipt.batches or None, receipt.commit)
    levels = (Level.SETTLED, Level.FINALIZED, Level.CERTIFIED, Level.COMMITTED)
    return next((level for level, part in zip(levels, parts, strict=True) if part is not None), Level.STREAMED)


def verify_receipt(
    receipt: Receipt | bytes,
    trust: HeaderTrust | None = None,
    *,
    network: NetworkId | None = None,
    now_ms: int | None = None,
    accepted: Accepted | None = None,
) -> Verdict:
    """What a receipt (untrusted) proves to a reader. Spec: [RECEIPT-LINKS.1] [RECEIPT-VERDICT.1]

    Args:
        trust: Whom the reader believes; it is not changed. None: the genesis, if ``network`` says that it is the right
            one, and else nobody.
        network: The id of the network that the reader means; None takes that of any.
        now_ms: The reader's clock, against committees that are too old; None: the time that ``trust`` is at, if any.
        accepted: Asks the chain for a header by its digest. What it raises comes through. None: nobody asks.
    """
    notes = _Notes()
    try:
        held = read_receipt(pack(receipt) if isinstance(receipt, Receipt) else receipt)
        notes.holds(Link.FORMAT, f"format {held.format}, {'redacted' if held.tokens is None else 'whole'}")
    except LinkBroken as error:
        return notes.invalid(Link.FORMAT, error)
    network = trust.network_id if trust is not None and network is None else network
    try:
        genesis, network_id = _check_network(held, network)
        told = "as expected" if network is not None else "nobody said that it is the one that is meant"
        notes.holds(Link.NETWORK, f"{genesis.name}: {told}")
    except LinkBroken as error:
        return notes.invalid(Link.NETWORK, error)
    if trust is None and network is not None:
        trust = HeaderTrust(genesis)
    domain, claimed = Domain(network_id, genesis.chain_id), Claimed(genesis, network_id)
    reading = Reading(held, genesis, domain, Reader(trust, now_ms), claimed, accepted)
    for link, check in _CHECKS:
        try:
            notes.holds(link, check(reading))
        except LinkSkipped as reason:
            notes.skipped(link, str(reason))
        except LinkUntrusted as doubt:
            notes.untrusted(link, doubt)
        except LinkBroken as error:
            return notes.invalid(link, error)
    return notes.verdict(max(reading.reached, default=Level.STREAMED), claimed_level(held))


def _version(data: bytes) -> object:
    """What stands where a receipt has its format; None where there is nothing of the kind."""
    unpacker = msgpack.Unpacker(max_buffer_size=RECEIPT_BYTES_MAX)
    try:
        unpacker.feed(data[:16])
        return unpacker.unpack() if unpacker.read_array_header() else None
    except Exception:
        # msgpack raises a dozen types for bad input; what is wrong with it is said by whoever decodes all of it.
        return None


def _check_network(receipt: Receipt, network: NetworkId | None) -> tuple[Genesis, NetworkId]:
    """The genesis, in its one form and of the network that is meant. Spec: [RECEIPT-NETWORK.1]"""
    genesis, network_id = _network_of(receipt.genesis)
    if network is not None and network_id != network:
        raise LinkBroken("it is of another network", network, network_id)
    return genesis, network_id


# Many receipts are of one network, and its genesis is most of what there is to read.
@lru_cache(maxsize=4)
def _network_of(text: str) -> tuple[Genesis, NetworkId]:
    try:
        genesis = parse_genesis(text)
    except ParameterError as error:
        raise LinkBroken(str(error)) from error
    if genesis.to_json() != text:
        raise LinkBroken("the genesis is not in its one form")
    return genesis, genesis.network_id()


@dataclass
class _Notes:
    """What became of the links so far."""

    links: list[Checked] = field(default_factory=list)
    doubts: list[tuple[Link, LinkUntrusted]] = field(default_factory=list)

    def holds(self, link: Link, found: str) -> None:
        self.links.append(Checked(link, Mark.HOLDS, found))

    def skipped(self, link: Link, why: str) -> None:
        self.links.append(Checked(link, Mark.SKIPPED, why))

    def untrusted(self, link: Link, doubt: LinkUntrusted) -> None:
        self.links.append(Checked(link, Mark.UNTRUSTED, str(doubt)))
        self.doubts.append((link, doubt))

    def invalid(self, link: Link, error: LinkBroken) -> Invalid:
        checked = len(self.links) + 1
        rest = [Checked(each, Mark.SKIPPED, f"{link} does not hold") for each in tuple(Link)[checked:]]
        links = (*self.links, Checked(link, Mark.FAILED, error.why), *rest)
        return Invalid(link, error.why, error.expected, error.actual, links)

    def verdict(self, reached: Level, claimed: Level) -> Verdict:
        links = tuple(self.links)
        if reached >= claimed:
            return Verified(reached, links)
        link, doubt = next((link, doubt) for link, doubt in self.doubts if doubt.level > reached)
        return NotEnoughTrust(reached, link, str(doubt), links)
