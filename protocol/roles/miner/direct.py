"""Streams of clients that take their frames from the miner itself, the router out of the data path.

The router's signed assignment is the token: it names session, miner and lease, and the stream's peer must be the
session's client. Everything but frames and acks still goes through the router.
"""

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId, SessionId
from protocol.core.machine import Channel, Close, Send
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.tasks import AttachDirect, DirectReady
from protocol.roles.miner.leases import Lease


class DirectStreams:
    """At most one a lease."""

    def __init__(self, node: NodeId, domain: Domain, peers: dict[Channel, NodeId]) -> None:
        self.sessions: dict[Channel, SessionId] = {}
        self._peers = peers
        self._node = node
        self._domain = domain

    def attach(self, lease: Lease, channel: Channel, message: AttachDirect) -> list[object]:
        """The client takes lane 0 on this stream from its next order on. Raises RemoteProtocolError.

        Spec: [DIRECT-TOKEN.1]
        """
        assignment = message.assignment
        verify(typed_digest(self._domain, assignment), message.signature, lease.router, "the assignment")
        lane = (assignment.miners[0], assignment.generations[0])
        if self._peers[channel] != lease.opening.client or lane != (self._node, lease.generation):
            raise RemoteProtocolError("the assignment is not this client's token of the lease of lane 0")
        replaced = self.detach(lease)
        lease.direct, self.sessions[channel] = channel, lease.session
        lease.direct_from = lease.last_task + 1
        ready = Send(channel, DirectReady(lease.session), key=lease.session)
        return [*replaced, ready]

    def detach(self, lease: Lease) -> list[object]:
        """The stream is of no use now: its lane waits until the client says, through the router, where it stands."""
        channel, lease.direct = lease.direct, None
        if channel is None:
            return []
        del self.sessions[channel], self._peers[channel]
        if lease.in_flight == channel:
            lease.in_flight = None
        return [Close(channel)]
