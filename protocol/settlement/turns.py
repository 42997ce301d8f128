"""Whose turn it is to put something on the chain: everybody's, one after the other, in an order drawn by hash.

In the normal case one transaction is sent; where the one whose turn it is does nothing, the next one does.
"""

from collections.abc import Iterable

from protocol.core.ids import NetworkId, NodeId
from protocol.core.signing import keccak

_TURNS = b"p2pnode/turns/1"


def turn_order(network_id: NetworkId, subject: bytes, members: Iterable[NodeId]) -> tuple[NodeId, ...]:
    """Members in the order of their turns at a subject. Spec: [SETTLE-TURNS.1]"""
    return tuple(sorted(members, key=lambda member: keccak(_TURNS + network_id + keccak(subject) + member)))


def begins_ms(order: tuple[NodeId, ...], me: NodeId, due_ms: int, turn_ms: int) -> int | None:
    """When a member's turn begins; None if it has none. Spec: [SETTLE-TURNS.1]"""
    return due_ms + order.index(me) * turn_ms if me in order else None
