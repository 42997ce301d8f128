"""The miner under test: a machine of its own that answers the committee's oracles, on one slot, in turns.

An idle miner hears little of the committee, so an oracle that it does not know is asked for the hand-overs that made it
one; what it says meanwhile waits.

A challenge is answered like an order, but nobody pays for it. So oracles wait in a queue, at most one challenge each;
one is answered at a time; and an oracle that was served waits as long as that took before it is served again. The slot
is one that is not offered to sessions.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain

from msgspec import structs

from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, ModelDigest, NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    DeadlineReached,
    Note,
    Received,
    Send,
)
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.light.committee_links import HAND_OVERS
from protocol.light.handovers import HandOverAsker, HandOverBook
from protocol.messages.audits import (
    AnswerEnded,
    AnswerTokens,
    AuditRefused,
    Challenge,
    ChallengeGiven,
    ChallengeOffered,
    ChallengeReady,
    Transcript,
    TranscriptAsked,
)
from protocol.messages.handover import HandOvers
from protocol.results.audit import transcript_root
from protocol.results.challenge import check_challenge, is_complete, question
from protocol.roles.miner.events import (
    CancelGeneration,
    Generate,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
)
from protocol.roles.miner.transcripts import KeepTranscript, Transcripts

STREAMS_PER_ORACLE = 2
STRANGERS_MAX = 8
"""Streams of peers that are not known to be oracles."""
SILENT_MS = 5_000
"""An oracle asks at once, and gives its challenge as soon as it hears that a slot is held."""
RETRY_AFTER_MS = 1_000


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Who is tested, by whom."""

    node: NodeId
    models: Collection[ModelDigest]
    hand_overs: HandOverBook
    """The committees, as far as they are known here."""
    build: str
    """Of the engine."""


@dataclass(slots=True)
class _Turn:
    """The challenge that holds the slot."""

    channel: Channel
    challenge: Challenge
    held_ms: int
    signature: bytes | None = None
    """Once the challenge is given."""
    answer: int = 0
    tokens: int = 0

    def generation(self) -> GenerationKey:
        assert self.signature is not None
        return self.signature[:32], self.answer, 0


class AnswerMachine:
    """See the module. It takes Generate's events and KeepTranscript. Spec: [TEST-SERVED.1]"""

    protocols = ("audit",)
    topics = ()

    def __init__(self, settings: AnswerSettings, domain: Domain, params: Params) -> None:
        self._settings = settings
        self._domain = domain
        self._params = params
        self._peers: dict[Channel, NodeId] = {}
        self._strangers: dict[Channel, Message | None] = {}
        """Streams of peers that are no oracles as far as is known, and the one message that waits until it is."""
        self._asker = HandOverAsker(settings.hand_overs, HAND_OVERS)
        self._waiting: dict[Channel, Challenge] = {}
        """In the order they came."""
        self._turn: _Turn | None = None
        self._resting: Deadlines[NodeId] = Deadlines()
        self._silent: Deadlines[Channel] = Deadlines()
        self._turn_ends: int | None = None
        self.transcripts = Transcripts()

    def next_deadline(self) -> int | None:
        """The earliest of silent streams, the present turn, oracles that rest, and transcripts."""
        clocks = (self._resting.next(), self._silent.next(), self._turn_ends, self.transcripts.next_deadline())
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        effects = self._handle(event, now_ms)
        return effects + self._next_turn(now_ms)

    def _handle(self, event: object, now_ms: int) -> list[object]:
        match event:
            case ChannelOpened():
                return self._opened(event, now_ms)
            case Received() if event.channel in self._peers:
                return self._received(event.channel, event.message, now_ms)
            case ChannelClosed():
                return self._drop(event.channel, now_ms)
            case DeadlineReached():
                return self._expire(now_ms)
            case Produced() | Generated() | GenerationFailed():
                return self._progress(event, now_ms)
            case KeepTranscript():
                return self._keep(event.transcript, now_ms)
        return []

    def _opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        streams = sum(peer == event.peer for peer in self._peers.values())
        known = self._is_oracle(event.peer)
        if streams >= STREAMS_PER_ORACLE or (not known and len(self._strangers) >= STRANGERS_MAX):
            return [Close(event.channel)]
        self._peers[event.channel] = event.peer
        self._silent.set(event.channel, now_ms + SILENT_MS)
        if known or not self._settings.hand_overs.trust.members:
            return [] if known else self._turn_away(event.channel)
        self._strangers[event.channel] = None
        return self._asker.ask(event.channel)

    def _is_oracle(self, peer: NodeId) -> bool:
        """Of the last committee that is known, or the one before: which of them is the present one is not known."""
        trust = self._settings.hand_overs.trust
        return peer in chain(trust.members, trust.members_of(trust.epoch - 1))

    def _from_stranger(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        """Hand-overs show whether it is an oracle. Raises RemoteProtocolError."""
        if not isinstance(message, HandOvers):
            if self._strangers[channel] is not None:
                raise RemoteProtocolError("an oracle shows first that it is one")
            self._strangers[channel] = message
            return []
        effects = self._asker.took(channel, message)
        if self._asker.waits(channel):
            return effects
        waited = self._strangers.pop(channel)
        if not self._is_oracle(self._peers[channel]):
            return [*effects, *self._turn_away(channel)]
        return effects if waited is None else [*effects, *self._said(channel, waited, now_ms)]

    def _turn_away(self, channel: Channel) -> list[object]:
        self._forget(channel)
        return [Close(channel)]

    def _received(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        peer = self._peers[channel]
        try:
            if channel in self._strangers:
                return self._from_stranger(channel, message, now_ms)
            return self._said(channel, message, now_ms)
        except RemoteProtocolError as error:
            note = Note("answers.broke-rule", (("oracle", peer.hex()), ("why", str(error))))
            return [*self._drop(channel, now_ms), Close(channel), note]

    def _said(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        match message:
            case ChallengeOffered():
                return self._offered(channel, self._peers[channel], message.challenge)
            case ChallengeGiven():
                return self._given(channel, message, now_ms)
            case TranscriptAsked():
                return self._asked(channel, message, now_ms)
        raise RemoteProtocolError(f"{type(message).__name__} is not for a miner under test")

    # Challenges

    def _offered(self, channel: Channel, peer: NodeId, challenge: Challenge) -> list[object]:
        if (challenge.miner, challenge.oracle) != (self._settings.node, peer):
            raise RemoteProtocolError("the challenge is for another miner, or of another oracle")
        if self._is_mine(channel) or channel in self._waiting:
            raise RemoteProtocolError("a stream carries one challenge")
        if challenge.model not in self._settings.models:
            self._forget(channel)
            return _refused(channel, "not_held", 0)
        others = [*self._waiting, *([self._turn.channel] if self._turn is not None else [])]
        if any(self._peers[other] == peer for other in others):
            self._forget(channel)
            return _refused(channel, "busy", RETRY_AFTER_MS)
        self._silent.clear(channel)
        self._waiting[channel] = challenge
        return []

    def _next_turn(self, now_ms: int) -> list[object]:
        """Hold the slot for the first that waits and does not rest."""
        if self._turn is not None:
            return []
        ready = (channel for channel in self._waiting if self._resting.at(self._peers[channel]) is None)
        channel = next(ready, None)
        if channel is None:
            return []
        self._turn = _Turn(channel, self._waiting.pop(channel), now_ms)
        self._turn_ends = now_ms + SILENT_MS
        return [Send(channel, ChallengeReady(self._settings.build))]

    def _given(self, channel: Channel, given: ChallengeGiven, now_ms: int) -> list[object]:
        turn = self._turn
        if turn is None or turn.channel != channel or turn.signature is not None:
            raise RemoteProtocolError("no slot is held for a challenge on this stream")
        if given.challenge != turn.challenge:
            raise RemoteProtocolError("another challenge was offered")
        check_challenge(self._domain, given.challenge, given.signature)
        turn.signature = bytes(given.signature)
        self._turn_ends = now_ms + self._params.test_deadline_ms
        return [self._ask(turn)]

    def _ask(self, turn: _Turn) -> Generate:
        assert turn.signature is not None
        asked = question(turn.signature, turn.answer)
        model = ModelDigest(turn.challenge.model)
        return Generate(turn.generation(), model, asked.messages, asked.sampling, asked.lane_seed, asked.max_tokens)

    def _progress(self, event: Produced | Generated | GenerationFailed, now_ms: int) -> list[object]:
        turn = self._turn
        if turn is None or turn.signature is None or event.generation != turn.generation():
            return []
        match event:
            case Produced():
                turn.tokens += len(event.ids)
                return [Send(turn.channel, AnswerTokens(turn.answer, event.ids, event.texts))]
            case GenerationFailed():
                self._finish(now_ms)
                note = Note("answers.engine-failed", (("why", event.detail),))
                return [*_refused(turn.channel, "engine_failed", RETRY_AFTER_MS), note]
        ended = Send(turn.channel, AnswerEnded(turn.answer, event.reason))
        turn.answer += 1
        if is_complete(self._params.test_tokens, turn.answer, turn.tokens):
            self._finish(now_ms)
            return [ended, Close(turn.channel)]
        return [ended, self._ask(turn)]

    def _finish(self, now_ms: int) -> None:
        """The slot is free again."""
        turn = self._turn
        assert turn is not None
        # At least a moment, so that an oracle whose challenges fail at once cannot keep the machine busy with them.
        self._resting.set(self._peers[turn.channel], now_ms + max(RETRY_AFTER_MS, now_ms - turn.held_ms))
        self._turn, self._turn_ends = None, None
        self._forget(turn.channel)

    # Transcripts

    def _keep(self, transcript: Transcript, now_ms: int) -> list[object]:
        try:
            root = transcript_root(self._domain, transcript)
        except RemoteProtocolError as error:
            # Whoever began the lane handed on what nothing binds.
            return [Note("answers.not-kept", (("why", str(error)),))]
        self.transcripts.keep(root, transcript, now_ms)
        return []

    def _asked(self, channel: Channel, asked: TranscriptAsked, now_ms: int) -> list[object]:
        if self._is_mine(channel) or channel in self._waiting:
            raise RemoteProtocolError("the stream carries a challenge")
        self._forget(channel)
        kept = self.transcripts.get(Digest(asked.root))
        if kept is None:
            return _refused(channel, "not_held", 0)
        return [Send(channel, structs.replace(kept, build=self._settings.build)), Close(channel)]

    # Ends

    def _is_mine(self, channel: Channel) -> bool:
        return self._turn is not None and self._turn.channel == channel

    def _forget(self, channel: Channel) -> None:
        self._peers.pop(channel, None)
        self._strangers.pop(channel, None)
        self._asker.gone(channel)
        self._waiting.pop(channel, None)
        self._silent.clear(channel)

    def _drop(self, channel: Channel, now_ms: int) -> list[object]:
        """A stream is gone, and with it the challenge on it."""
        turn = self._turn
        if turn is None or turn.channel != channel:
            self._forget(channel)
            return []
        self._finish(now_ms)
        return [] if turn.signature is None else [CancelGeneration(turn.generation())]

    def _expire(self, now_ms: int) -> list[object]:
        self.transcripts.expire(now_ms)
        for _ in self._resting.due(now_ms):
            pass
        effects: list[object] = []
        for channel in self._silent.due(now_ms):
            self._forget(channel)
            effects.append(Close(channel))
        if self._turn is not None and self._turn_ends is not None and self._turn_ends <= now_ms:
            channel = self._turn.channel
            effects += [*self._drop(channel, now_ms), Close(channel)]
        return effects


def _refused(channel: Channel, code: str, retry_after_ms: int) -> list[object]:
    refused = AuditRefused(code, retry_after_ms)  # type: ignore[arg-type]
    return [Send(channel, refused), Close(channel)]
