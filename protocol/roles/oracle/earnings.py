"""What accounts were paid, by epoch and as what: an oracle's own books for whoever asks. Nothing is decided by them."""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from protocol.committee.storage import Record
from protocol.core.codec import pack, unpack
from protocol.core.signing import U64
from protocol.ledger.state import Share, State
from protocol.roles.oracle.syncing import Load

EARNED = b"results/earned/"
ROWS_MAX = 4_096
"""Kept in memory beside the disk, on which the last ones may not be yet."""
EPOCHS_TOLD_MAX = 256
_BYTES_MAX = 256


class EpochEarned(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an account was paid in an epoch."""

    through: U64
    """Batches that were included up to the last block that is counted here: no block counts twice."""
    miner: U64 = 0
    router: U64 = 0
    oracle: U64 = 0
    payments: U64 = 0


class Earnings:
    """Durable before the blocks are. Spec: [LEDGER-EARNED.1]"""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rows: OrderedDict[bytes, EpochEarned] = OrderedDict()

    def records(self, states: Sequence[object]) -> tuple[Record, ...]:
        """What blocks with these states after them have paid."""
        changed: dict[bytes, bytes] = {}
        for state in states:
            if isinstance(state, State):
                for key, row in self._counted(state).items():
                    self._rows[key] = row
                    self._rows.move_to_end(key)
                    changed[key] = pack(row)
        while len(self._rows) > ROWS_MAX:
            self._rows.popitem(last=False)
        return tuple(changed.items())

    def _counted(self, state: State) -> dict[bytes, EpochEarned]:
        """The rows that a block changes."""
        # In the order of the payments, so that equal runs write equal records.
        before = {key: self._row(key) for key in (_key(earned.account, state.epoch) for earned in state.earned)}
        rows = {key: row for key, row in before.items() if row is None or row.through < state.batches}
        sums = {key: row or EpochEarned(0) for key, row in rows.items()}
        for earned in state.earned:
            key = _key(earned.account, state.epoch)
            if key in sums:
                sums[key] = _with(sums[key], earned.share, earned.wei, state.batches)
        return sums

    def _row(self, key: bytes) -> EpochEarned | None:
        held = self._rows.get(key)
        if held is not None:
            return held
        data = self._load(key).get(key)
        return None if data is None else unpack(EpochEarned, data, limit_bytes=_BYTES_MAX)

    def of(self, account: bytes) -> list[tuple[int, EpochEarned]]:
        """An account's last epochs in which it was paid, the oldest first."""
        prefix = EARNED + account
        rows = {key: unpack(EpochEarned, data, limit_bytes=_BYTES_MAX) for key, data in self._load(prefix).items()}
        rows |= {key: row for key, row in self._rows.items() if key.startswith(prefix)}
        return [(int.from_bytes(key[-8:], "big"), rows[key]) for key in sorted(rows)[-EPOCHS_TOLD_MAX:]]


def _with(row: EpochEarned, share: Share, wei: int, through: int) -> EpochEarned:
    name = share.name.lower()
    changed = {name: getattr(row, name) + wei, "payments": row.payments + 1, "through": through}
    return msgspec.structs.replace(row, **changed)


def _key(account: bytes, epoch: int) -> bytes:
    return EARNED + account + epoch.to_bytes(8, "big")
