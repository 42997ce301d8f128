"""Sessions come, are closed, and let go of what they held."""

import msgspec

from protocol.committee.payload import HOMES_KEPT
from protocol.core.errors import SignatureError
from protocol.core.signing import typed_digest, verify
from protocol.ledger.payments import release, reserve
from protocol.ledger.records import Section
from protocol.ledger.sessions import Session
from protocol.ledger.working import Working
from protocol.messages.results import SignedClose, SignedSession
from protocol.messages.sessions import session_id

FIRST_EPOCH = 1
_LAST_NONCE = b"\xff" * 32
"""No nonce is higher, so this one could be reserved again and again."""


def take_session(work: Working, signed: SignedSession) -> None:
    """Reserve what a session may cost, if its client has as much. Spec: [LEDGER-RESERVE.1]"""
    opening, name = signed.opening, session_id(work.domain, signed.opening)
    if work.session(name) is not None or work.size(Section.SESSIONS) >= work.params.sessions_reserved_max:
        return
    account = work.account(opening.client)
    fresh = opening.nonce != _LAST_NONCE and int.from_bytes(opening.nonce, "big") >= account.nonce_from
    if not fresh or not 0 < opening.cap_wei <= account.balance_wei or opening.lanes > work.params.lanes_max:
        return
    try:
        verify(name, signed.signature, opening.client, "the session")
    except SignatureError:
        return
    reserve(work, opening.client, opening.cap_wei)
    work.write(Section.SESSIONS, name, _reserved(work, signed))


def _reserved(work: Working, signed: SignedSession) -> Session:
    opening = signed.opening
    return Session(
        opening.client,
        opening.routers,
        opening.model,
        opening.lanes,
        opening.tasks_max,
        opening.price_cap_wei,
        opening.cap_wei,
        opening.audits,
        opening.nonce,
        max(FIRST_EPOCH, work.epoch - 1),  # it may have been opened just before the turn
        work.epoch + work.params.reservation_epochs,
    )


def take_close(work: Working, signed: SignedClose) -> None:
    """The client orders nothing more in a session, from the next epoch on at the latest. Spec: [LEDGER-RELEASE.1]"""
    name = signed.close.session
    session = work.session(name)
    if session is None or session.closed:
        return
    try:
        verify(typed_digest(work.domain, signed.close), signed.signature, session.client, "the close")
    except SignatureError:
        return
    last = min(session.last_epoch, work.epoch)
    work.write(Section.SESSIONS, name, msgspec.structs.replace(session, closed=True, last_epoch=last))


def release_due(work: Working) -> None:
    """An epoch begins: let go of what none of its lanes can draw on. Spec: [LEDGER-RELEASE.1]"""
    for name, data in work.before.tree(Section.SESSIONS).items():
        session = Session.read(data)
        if session.last_epoch + HOMES_KEPT <= work.epoch:
            release(work, session)
            work.write(Section.SESSIONS, name, None)
