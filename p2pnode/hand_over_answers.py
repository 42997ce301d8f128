"""What a node tells its operator of how the committees came about, so that a proof can be checked without the node.

handovers:FIRST             hand-overs from the epoch FIRST on, as many as one answer takes
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.light.handovers import HandOverBook, HandOverStore, unpack_hand_over
from protocol.light.trust import TrustPoint

QUESTION = "handovers:"
"""What the question begins with."""

EVERY_EPOCH = 1 << 63
Ask = Callable[[str], Mapping[str, Any]]


def shown_hand_overs(store: HandOverStore, question: str) -> dict[str, Any]:
    """Answer the question. Raises P2PNodeError."""
    first = question.removeprefix(QUESTION)
    if not first.isdecimal() or len(first) > 18:
        raise P2PNodeError("hand-overs are asked for by an epoch", code="control/malformed", hint=f"ask {QUESTION}1")
    page = store.page(int(first))
    return {"hand_overs": [pack(hand_over).hex() for hand_over in page.hand_overs], "more": page.more}


def follow(book: HandOverBook, ask: Ask, epoch: int = EVERY_EPOCH) -> None:
    """Learn whom to believe up to an epoch from the hand-overs that a node shows, as far as it shows them.

    Raises RemoteProtocolError for one that does not hold, ValueError for what is none.
    """
    asked = -1
    while asked < book.trust.wanted and book.trust.epoch < epoch:
        asked = book.trust.wanted
        shown = ask(f"{QUESTION}{asked}")["hand_overs"]
        book.take(unpack_hand_over(bytes.fromhex(each)) for each in shown)


def present_point(genesis: Genesis, ask: Ask, now_ms: int) -> TrustPoint | None:
    """The committee that a node follows, to be shown to others; None where there is none.

    An oracle knows how long ago the present committee finalized a block: it was bonded then. Of other nodes it is known
    when the latest committee was named. Raises RemoteProtocolError, ValueError, P2PNodeError. Spec: [TRUST-SHOWN.1]
    """
    book = HandOverBook(genesis)
    follow(book, ask)
    if "oracle" in ask("status")["roles"]:
        said = ask("committee")
        point, age_ms = book.trust.point(said["epoch"]), said["final"]["age_ms"]
        if point is not None and age_ms is not None:
            return replace(point, time_s=max(point.time_s, (now_ms - age_ms) // 1_000))
    return book.trust.point()
