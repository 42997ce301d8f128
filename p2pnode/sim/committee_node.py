"""An oracle in a world: production's machine over the node's disk, with the signer log among its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from p2pnode.sim.counter import CounterLedger
from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Boot, Host, Part
from protocol.committee import storage
from protocol.committee.signer import PREFIXES, SILENCE, Signer
from protocol.core.genesis import Genesis
from protocol.roles.oracle import OracleMachine, OracleSettings

LOG_MADE = b"log"
"""Says that the signer log is the one that was made with the key, or a later one that knows its silence."""

_SLOT_KEY_BYTES = len(storage.chain_key(0, 0))


@dataclass(slots=True)
class OracleProgram:
    """A correct oracle. ``host`` is set as soon as there is one."""

    key: Key
    genesis: Genesis
    ledger: CounterLedger
    host: Host | None = field(default=None)

    def start(self, boot: Boot) -> Sequence[Part]:
        """See p2pnode.sim.host.Program."""
        assert self.host is not None
        return [Part(make_oracle(self.key, self.genesis, self.ledger, self.host.disk.records, boot))]


def make_oracle(
    key: Key, genesis: Genesis, ledger: CounterLedger, records: Mapping[bytes, bytes], boot: Boot
) -> OracleMachine:
    """The machine as the production node makes it, over records that are read whenever it asks."""
    domain = genesis.domain()
    log = {name: value for name, value in records.items() if name.startswith(PREFIXES)}
    whole = LOG_MADE in records or any(name.startswith(SILENCE) for name in log)
    settings = OracleSettings(
        key.node_id,
        genesis.committee,
        ledger,
        Signer(domain, key.node_id, key.sign, log),
        None if whole else "missing",
        partial(load, records),
    )
    return OracleMachine(settings, domain, genesis.params, key.sign, boot.now_ms)


def load(records: Mapping[bytes, bytes], prefix: bytes) -> Mapping[bytes, bytes]:
    """The records whose key starts so."""
    if prefix.startswith(storage.CHAIN) and len(prefix) == _SLOT_KEY_BYTES:
        return {prefix: records[prefix]} if prefix in records else {}
    return {name: value for name, value in records.items() if name.startswith(prefix)}
