"""The oracle: a member of the committee, or a follower of it."""

from protocol.roles.oracle.events import Include, Report
from protocol.roles.oracle.machine import OracleMachine
from protocol.roles.oracle.settings import OracleSettings

__all__ = ["Include", "OracleMachine", "OracleSettings", "Report"]
