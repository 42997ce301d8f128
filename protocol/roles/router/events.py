"""What a router is asked for by the node that it runs in."""

from dataclasses import dataclass

from protocol.messages.results import Submit


@dataclass(frozen=True, slots=True)
class HandIn:
    """Hand the committee what somebody signed for the ledger."""

    submit: Submit
