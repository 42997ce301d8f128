"""Transcripts that a miner keeps for a while, of lanes whose clients agreed to audits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.core.codec import pack
from protocol.core.deadlines import Deadlines
from protocol.core.ids import Digest
from protocol.core.machine import NO_KEY, Key
from protocol.messages.audits import Transcript
from protocol.messages.tasks import EndRecord, Prompt, SegmentHead, TaskOrder

KEPT_MS = 3_600_000
KEPT_BYTES_MAX = 32 << 20
_OTHER_BYTES = 160
"""What a message holds beside: its kind, and the build."""


@dataclass(slots=True)
class Draft:
    """What a lane's transcript is made of, while its tokens still come."""

    prompt: Prompt
    ids: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    """Of the whole lane, earlier segments included."""

    def add(self, ids: Sequence[int], texts: Sequence[bytes]) -> None:
        """The next tokens."""
        self.ids += ids
        self.texts += texts

    def first(self, count: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        """That many tokens and their texts: what was made and not sent is none of the lane's."""
        return tuple(self.ids[:count]), tuple(self.texts[:count])

    def finish(self, order: TaskOrder, heads: Sequence[SegmentHead], end: EndRecord) -> "KeepTranscript":
        """The lane has ended."""
        ids, texts = self.first(end.completion_tokens)
        return KeepTranscript(Transcript(order, self.prompt, tuple(heads), ids, texts, end, ""))


@dataclass(frozen=True, slots=True)
class KeepTranscript:
    """Hand a lane's transcript to whoever answers the oracles; ``build`` is for that one to say."""

    transcript: Transcript
    key: Key = NO_KEY


class Transcripts:
    """What is kept: each for ``KEPT_MS``, ``KEPT_BYTES_MAX`` in all; of more, the oldest goes. Spec: [TEST-KEPT.1]"""

    def __init__(self) -> None:
        self._kept: dict[Digest, tuple[Transcript, int]] = {}
        """By the result root that binds each."""
        self._ends: Deadlines[Digest] = Deadlines()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def next_deadline(self) -> int | None:
        """When the oldest one goes."""
        return self._ends.next()

    def keep(self, root: Digest, transcript: Transcript, now_ms: int) -> None:
        """Take one; what could not be sent in one message is not kept."""
        size = len(pack(transcript)) + _OTHER_BYTES
        if size > Transcript.LIMIT_BYTES:
            return
        self._drop(root)
        self._kept[root] = transcript, size
        self._ends.set(root, now_ms + KEPT_MS)
        self.bytes += size
        while self.bytes > KEPT_BYTES_MAX:
            self._drop(next(iter(self._kept)))

    def get(self, root: Digest) -> Transcript | None:
        """What a result root binds, if it is still kept."""
        kept = self._kept.get(root)
        return kept[0] if kept is not None else None

    def expire(self, now_ms: int) -> None:
        """Forget what was kept long enough."""
        for root in self._ends.due(now_ms):
            self._drop(root)

    def _drop(self, root: Digest) -> None:
        kept = self._kept.pop(root, None)
        if kept is not None:
            self._ends.clear(root)
            self.bytes -= kept[1]
