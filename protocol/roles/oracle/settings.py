"""What an oracle starts with."""

from dataclasses import dataclass

from protocol.committee.payload import Payload
from protocol.committee.signer import Signer
from protocol.core.ids import NodeId
from protocol.roles.oracle.syncing import Load


@dataclass(frozen=True, slots=True)
class OracleSettings:
    """See the module."""

    node: NodeId
    members: tuple[NodeId, ...]
    """The genesis committee."""
    payload: Payload
    signer: Signer
    log_lost: str | None
    """Why the signer log is known to be lost; None if it looks whole."""
    load: Load
