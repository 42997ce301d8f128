"""What a node tells its operator of how the committees came about, so that a proof can be checked without the node.

handovers:FIRST             hand-overs from the epoch FIRST on, as many as one answer takes
"""

from collections.abc import Callable, Mapping
from typing import Any

from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.light.handovers import HandOverBook, HandOverStore, unpack_hand_over
from protocol.light.headers import HeaderTrust

QUESTION = "handovers:"
"""What the question begins with."""

Ask = Callable[[str], Mapping[str, Any]]


def shown_hand_overs(store: HandOverStore, question: str) -> dict[str, Any]:
    """Answer the question. Raises P2PNodeError."""
    first = question.removeprefix(QUESTION)
    if not first.isdecimal() or len(first) > 18:
        raise P2PNodeError("hand-overs are asked for by an epoch", code="control/malformed", hint=f"ask {QUESTION}1")
    page = store.page(int(first))
    return {"hand_overs": [pack(hand_over).hex() for hand_over in page.hand_overs], "more": page.more}


def asked_trust(genesis: Genesis, epoch: int, ask: Ask) -> HeaderTrust:
    """Whom to believe in an epoch, from the genesis and the hand-overs that a node shows, as far as it shows them.

    Raises RemoteProtocolError for one that does not hold, ValueError for what is none.
    """
    book = HandOverBook(genesis)
    known = 0
    while known < book.trust.epoch < epoch:
        known = book.trust.epoch
        shown = ask(f"{QUESTION}{known}")["hand_overs"]
        book.take(unpack_hand_over(bytes.fromhex(each)) for each in shown)
    return book.trust
