"""S15: no correct node is ever held to account by a correct node for what it published or passed on."""

from p2pnode.sim.checkers import Checker
from p2pnode.sim.host import Host
from protocol.core.ids import NodeId
from protocol.gossip import Checked, Decision


class NobodyIsBlamed(Checker):
    """S15."""

    invariant = "S15"

    def judged(self, host: Host, forwarder: Host, origin: NodeId, topic: str, checked: Checked) -> None:
        """A REJECT costs its forwarder standing."""
        if checked.decision is Decision.REJECT and host.correct and forwarder.correct and forwarder is not host:
            author = self.world.by_id[origin]
            way = "" if author is forwarder else f", handed over by {forwarder.name}"
            self.fail(f"rejects a message of {author.name} on {topic}{way}: {checked.reason}", host)
