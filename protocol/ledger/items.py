"""What a block's batches bring, item by item. No item makes a block invalid: one that does not hold is left out."""

from collections.abc import Sequence

from protocol.committee.cut import home_of
from protocol.core.codec import unpack
from protocol.core.errors import DecodeError
from protocol.core.ids import NodeId
from protocol.ledger.claims import take_opening
from protocol.ledger.payments import take_withdrawal
from protocol.ledger.pool import take_enlistment, take_report
from protocol.ledger.registry import take_entry
from protocol.ledger.reservations import take_close, take_session
from protocol.ledger.verdicts import decide_lanes, observe
from protocol.ledger.words import take_words
from protocol.ledger.working import Working
from protocol.messages.committee import CONTENT_BYTES_MAX, SignedBatch
from protocol.messages.results import Content


def content_of(signed: SignedBatch) -> Content:
    """What a batch holds; nothing where its content is none. Spec: [LEDGER-CONTENT.1]"""
    try:
        return unpack(Content, signed.content, limit_bytes=CONTENT_BYTES_MAX)
    except DecodeError:
        return Content()


def take_batches(work: Working, batches: Sequence[SignedBatch]) -> None:
    """All items of a block's batches, kind by kind, each kind in the order of the cut. Spec: [LEDGER-ORDER.1]

    What the chain brings comes before the sessions that it is spent on, sessions before the openings that are paid from
    them, observations before the openings that they bear out, and all of these before the outcomes.
    """
    contents = [(signed, content_of(signed)) for signed in batches]
    for signed, content in contents:
        take_words(work, NodeId(signed.batch.oracle), content.words)
    for _, content in contents:
        for session in content.sessions:
            take_session(work, session)
        for close in content.closes:
            take_close(work, close)
        for withdrawal in content.withdrawals:
            take_withdrawal(work, withdrawal)
        for enlistment in content.enlistments:
            take_enlistment(work, enlistment)
        for entry in content.entries:
            take_entry(work, entry)
    spoken_of = [
        observe(work, home_of(signed), value) for signed, content in contents for value in content.observations
    ]
    for _, content in contents:
        for opening in content.openings:
            take_opening(work, opening)
    decide_lanes(work, (lane for lane in spoken_of if lane is not None))
    for signed, content in contents:
        for report in content.reports:
            take_report(work, NodeId(signed.batch.oracle), report)
