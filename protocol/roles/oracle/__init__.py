"""The oracle: a member of the committee, or a follower of it."""

from protocol.roles.oracle.events import Include
from protocol.roles.oracle.machine import OracleMachine, OracleSettings

__all__ = ["Include", "OracleMachine", "OracleSettings"]
