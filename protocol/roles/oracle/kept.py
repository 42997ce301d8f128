"""An oracle's own batches until they are final: after a crash nobody else may have them, and none could follow."""

from collections.abc import Iterator

from protocol.committee import storage
from protocol.committee.cut import Home, content_bytes_max, home_of
from protocol.committee.payload import LedgerState
from protocol.committee.signer import Signer
from protocol.committee.waiting import Waiting
from protocol.core.codec import pack
from protocol.core.params import Params
from protocol.messages.committee import SignedBatch
from protocol.roles.oracle.syncing import Load


class KeptBatches:
    """Durable together with their signatures, gone when they are final or too old. Spec: [BATCH-KEPT.1]"""

    def __init__(self, load: Load, signer: Signer) -> None:
        stored = [storage.unpack_batch(data) for data in load(storage.OPEN_BATCH).values()]
        # A batch is in the store before its signature is in the log: a crash in between leaves one that was never
        # sent, and must not be, as the next one takes its number.
        self._kept: dict[tuple[Home, int], SignedBatch] = {
            (home_of(item), item.batch.number): item for item in stored if not signer.lacks_batch(item.batch)
        }

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __iter__(self) -> Iterator[SignedBatch]:
        return iter(self._kept.values())

    def has(self, home: Home, number: int) -> bool:
        """Whether a batch is here."""
        return (home, number) in self._kept

    def offer(self, waiting: Waiting, final: LedgerState, now_ms: int) -> None:
        """They wait again, after a start."""
        for signed in self._kept.values():
            if waiting.wants(signed, final):
                waiting.add(signed, now_ms)

    def keep(self, signed: SignedBatch) -> storage.Record:
        """A batch that was just signed."""
        self._kept[home_of(signed), signed.batch.number] = signed
        return storage.open_batch_key(signed), pack(signed)

    def settle(self, final: LedgerState) -> list[storage.Record]:
        """Blocks are final: drop what is in them, and what can be in none any more."""
        done = [
            (name, signed)
            for name, signed in self._kept.items()
            if name[1] <= final.included(*name[0])[0] or name[0][1] not in final.homes.get(name[0][0], ())
        ]
        for name, _ in done:
            del self._kept[name]
        return [(storage.open_batch_key(signed), None) for _, signed in done]


def refusal(signer: Signer, params: Params, epoch: int, final: LedgerState, content: bytes) -> str | None:
    """Why a content goes into no batch; None if it may. A batch that nobody takes up would stop all that follow it."""
    if len(content) > content_bytes_max(params):
        return "it is too large for a batch"
    number, _ = final.included(epoch, signer.me)
    if signer.last_batch(epoch) >= number + params.batches_waiting_max:
        return "as many batches wait as may"
    return None
