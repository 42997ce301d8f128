"""The router: finds miners for clients' sessions and relays what they sign."""

from protocol.roles.router.events import HandIn
from protocol.roles.router.leasing import ASSIGNMENT_RECORDS
from protocol.roles.router.machine import RouterMachine
from protocol.roles.router.state import RouterSettings

__all__ = ["ASSIGNMENT_RECORDS", "HandIn", "RouterMachine", "RouterSettings"]
