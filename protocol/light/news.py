"""What oracles tell of a lane's outcome and of a session's reservation, believed only with its proof."""

from protocol.core.errors import RemoteProtocolError
from protocol.ledger.proofs import verify_ledger_proof
from protocol.ledger.records import Section
from protocol.ledger.sessions import Session
from protocol.light.headers import HeaderTrust
from protocol.messages.committee import Header
from protocol.messages.results import OutcomeNews, SessionNews, SettledNews
from protocol.results.mountain import outcome_leaf, verify_proof


class UnprovedError(RemoteProtocolError):
    """News whose proof does not lead to the header that it comes with."""

    code = "remote/unproved"


def check_outcome(trust: HeaderTrust, news: OutcomeNews | SettledNews) -> Header:
    """The final header whose results tree holds the outcome. Raises CommitteeError, SignatureError, UnprovedError.

    Spec: [LIGHT-OUTCOME.1]
    """
    header = trust.check(news.certified)
    leaf = outcome_leaf(news.outcome)
    if news.proof.count != header.results_count or not verify_proof(header.results_root, leaf, news.proof):
        raise UnprovedError("the header's results tree does not hold the outcome")
    return header


def check_session(trust: HeaderTrust, news: SessionNews) -> tuple[Header, Session | None]:
    """What the ledger holds for a session as of a final header; None: nothing is reserved.

    Raises CommitteeError, SignatureError, UnprovedError, DecodeError. Spec: [LIGHT-SESSION.1]
    """
    header, proof = trust.check(news.certified), news.proof
    if (proof.section, proof.key) != (Section.SESSIONS, news.session) or not verify_ledger_proof(header, proof):
        raise UnprovedError("the header's ledger does not say this of the session")
    return header, None if proof.value is None else Session.read(proof.value)
