"""This oracle's own batches: signed, durable, and only where all that it has signed before is known."""

from protocol.committee.effects import COMMITTEE
from protocol.committee.payload import LedgerState
from protocol.committee.signer import Signer
from protocol.committee.waiting import Waiting
from protocol.core.machine import Persist
from protocol.core.params import Params
from protocol.messages.committee import SignedBatch
from protocol.roles.oracle.kept import KeptBatches, refusal
from protocol.roles.oracle.ledger_view import LedgerView
from protocol.roles.oracle.outbox import Outbox

Made = tuple[SignedBatch, Persist]
"""A batch, and what must be durable before it leaves."""


class Batches:
    """See the module. Spec: [BATCH-KEPT.1] [OBSERVE-ONCE.2]"""

    def __init__(self, params: Params, signer: Signer, waiting: Waiting, kept: KeptBatches, outbox: Outbox) -> None:
        self._params = params
        self._signer = signer
        self._waiting = waiting
        self._kept = kept
        self._outbox = outbox
        self._last_ms = 0
        """When one was signed last, or could not be."""
        self._next_ms: int | None = None
        self._stopped = False

    def stop(self) -> None:
        """The disk failed: no batch is signed any more."""
        self._stopped, self._next_ms = True, None

    def next_deadline(self) -> int | None:
        """When something may be signed."""
        return self._next_ms

    def next(self, view: LedgerView, epoch: int, final: LedgerState, now_ms: int) -> Made | None:
        """What waits for a batch, at most one an interval, at once if there was none lately. Who is no member of epoch
        ``epoch`` any more signs what others have signed, too, in batches of the last home epoch that it has.

        Spec: [BATCH-CONTENT.1]
        """
        if self._stopped:
            return None
        after_ms = self._last_ms + self._params.batch_interval_ms
        self._next_ms = self._outbox.next_deadline()
        if self._next_ms is None or self._next_ms > now_ms:
            return None
        self._next_ms = max(after_ms, now_ms + 1)
        if now_ms < after_ms:
            return None
        latest = max((home for home, members in final.homes.items() if self._signer.me in members), default=epoch)
        self._last_ms = now_ms
        draft = self._outbox.draft(view, latest, lambda home: self.refusal(home, b"", final) is None, now_ms)
        made = None if draft is None else self.sign(draft.home_epoch, draft.content)
        if draft is None or made is None:
            # Nothing may be signed now, or what was due is of no use yet: any event is a reason to look again, but no
            # sooner than for the next batch. Looking at each event is what an oracle cannot afford that is behind.
            self._next_ms = now_ms + self._params.resend_interval_ms
            return None
        self._next_ms = now_ms + self._params.batch_interval_ms
        self._outbox.signed(draft, now_ms)
        return made

    def refusal(self, home_epoch: int, content: bytes, final: LedgerState) -> str | None:
        """Why nothing of a home epoch is signed now, or not this; None if it may be."""
        if self._signer.me not in final.homes.get(home_epoch, ()):
            return f"no oracle of epoch {home_epoch}"
        if not self._signer.may_sign(home_epoch):
            return f"it signs nothing of epoch {home_epoch}"
        if self._signer.last_batch(home_epoch) < final.included(home_epoch, self._signer.me)[0]:
            return f"its signer log lacks batches of epoch {home_epoch} that are final"
        missing = self._missing(home_epoch, final)
        if missing is not None:
            return f"its batch {missing} of epoch {home_epoch} is not here, and might say otherwise than the next"
        return refusal(self._signer, self._params, home_epoch, final, content)

    def _missing(self, home_epoch: int, final: LedgerState) -> int | None:
        """The first batch of which the signer log knows, and that is neither in the finalized chain, nor in the store,
        nor among the other members' copies that came here. One of them may have it."""
        home = (home_epoch, self._signer.me)
        number, _ = final.included(*home)
        later = range(number + 1, self._signer.last_batch(home_epoch) + 1)
        return next((at for at in later if not self._kept.has(home, at) and self._waiting.get(home, at) is None), None)

    def sign(self, home_epoch: int, content: bytes) -> Made | None:
        """The next batch; None where the signer log forbids it."""
        made = self._signer.sign_batch(home_epoch, content)
        if made is None:
            return None
        signed, records = made
        return signed, Persist(COMMITTEE, (self._kept.keep(signed), *records), vital=False)

    def held(self, signed: SignedBatch) -> list[object]:
        """A batch is new here. If it is this node's own, lost and given back by a member, it is kept again."""
        home = (signed.batch.home_epoch, signed.batch.oracle)
        if signed.batch.oracle != self._signer.me or self._kept.has(home, signed.batch.number):
            return []
        return [Persist(COMMITTEE, (self._kept.keep(signed),), vital=False)]
