"""The tester: an oracle's second machine, which tests the miners that the ledger calls for and reports on each."""

from protocol.roles.tester.events import (
    Called,
    CalledLane,
    Calls,
    Compare,
    Compared,
    Score,
    Scored,
    ScoringFailed,
    Tested,
)
from protocol.roles.tester.machine import TesterMachine, TesterSettings

__all__ = [
    "Called",
    "CalledLane",
    "Calls",
    "Compare",
    "Compared",
    "Score",
    "Scored",
    "ScoringFailed",
    "Tested",
    "TesterMachine",
    "TesterSettings",
]
