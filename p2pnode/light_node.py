"""What a running node tells light clients, and where it has that from."""

from collections.abc import Sequence

from protocol.core.genesis import Genesis
from protocol.light.forwarding import Forwarding
from protocol.light.handovers import HandOverBook
from protocol.light.serving import Known, LightServer
from protocol.light.shelf import ReceiptShelf
from protocol.messages.committee import Certified
from protocol.messages.results import OutcomeNews, SettledNews
from protocol.roles.oracle import OracleMachine
from protocol.roles.router import RouterMachine


def known_to(genesis: Genesis, book: HandOverBook) -> Known:
    """What a node can tell before its roles run: nothing but what is on its disk."""
    return Known(book.store, ReceiptShelf(genesis.domain(), genesis.params, book))


def known_to_router(known: Known, router: RouterMachine) -> None:
    """A router follows the committee's headers."""
    known.head = lambda: router.certified


def known_to_oracle(known: Known, oracle: OracleMachine) -> None:
    """An oracle has every outcome and every hand-over, beside the newest header."""

    def head() -> Certified | None:
        final = oracle.results.final
        return None if final is None else final.certified

    def outcomes(session: bytes, task: int) -> Sequence[OutcomeNews | SettledNews] | None:
        results, certified = oracle.results, head()
        index = results.outcomes.index((session, task, 0))
        if index is None or certified is None:
            return None
        told = (results.outcomes.news(index, certified), results.chain.settled(index))
        return [] if told[0] is None else [each for each in told if each is not None]

    known.head, known.outcomes, known.hand_overs = head, outcomes, oracle.results.hand_overs.store


def light_server(known: Known, book: HandOverBook, roles: Sequence[str]) -> LightServer:
    """What answers them. A router asks oracles for what it does not know itself; an oracle knows it."""
    asks = "router" in roles and "oracle" not in roles
    return LightServer(known, Forwarding(book.trust) if asks else None)
