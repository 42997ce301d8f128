"""What checkpoints proved of accounts, in files: should the committee die, they are what an exit takes.

Spec: [WALLET-PROOFS.1]
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, P2PNodeError
from protocol.core.ids import NodeId
from protocol.ledger.accounts import Account
from protocol.messages.committee import Certified, Header
from protocol.messages.results import LedgerProof

PROOFS_MAX = 16
"""Of an account; the oldest go first."""
PROOF_BYTES_MAX = 1 << 16
_SUFFIX = ".proof"


class WalletError(P2PNodeError):
    """Money did not move, or it cannot be told how much there is."""

    code = "wallet/failed"


@dataclass(frozen=True, slots=True)
class Proved:
    """What a checkpoint proves of an account."""

    certified: Certified
    proof: LedgerProof

    @property
    def header(self) -> Header:
        """The checkpoint."""
        assert self.certified.header is not None
        return self.certified.header

    @property
    def account(self) -> Account:
        """What it had."""
        return Account() if self.proof.value is None else Account.read(self.proof.value)


class _Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    certified: Certified
    proof: LedgerProof


class ProofFiles:
    """One folder for each account of a network, one file for each checkpoint. They were checked before."""

    def __init__(self, folder: Path, network_id: bytes) -> None:
        self._folder = folder
        self._network = network_id[:4].hex()

    def of(self, account: NodeId) -> list[Proved]:
        """Those that are here, the newest first; a file that is damaged is passed over."""
        found = []
        for path in self._paths(account):
            try:
                kept = unpack(_Kept, path.read_bytes()[: 2 * PROOF_BYTES_MAX], limit_bytes=2 * PROOF_BYTES_MAX)
            except (OSError, DecodeError):
                continue
            found.append(Proved(kept.certified, kept.proof))
        return found

    def keep(self, proved: Proved) -> None:
        """Write one down, whole or not at all. Raises WalletError."""
        place, header = self._place(NodeId(proved.proof.key)), proved.header
        path = place / f"{header.epoch:020d}-{header.height:020d}{_SUFFIX}"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            draft.write_bytes(pack(_Kept(proved.certified, proved.proof)))
            os.replace(draft, path)
            for old in self._paths(NodeId(proved.proof.key))[PROOFS_MAX:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise WalletError(
                f"cannot keep a proof in {place}: {error}", hint="check the folder and the disk"
            ) from error

    def _paths(self, account: NodeId) -> list[Path]:
        """By falling place of their checkpoints."""
        return sorted(self._place(account).glob(f"*{_SUFFIX}"), reverse=True)

    def _place(self, account: NodeId) -> Path:
        return self._folder / f"{self._network}-0x{account.hex()}"
