"""What an oracle's machine is made of, and where it stands. What it does is in the machine."""

from protocol.committee.epochs import Epochs
from protocol.committee.simplex import Rules
from protocol.committee.storage import resumed_from
from protocol.committee.waiting import Waiting
from protocol.core.deadlines import Deadlines
from protocol.core.machine import ChannelNumbers
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.messages.committee import Certified
from protocol.roles.oracle.aims import aims
from protocol.roles.oracle.batches import Batches
from protocol.roles.oracle.history import History, Presence
from protocol.roles.oracle.kept import KeptBatches
from protocol.roles.oracle.links import Links
from protocol.roles.oracle.news import News
from protocol.roles.oracle.onchain import OnChain
from protocol.roles.oracle.results import Here, here, open_results
from protocol.roles.oracle.settings import OracleSettings
from protocol.roles.oracle.starting import Starting
from protocol.roles.oracle.syncing import Syncing


class OracleParts:
    """See the module."""

    def __init__(self, settings: OracleSettings, domain: Domain, params: Params, sign: Sign, now_ms: int) -> None:
        self.me = settings.node
        self.signer = settings.signer
        self._domain = domain
        self._params = params
        self._sign = sign
        self._load = settings.load
        self._numbers = ChannelNumbers()
        waiting = Waiting(domain, params)
        self._epochs = Epochs(Rules(domain, params), settings.payload, settings.signer, waiting, settings.members)
        self.simplex, self._closing = self._epochs.resume(resumed_from(settings.load, params.snapshot_blocks), now_ms)
        self._kept = KeptBatches(settings.load, settings.signer)
        self._kept.offer(waiting, self.simplex.tree.base.state, now_ms)
        self.results = open_results(domain, params, self.me, settings.load)
        self._batches = Batches(params, settings.signer, waiting, self._kept, self.results.outbox)
        self.history = History()
        self.presence = Presence()
        self.links = Links(self._numbers)
        self.news = News(self.me)
        self._syncing = Syncing(self._numbers, params)
        self._starting = Starting(domain, settings.signer, settings.log_lost)
        self._deadlines: Deadlines[str] = Deadlines()
        self._deadlines.set("resend", now_ms + params.resend_interval_ms)
        self.disk_failed: str | None = None
        self._begun = self.results.begin(self._here(), self._final(), self._closing, self._kept, now_ms)
        self.chain = OnChain(settings, domain, params, self.results, self._here(), now_ms)
        self._begun += self.chain.begin(now_ms)
        self._aim(now_ms)

    @property
    def member(self) -> bool:
        """Whether this node takes part in the committee of the epoch it is in."""
        return self.simplex.me is not None and self.disk_failed is None

    @property
    def signing(self) -> str:
        """Whether this node signs, or why not."""
        if self.disk_failed is not None:
            return f"stopped: {self.disk_failed}"
        if not self.member:
            return "no member of this committee"
        if not self._starting.done:
            return f"waits for 2f others to say what it has signed, {self._starting.answers} have answered"
        if self.simplex.committee.epoch < self.signer.silent_before_epoch:
            return f"silent before epoch {self.signer.silent_before_epoch}: its signer log was lost"
        return "yes"

    def next_deadline(self) -> int | None:
        """The earliest of consensus, links, sync, gossip, re-sending, and turns on the chain."""
        clocks = (
            self.simplex.next_deadline(),
            self.links.next_deadline(),
            self._syncing.next_deadline(),
            self.results.desk.next_deadline(),
            self._batches.next_deadline(),
            self.chain.next_deadline(),
            self._deadlines.next(),
        )
        return min((at for at in clocks if at is not None), default=None)

    def _reached(self) -> tuple[int, int]:
        return self.simplex.committee.epoch, self.simplex.tree.base.header.height

    # Who and what

    def _aim(self, now_ms: int) -> list[object]:
        if self.disk_failed is not None:
            return self.links.aim((), (), now_ms)
        owes = bool(self._kept) or self.results.outbox.owes
        return self.links.aim(*aims(self.simplex, self.me, self._closing, owes), now_ms)

    def _here(self) -> Here:
        return here(self._domain, self._params, self.simplex)

    def _final(self) -> Certified | None:
        final = self.simplex.tree.final
        return None if final is None else self.simplex.certified(final)
