"""A receipt with what proves more of the same answer, from whoever has that."""

from msgspec.structs import replace

from protocol.core.errors import RemoteProtocolError
from protocol.messages.receipts import Finality, Receipt, Settlement
from protocol.messages.results import OutcomeNews, SettledNews


class OtherAnswer(RemoteProtocolError):
    """What was shown is of another answer than the receipt."""

    code = "remote/other-answer"


def raised_by_receipt(mine: Receipt, found: Receipt) -> Receipt:
    """A receipt with what another one (untrusted) of the same answer proves beyond it. Raises OtherAnswer.

    Spec: [RECEIPT-RAISED.1]
    """
    if _answer(mine) != _answer(found):
        raise OtherAnswer("it is the receipt of another answer, or of the same order as somebody else saw it")
    raised = mine
    if mine.commit is None or (mine.reveal is None and found.reveal is not None):
        raised = replace(raised, commit=found.commit, reveal=found.reveal)
    if mine.final is None:
        batches = () if found.final is not None else mine.batches or found.batches
        raised = replace(raised, final=found.final, batches=batches)
    if raised.final == found.final and _proves_more(mine.settled, found.settled):
        raised = replace(raised, settled=found.settled)
    if (raised.final, raised.batches, raised.settled) != (mine.final, mine.batches, mine.settled):
        raised = replace(raised, hand_overs=found.hand_overs, committees=found.committees)
    return raised


def raised_by_outcome(mine: Receipt, news: OutcomeNews) -> Receipt:
    """A receipt with where its outcome stands, as somebody (untrusted) says. Raises OtherAnswer."""
    outcome = news.outcome
    if (outcome.session, outcome.task, outcome.lane) != (mine.order.session, mine.order.task, 0):
        raise OtherAnswer("it is the outcome of another answer")
    if mine.final is not None:
        return mine
    return replace(mine, final=Finality(outcome, news.proof, news.certified), batches=())


def raised_by_settled(mine: Receipt, news: SettledNews) -> Receipt:
    """A receipt with the header of which somebody (untrusted) says that the contract accepted it; whoever calls this
    has asked the chain. Raises OtherAnswer."""
    if mine.final is None or mine.final.outcome != news.outcome:
        raise OtherAnswer("it is the settlement of another outcome")
    return replace(mine, settled=Settlement(news.proof, news.certified))


def _proves_more(mine: Settlement | None, found: Settlement | None) -> bool:
    if found is None:
        return False
    return mine is None or (mine.evm is None and found.evm is not None)


def _answer(receipt: Receipt) -> tuple[object, ...]:
    """What makes it this answer: the client's order, and all that its miners signed."""
    segments = [(record.head, record.index, record.chain) for record in receipt.segments]
    return receipt.genesis, receipt.order, segments, receipt.chain, receipt.end
