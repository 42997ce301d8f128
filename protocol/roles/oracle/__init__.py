"""The oracle: a member of the committee, or a follower of it."""

from protocol.roles.oracle.events import Accuse, AnchorsSeen, ChainLost, ChainSeen, ContractSeen, Include, Report
from protocol.roles.oracle.machine import OracleMachine
from protocol.roles.oracle.settings import OracleSettings

__all__ = [
    "Accuse",
    "AnchorsSeen",
    "ChainLost",
    "ChainSeen",
    "ContractSeen",
    "Include",
    "OracleMachine",
    "OracleSettings",
    "Report",
]
