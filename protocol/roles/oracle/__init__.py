"""The oracle: a member of the committee, or a follower of it."""

from protocol.roles.oracle.events import ChainLost, ChainSeen, ContractSeen, Include, Report
from protocol.roles.oracle.machine import OracleMachine
from protocol.roles.oracle.settings import OracleSettings

__all__ = ["ChainLost", "ChainSeen", "ContractSeen", "Include", "OracleMachine", "OracleSettings", "Report"]
