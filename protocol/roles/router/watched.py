"""What a router knows of one session's place in the ledger, and the news of it that its client may have missed."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from protocol.core.codec import Message, encode
from protocol.core.ids import NodeId
from protocol.core.signing import keccak
from protocol.messages.results import ObservedNews, OutcomeNews, SessionNews, SettledNews, SignedSession
from protocol.results.mountain import outcome_leaf

NEWS_MAX = 64
NEWS_BYTES_MAX = 65_536
"""Kept for a client that is away; the oldest go first. What a lane came to it can still learn from the ledger."""
SEEN_MAX = 256


@dataclass(slots=True)
class Watched:
    """One session in a network with a committee."""

    submitted: SignedSession | None
    """What the ledger is asked to reserve; none where the session reserves nothing."""
    delay_ms: int
    """Until it is asked again."""
    latest: SessionNews | None = None
    """What a final header proves of it."""
    as_of: tuple[int, int] = (0, 0)
    reserved: bool = False
    news: deque[Message] = field(default_factory=deque)
    news_bytes: int = 0
    seen: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)
    """What was passed on already: each oracle tells it."""

    def keep(self, message: Message) -> None:
        """Hold what was passed on, until it is too much."""
        self.news.append(message)
        self.news_bytes += len(encode(message))
        while len(self.news) > NEWS_MAX or self.news_bytes > NEWS_BYTES_MAX:
            self.news_bytes -= len(encode(self.news.popleft()))

    def is_new(self, message: ObservedNews | OutcomeNews | SettledNews, oracle: NodeId) -> bool:
        """Whether no other oracle has brought the same before."""
        match message:
            case OutcomeNews():
                # Its proof was checked: any other is as good.
                return self._first(outcome_leaf(message.outcome))
            case ObservedNews():
                return self._first(keccak(message.signed.signature + message.signed.content))
        # Which header the contract accepted nobody here can tell: each oracle names one, and the client looks.
        leaf, header = outcome_leaf(message.outcome), message.certified.certificate.header
        return self._first(keccak(leaf + oracle)) and self._first(keccak(leaf + header))

    def _first(self, name: bytes) -> bool:
        if name in self.seen:
            return False
        self.seen[name] = None
        if len(self.seen) > SEEN_MAX:
            self.seen.popitem(last=False)
        return True
