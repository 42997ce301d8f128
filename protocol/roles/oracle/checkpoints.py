"""What the contract has accepted: watched outcomes are told once more, by the header that settles them."""

from collections.abc import Mapping

from protocol.committee.effects import COMMITTEE
from protocol.committee.storage import chain_key, unpack_block
from protocol.core.errors import DecodeError
from protocol.core.machine import Channel, Send
from protocol.messages.chain import Accepted
from protocol.messages.committee import CertificateKind, Certified
from protocol.messages.results import SettledNews
from protocol.roles.oracle.outcomes import Outcomes
from protocol.roles.oracle.syncing import Load
from protocol.roles.oracle.watchers import Watchers

AWAITING_MAX = 65_536
"""Outcomes that await a checkpoint; of those beyond it, the oldest are told to nobody."""
AT_ONCE_MAX = 256
"""Outcomes that are told in one go: each takes some looks at the disk."""


class Checkpoints:
    """See the module. Spec: [LEVEL-SETTLED.2]"""

    def __init__(self, load: Load, outcomes: Outcomes, watchers: Watchers) -> None:
        self._load = load
        self._outcomes = outcomes
        self._watchers = watchers
        self._seen: Accepted | None = None
        """Whose header is not here yet."""
        self._newest = (0, 0)
        """Epoch and height of the last that was seen."""
        self._due = False
        """Whether something that awaits a checkpoint has one."""
        self._last: Certified | None = None
        self._awaiting: dict[int, bytes] = {}
        """Sessions of watched outcomes by their place among all."""

    @property
    def count(self) -> int:
        """How many outcomes are settled, as far as this oracle can prove it."""
        header = None if self._last is None else self._last.header
        return 0 if header is None else header.results_count

    def accepted(self, accepted: Accepted) -> None:
        """The contract accepted a header, in a final block of its chain."""
        slot = (accepted.epoch, accepted.height)
        if slot > self._newest:
            self._newest, self._seen = slot, accepted

    def decided(self, index: int, session: bytes) -> None:
        """An outcome stands in a final block; whoever watches it now will be told when it is settled."""
        if self._watchers.watches(session):
            self._awaiting[index] = session
            self._due = self._due or index < self.count
            if len(self._awaiting) > AWAITING_MAX:
                del self._awaiting[next(iter(self._awaiting))]

    def watched(self, channel: Channel, index: int, session: bytes) -> list[object]:
        """A stream begins to watch an outcome that is final."""
        if index >= self.count:
            self.decided(index, session)
            return []
        return self._news(index, (channel,))

    def tell(self) -> list[object]:
        """What has been settled since, to whoever watches it; where that is much, the rest in the next one's turn."""
        self._find()
        if not self._due:
            return []
        effects: list[object] = []
        settled = [index for index in self._awaiting if index < self.count]
        for index in settled[:AT_ONCE_MAX]:
            effects += self._news(index, self._watchers.of(self._awaiting.pop(index)))
        self._due = len(settled) > AT_ONCE_MAX
        return effects

    def _find(self) -> None:
        """The accepted header with its certificate, if it is on this disk; another oracle may have it."""
        if self._seen is None:
            return
        key = chain_key(self._seen.epoch, self._seen.height)
        certified = _certified(self._load(key), key)
        if certified is not None and certified.certificate.header == self._seen.digest:
            self._last, self._seen, self._due = certified, None, True

    def settled(self, index: int) -> SettledNews | None:
        """The outcome at a place by the last header that the contract accepted; None as long as it is in none."""
        news = None if self._last is None or index >= self.count else self._outcomes.news(index, self._last)
        return None if news is None else SettledNews(news.outcome, news.proof, news.certified)

    def _news(self, index: int, channels: tuple[Channel, ...]) -> list[object]:
        told = self.settled(index) if channels else None
        return [] if told is None else [Send(channel, told, key=COMMITTEE) for channel in channels]


def _certified(records: Mapping[bytes, bytes], key: bytes) -> Certified | None:
    try:
        block = unpack_block(records[key])
    except (KeyError, DecodeError):
        return None
    certificate = block.certificate
    if certificate is None or certificate.kind is not CertificateKind.FINALIZATION:
        return None
    return Certified(certificate, block.header)
