"""The signer log's rule: one slot, one signature.

The log is append-only and durable before anything that was signed leaves the node. Asked again for what it has
signed it gives the stored signature; asked for what contradicts it, it refuses. Where the records are kept is the
runtime's business (``p2pnode.signer_log``): they are handed in at the start, and every new one is handed out to be
made durable.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from protocol.core.ids import ZERO_DIGEST, Digest, NodeId, Signature
from protocol.core.signing import Domain, Sign, keccak, typed_digest
from protocol.messages.committee import NO_HEADER, Batch, SignedBatch, Statement, StatementKind, statement_digest

STATEMENT = b"signed/"
BATCH = b"batch/"
SILENCE = b"silence/"
PREFIXES = (STATEMENT, BATCH, SILENCE)
"""Of the records that belong into the signer log's own file."""

Record = tuple[bytes, bytes]

_EXCLUDED = {StatementKind.NULLIFY: StatementKind.FINALIZE, StatementKind.FINALIZE: StatementKind.NULLIFY}


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement that may leave once ``records`` are durable; they are empty if it was in the log before."""

    statement: Statement
    records: tuple[Record, ...]


class Signer:
    """One key's log. ``ready`` is False until the log is known to be whole, and again after a disk error.

    Spec: [SIGNER-ONCE.1]
    """

    def __init__(
        self,
        domain: Domain,
        me: NodeId,
        sign: Sign,
        records: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.me = me
        self.ready = False
        self.silent_before_epoch = 0
        """A key whose log was lost signs nothing before this epoch."""
        self._domain = domain
        self._sign = sign
        self._from_epoch = 0
        self._slots: dict[tuple[int, int, StatementKind], Statement] = {}
        self._batches: dict[tuple[int, int], tuple[Digest, Signature]] = {}
        self._last: dict[int, int] = {}
        """Of each home epoch the number of the last batch: asked for with every event, of thousands."""
        for name, value in (records or {}).items():
            self._load(name, value)

    def may_sign(self, epoch: int) -> bool:
        """Whether anything of this epoch may be signed at all."""
        return self.ready and epoch >= self.silent_before_epoch

    def sign(self, kind: StatementKind, epoch: int, height: int, header: bytes = NO_HEADER) -> Signed | None:
        """Sign a statement, or give the one that was signed before; None where the log forbids it."""
        known = self.signed(kind, epoch, height)
        if known is not None:
            return Signed(known, ()) if known.header == header else None
        if not self.may_sign(epoch) or self.signed(_EXCLUDED.get(kind, kind), epoch, height) is not None:
            return None
        signature = self._sign(statement_digest(self._domain, kind, epoch, height, header))
        statement = Statement(kind, epoch, height, header, signature)
        self._slots[epoch, height, kind] = statement
        return Signed(statement, ((statement_key(kind, epoch, height), bytes(header) + signature),))

    def silence(self, before_epoch: int) -> tuple[Record, ...]:
        """The log is lost: sign nothing of an earlier epoch than this. Spec: [SIGNER-LOST.1]"""
        if before_epoch <= self.silent_before_epoch:
            return ()
        self.silent_before_epoch = before_epoch
        return ((SILENCE + before_epoch.to_bytes(8, "big"), b""),)

    def signed(self, kind: StatementKind, epoch: int, height: int) -> Statement | None:
        """What the log holds for a slot."""
        return self._slots.get((epoch, height, kind))

    def statements(self, epoch: int, above: int) -> Iterator[Statement]:
        """All of an epoch above a height, the lowest first."""
        for slot in sorted(slot for slot in self._slots if slot[0] == epoch and slot[1] > above):
            yield self._slots[slot]

    def lacks(self, statement: Statement) -> bool:
        """Whether a valid statement of this key is not in the log: then the log is lost."""
        slot = (statement.epoch, statement.height, statement.kind)
        return self._remembers(statement.epoch) and slot not in self._slots

    def sign_batch(self, home_epoch: int, content: bytes) -> tuple[SignedBatch, tuple[Record, ...]] | None:
        """Sign the next batch of a home epoch; None where nothing may be signed."""
        if not self.may_sign(home_epoch):
            return None
        number = self.last_batch(home_epoch) + 1
        previous = self._batches[home_epoch, number - 1][0] if number > 1 else ZERO_DIGEST
        batch = Batch(home_epoch, self.me, number, previous, keccak(content))
        digest = typed_digest(self._domain, batch)
        signature = self._sign(digest)
        self._put_batch(home_epoch, number, digest, signature)
        return SignedBatch(batch, signature, content), ((batch_key(home_epoch, number), digest + signature),)

    def last_batch(self, home_epoch: int) -> int:
        """The number of the last batch; 0 before the first."""
        return self._last.get(home_epoch, 0)

    def lacks_batch(self, batch: Batch) -> bool:
        """Whether a valid batch of this key is not in the log."""
        return self._remembers(batch.home_epoch) and (batch.home_epoch, batch.number) not in self._batches

    def forget(self, before_epoch: int) -> None:
        """Drop closed epochs from memory: nothing of them is ever asked for again, the file keeps them."""
        self._from_epoch = max(self._from_epoch, before_epoch)
        self._slots = {slot: statement for slot, statement in self._slots.items() if slot[0] >= before_epoch}
        self._batches = {name: signed for name, signed in self._batches.items() if name[0] >= before_epoch}
        self._last = {epoch: number for epoch, number in self._last.items() if epoch >= before_epoch}

    def _put_batch(self, home_epoch: int, number: int, digest: Digest, signature: Signature) -> None:
        self._batches[home_epoch, number] = (digest, signature)
        self._last[home_epoch] = max(number, self.last_batch(home_epoch))

    def _remembers(self, epoch: int) -> bool:
        """Whether what is not here of an epoch shows a loss: not if it was forgotten, nor if the loss is known. Or
        whoever kept an old statement could silence its signer for ever."""
        return epoch >= max(self._from_epoch, self.silent_before_epoch)

    def _load(self, name: bytes, value: bytes) -> None:
        if name.startswith(STATEMENT):
            epoch, height, kind = name[-17:-9], name[-9:-1], StatementKind(name[-1])
            slot = (int.from_bytes(epoch, "big"), int.from_bytes(height, "big"), kind)
            self._slots[slot] = Statement(kind, slot[0], slot[1], value[:32], value[32:])
        elif name.startswith(SILENCE):
            self.silent_before_epoch = max(self.silent_before_epoch, int.from_bytes(name[-8:], "big"))
        elif name.startswith(BATCH):
            home_epoch, number = int.from_bytes(name[-16:-8], "big"), int.from_bytes(name[-8:], "big")
            self._put_batch(home_epoch, number, Digest(value[:32]), Signature(value[32:]))


def statement_key(kind: StatementKind, epoch: int, height: int) -> bytes:
    """The record of a statement."""
    return STATEMENT + epoch.to_bytes(8, "big") + height.to_bytes(8, "big") + bytes([kind])


def batch_key(home_epoch: int, number: int) -> bytes:
    """The record of a batch."""
    return BATCH + home_epoch.to_bytes(8, "big") + number.to_bytes(8, "big")
