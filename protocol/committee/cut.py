"""A block's cut: which batches a body takes in, oracle by oracle, each oldest first and within its share."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.committee.certificates import CommitteeError, batch_digest, verify_batch
from protocol.committee.payload import InvalidBody, LedgerState
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, SignatureError
from protocol.core.ids import Digest
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.committee import MEMBERS_MAX, SignedBatch

Home = tuple[int, bytes]
"""Home epoch and oracle: whose chain of batches."""

BATCHES_MAX = 4_096
BATCH_BYTES = 256
"""More than a batch takes beside its content."""
FRAME_BYTES = 8
"""More than a cut takes beside its batches."""


class Cut(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The batches of a body, ordered by home epoch, oracle and number."""

    batches: Annotated[tuple[SignedBatch, ...], Meta(min_length=1, max_length=BATCHES_MAX)]


def home_of(signed: SignedBatch) -> Home:
    """Whose chain a batch belongs to."""
    return signed.batch.home_epoch, signed.batch.oracle


def content_bytes_max(params: Params) -> int:
    """The largest content of a batch: its batch fits the smallest share there may be, three committees of 31."""
    return params.block_bytes_max // (3 * MEMBERS_MAX) - BATCH_BYTES


def share_bytes(params: Params, state: LedgerState) -> int:
    """How many bytes of a body each oracle has, whether it uses them or not."""
    oracles = {member for members in state.homes.values() for member in members}
    return (params.block_bytes_max - FRAME_BYTES) // max(1, len(oracles))


def pack_cut(params: Params, state: LedgerState, offered: Iterable[SignedBatch]) -> bytes:
    """The body of all that is offered and fits; ``offered`` continues each oracle's chain in order."""
    share = share_bytes(params, state)
    used: dict[bytes, int] = {}
    full: set[bytes] = set()
    taken = []
    for signed in offered:
        oracle, size = signed.batch.oracle, len(pack(signed))
        if oracle in full or used.get(oracle, 0) + size > share:
            full.add(oracle)
            continue
        used[oracle] = used.get(oracle, 0) + size
        taken.append(signed)
    taken.sort(key=lambda signed: (*home_of(signed), signed.batch.number))
    return pack(Cut(tuple(taken))) if taken else b""


def open_cut(domain: Domain, params: Params, state: LedgerState, body: bytes) -> tuple[SignedBatch, ...]:
    """The batches of a body, each checked: signed by an oracle of its home epoch, next in its chain, within its
    oracle's share, in order. Raises InvalidBody. Spec: [CUT-VALID.1]
    """
    if not body:
        return ()
    try:
        batches = unpack(Cut, body, limit_bytes=params.block_bytes_max * 2).batches
        for signed in batches:
            verify_batch(domain, signed)
    except (DecodeError, CommitteeError, SignatureError) as error:
        raise InvalidBody(f"the cut does not hold: {error}") from error
    _check_chains(domain, state, batches)
    share = share_bytes(params, state)
    used: dict[bytes, int] = {}
    for signed in batches:
        used[signed.batch.oracle] = used.get(signed.batch.oracle, 0) + len(pack(signed))
    if used and max(used.values()) > share:
        raise InvalidBody(f"an oracle has a share of {share} bytes of a body")
    if any(len(signed.content) > content_bytes_max(params) for signed in batches):
        raise InvalidBody(f"a batch has at most {content_bytes_max(params)} bytes of content")
    return batches


def _check_chains(domain: Domain, state: LedgerState, batches: Sequence[SignedBatch]) -> None:
    last: dict[Home, tuple[int, Digest]] = {}
    order = [(*home_of(signed), signed.batch.number) for signed in batches]
    if order != sorted(order):
        raise InvalidBody("batches come by home epoch, oracle and number")
    for signed in batches:
        home, batch = home_of(signed), signed.batch
        if batch.oracle not in state.homes.get(batch.home_epoch, ()):
            raise InvalidBody(f"{batch.oracle.hex()} is no oracle of epoch {batch.home_epoch}, or that is too long ago")
        number, digest = last.get(home) or state.included(*home)
        if (batch.number, batch.previous) != (number + 1, digest):
            raise InvalidBody(f"batch {batch.number} of {batch.oracle.hex()} does not follow batch {number}")
        last[home] = (batch.number, Digest(batch_digest(domain, batch)))


def omitted(
    params: Params, before: LedgerState, after: LedgerState, body: bytes, owed: Iterable[SignedBatch]
) -> SignedBatch | None:
    """The first batch that was owed, fits its oracle's share, follows what is in, and is left out.

    ``before`` and ``after`` are the states around it. Spec: [CUT-FAIR.1]
    """
    batches = unpack(Cut, body, limit_bytes=params.block_bytes_max * 2).batches if body else ()
    share = share_bytes(params, before)
    used: dict[bytes, int] = {}
    for signed in batches:
        used[signed.batch.oracle] = used.get(signed.batch.oracle, 0) + len(pack(signed))
    for signed in owed:
        number, digest = after.included(*home_of(signed))
        extends = (signed.batch.number, signed.batch.previous) == (number + 1, digest)
        if extends and used.get(signed.batch.oracle, 0) + len(pack(signed)) <= share:
            return signed
    return None
