"""What is to be put on the chain, and from when on it is due."""

from dataclasses import dataclass

from protocol.committee.effects import COMMITTEE
from protocol.core.ids import NodeId
from protocol.core.machine import Key
from protocol.core.params import Params
from protocol.messages.committee import Certified
from protocol.results.evidence import Evidence

Slot = tuple[int, int]
"""Epoch and height."""

NO_SLOT: Slot = (0, 0)
"""Before all headers."""


@dataclass(frozen=True, slots=True)
class SubmitHeader:
    """Have the contract accept a header. The members are those of its epoch, who signed it."""

    certified: Certified
    members: tuple[NodeId, ...]
    key: Key = COMMITTEE
    """The certificate may hold this node's own signature, which is to be durable before."""


@dataclass(frozen=True, slots=True)
class RecordDraw:
    """Have the registry draw the committee of an epoch."""

    epoch: int
    key: Key = COMMITTEE


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """Have a node slashed."""

    convicted: NodeId
    evidence: Evidence
    key: Key = COMMITTEE


Settle = SubmitHeader | RecordDraw | ReportEvidence
"""What a node is to send to its chain. Each is safe to send again, by whomever."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the contract is, and how far the committee."""

    accepted: Slot
    """The last checkpoint's."""
    accepted_ms: int
    """When this node first knew of it."""
    newest: Slot
    """Of the last header that is final here."""
    changed: Slot
    """Of the last one whose block changed what can be settled: outcomes, accounts or names."""
    pressing_ms: int | None
    """When there was first what does not wait: a header of a later epoch, or ``checkpoint_blocks`` of changes."""


def due_ms(params: Params, standing: Standing) -> int | None:
    """From when on a header is due; None where there is none to submit. Spec: [SETTLE-DUE.1]"""
    if standing.newest <= standing.accepted:
        return None
    if standing.pressing_ms is not None:
        return max(standing.pressing_ms, standing.accepted_ms)
    wait_ms = params.checkpoint_ms if standing.changed > standing.accepted else params.checkpoint_idle_ms
    return standing.accepted_ms + wait_ms


def is_pressing(params: Params, accepted: Slot, newest: Slot, changed: Slot) -> bool:
    """Whether a header does not wait for its time: it hands over, or ends ``checkpoint_blocks`` heights in which
    something changed. Spec: [SETTLE-DUE.1]"""
    if newest[0] > accepted[0]:
        return True
    return changed > accepted and newest >= (accepted[0], accepted[1] + params.checkpoint_blocks)
