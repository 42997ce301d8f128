"""What Byzantine miners do: they copy, keep silent, open early, fork, stop, lie in bids and in openings, commit late or
twice."""

from dataclasses import replace as replaced
from random import Random

from msgspec.structs import replace

from p2pnode.sim.results_byzantine import (
    Hand,
    Later,
    Ruse,
    Ruses,
    channels_of,
    instead,
    message_of,
    signed_commit,
    signed_reveal,
)
from protocol.core.codec import decode
from protocol.core.errors import DecodeError
from protocol.core.ids import Digest
from protocol.core.machine import Received, Send
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.results import (
    AckWord,
    Commit,
    CommitMessage,
    Opening,
    Reveal,
    RevealAsked,
    RevealMessage,
)
from protocol.messages.sessions import Bid, LeaseRequest
from protocol.messages.tasks import Frame, FrameMessage, LaneEnded, SegmentStart
from protocol.results.commitment import commit_of, opening_root
from protocol.roles.miner import Generate
from protocol.session.sampling import lane_seed
from protocol.session.transcript import advance, close_chain, segment_id

Place = tuple[bytes, int, int]


class RevealsNothing(Ruse):
    """Commits, and opens nothing."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if isinstance(message, RevealMessage):
            return []
        if isinstance(message, CommitMessage):
            return [instead(effect, replace(message, reveal=None, opening=None))]
        return [effect]


class RevealsEarly(Ruse):
    """Opens its commit as soon as it has sent it, and never again."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._opened: set[Place] = set()
        self._opening = False

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if isinstance(message, RevealMessage) and not self._opening:
            return []
        if not isinstance(message, CommitMessage) or message.reveal is not None:
            return [effect]
        commit = message.signed.commit
        place = (commit.session, commit.task, commit.lane)
        if place in self._opened:
            return [effect]
        self._opened.add(place)
        return [effect, *self._open(RevealAsked(commit.session, commit.task), now_ms)]

    def _open(self, asked: RevealAsked, now_ms: int) -> list[object]:
        """It lets the machine inside believe that everybody asked."""
        heard = [effect for link in self.hand.of("results") for effect in self.hand.tell(Received(link, asked), now_ms)]
        self._opening = True
        said = [one for effect in heard for one in self.says(effect, now_ms)]
        self._opening = False
        return said


class CopiesCommits(Later):
    """Waits for another's commit of the same task, commits to the same, and opens it with the other's words."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._copied: dict[Place, Commit] = {}

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if isinstance(message, CommitMessage):
            return self._commit(effect, message, now_ms)
        if isinstance(message, RevealMessage):
            return self._reveal(effect, message)
        return [effect]

    def _commit(self, effect: object, message: CommitMessage, now_ms: int) -> list[object]:
        mine = message.signed.commit
        others = self.hand.den.commits[mine.session, mine.task]
        copied = next((other.commit for other in others if other.commit.miner != mine.miner), None)
        if copied is None:
            return [effect] if message.reveal is not None else []  # it is sent again: by then there may be one
        commit = replace(mine, commitment=copied.commitment)
        self._copied[mine.session, mine.task, mine.lane] = copied
        return [instead(effect, replace(message, signed=signed_commit(self.hand, commit)))]

    def _reveal(self, effect: object, message: RevealMessage) -> list[object]:
        mine = message.signed.reveal
        copied = self._copied.get((mine.session, mine.task, mine.lane))
        theirs = self.hand.den.reveals[mine.session, mine.task]
        for other in theirs if copied is not None else ():
            if copied is not None and other.signed.reveal.miner == copied.miner:
                reveal = replace(
                    other.signed.reveal, lane=mine.lane, generation=mine.generation, miner=self.hand.key.node_id
                )
                opening = self.hand.rng.choice((other.opening, message.opening))
                return [instead(effect, RevealMessage(signed_reveal(self.hand, reveal), opening))]
        return []


class CopiesResults(Ruse):
    """Runs another lane in place of its own, as if it had been given that one's answer."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        if not isinstance(effect, Generate) or not effect.generation[2]:
            return [effect]
        start = self.hand.den.starts.get(effect.generation[:2])
        if start is None:
            return [effect]
        return [replaced(effect, lane_seed=lane_seed(start.order.seed, start.prompt.sampling.choice, 0))]


class CommitsLate(Later):
    """Commits when the window is over, or almost."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._from_ms: dict[Place, int] = {}

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if not isinstance(message, CommitMessage):
            return [effect]
        commit, window_ms = message.signed.commit, self.hand.params.commit_window_ms
        place = (commit.session, commit.task, commit.lane)
        if place not in self._from_ms:
            self._from_ms[place] = now_ms + window_ms * self.hand.rng.randint(80, 200) // 100
            self.later(self._from_ms[place], lambda _: [effect])
        return [effect] if now_ms >= self._from_ms[place] else []


class CommitsTwice(Ruse):
    """Tells half of the oracles one commit and the other half another; then everybody both."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._times: dict[Place, int] = {}
        self._turned = hand.rng.random() < 0.5
        """Whether the one that it can open comes second."""

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if not isinstance(message, CommitMessage) or message.reveal is not None:
            return [effect]
        commit = message.signed.commit
        place = (commit.session, commit.task, commit.lane)
        times = self._times[place] = self._times.get(place, 0) + 1
        second = replace(commit, commitment=bytes(reversed(commit.commitment)))
        other = replace(message, signed=signed_commit(self.hand, second))
        pair = (other, message) if self._turned else (message, other)
        said: list[object] = []
        for channel in channels_of(effect):
            peer, _ = self.hand.streams.get(channel, (b"", ""))
            both = pair if times > 1 else (pair[peer in self.hand.committee[::2]],)
            said += [Send(channel, one, key=getattr(effect, "key", b"")) for one in both]
        return said


class ClaimsMore(Ruse):
    """Opens with a higher price than it was given, a later ack, more tokens, or an earlier miner's segment."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._what = hand.rng.choice(("price", "ack", "count", "segment"))
        self._false: dict[Place, tuple[Reveal, Opening]] = {}

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message, hand = message_of(effect), self.hand
        if isinstance(message, CommitMessage) and message.reveal is not None and message.opening is not None:
            reveal, opening = self._claim(message.reveal.reveal, message.opening)
            commit = signed_commit(hand, commit_of(hand.domain, reveal))
            told = replace(message, signed=commit, reveal=signed_reveal(hand, reveal), opening=opening)
            return [instead(effect, told)]
        if isinstance(message, RevealMessage):
            reveal, opening = message.signed.reveal, message.opening
            if self._what == "ack":
                # The root says nothing of acks: the commit stands.
                reveal, opening = self._claim(reveal, opening)
            return [instead(effect, RevealMessage(signed_reveal(hand, reveal), opening))]
        return [effect]

    def _claim(self, reveal: Reveal, opening: Opening) -> tuple[Reveal, Opening]:
        last, before = opening.segments[-1], opening.segments[:-1]
        order = opening.order
        match self._what:
            case "price":
                last = replace(last, price_wei=last.price_wei * 10 + 7)
            case "ack":
                word = last.ack or AckWord(last.start_index, opening.chain, bytes(64) + b"\x1b")
                last = replace(last, ack=replace(word, index=opening.count))
            case "count":
                opening = replace(opening, count=order.max_tokens)
            case _:
                first = replace(opening.segments[0], miner=self.hand.key.node_id, ack=None)
                before = (*before[:0], first) if before else ()
        opening = replace(opening, segments=(*before, last))
        root = opening_root(self.hand.domain, opening)
        return replace(reveal, root=root, count=opening.count), opening


class Forks(Ruse):
    """Signs two chains of a segment: a frame nobody asked for comes before the real one."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._chains: dict[Place, tuple[Digest, Digest, int]] = {}
        self._at = hand.rng.randint(1, 20)

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if isinstance(message, SegmentStart):
            head = message.head
            segment = segment_id(self.hand.domain, head)
            self._chains[head.session, head.task, head.lane] = (segment, segment, head.start_index)
        if not isinstance(message, FrameMessage) or not isinstance(effect, Send):
            return [effect]
        place = (message.session, message.task, message.lane)
        if place not in self._chains:
            return [effect]
        segment, chain, index = self._chains[place]
        forged = self._forged(message, segment, chain)
        for token, text in zip(message.ids, message.texts, strict=True):
            index += 1
            chain = advance(chain, index, token, text)
        self._chains[place] = (segment, chain, index)
        forks = message.first_index < self._at <= index
        return [Send(effect.channel, forged, key=effect.key), effect] if forks else [effect]

    def _forged(self, message: FrameMessage, segment: Digest, chain: Digest) -> FrameMessage:
        ids = (*message.ids[:-1], message.ids[-1] ^ 1) if message.ids else ()
        index = message.first_index
        for token, text in zip(ids, message.texts, strict=True):
            index += 1
            chain = advance(chain, index, token, text)
        if message.end is not None:
            chain = close_chain(chain, message.end)
        signature = self.hand.sign(Frame(segment, index, chain, message.end is not None))
        return replace(message, ids=ids, signature=signature)


class Stops(Ruse):
    """Says nothing more of an answer after some tokens; it stays connected."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._after = hand.rng.randint(0, 12)

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        if isinstance(message, FrameMessage) and message.first_index + len(message.ids) > self._after:
            return []
        return [] if isinstance(message, LaneEnded) else [effect]


class LiesInBids(Ruse):
    """Bids a fraction of its price, and a speed that nothing has."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._real: dict[bytes, bytes] = {}

    def says(self, effect: object, now_ms: int) -> list[object]:
        """See Ruse."""
        message = message_of(effect)
        bid = _bid_in(message)
        if bid is None or not isinstance(message, Envelope):
            return [effect]
        told = replace(bid, price_wei=bid.price_wei // 3, tokens_per_second=100_000, first_token_ms=1)
        envelope = seal(self.hand.domain, self.hand.key.sign, told)
        domain = self.hand.domain
        self._real[envelope_digest(domain, envelope, Bid)] = envelope_digest(domain, message, Bid)
        return [instead(effect, envelope)]

    def hears(self, event: object, now_ms: int) -> object | None:
        """See Ruse."""
        if isinstance(event, Received) and isinstance(event.message, LeaseRequest):
            request = event.message
            real = self._real.get(request.bid)
            return event if real is None else Received(event.channel, replace(request, bid=real))
        return event


def _bid_in(message: object) -> Bid | None:
    if not isinstance(message, Envelope):
        return None
    try:
        inner = decode(message.payload)
    except DecodeError:
        return None
    return inner if isinstance(inner, Bid) else None


BAD_MINERS: Ruses = {
    "copies-commits": CopiesCommits,
    "copies-results": CopiesResults,
    "reveals-nothing": RevealsNothing,
    "reveals-early": RevealsEarly,
    "commits-late": CommitsLate,
    "commits-twice": CommitsTwice,
    "claims-more": ClaimsMore,
    "forks": Forks,
    "stops": Stops,
    "lies-in-bids": LiesInBids,
}


def draw_miner_ruses(rng: Random) -> tuple[str, ...]:
    """One, now and then two."""
    return tuple(rng.sample(sorted(BAD_MINERS), rng.choice((1, 1, 1, 2))))
