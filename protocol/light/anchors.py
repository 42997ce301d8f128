"""The headers of EVM blocks at which the ledger is, or may soon be, anchored: what gives a hand-over its time."""

from collections import OrderedDict

from protocol.core.errors import RemoteProtocolError
from protocol.light.evm import read_block

ANCHORS_KEPT = 64
"""More than the blocks that an oracle may name at once: an epoch's first final header anchors one of the last."""


class AnchorHeaders:
    """See the module. A node's own chain gives them; the hash in a final header is what makes one believed."""

    def __init__(self) -> None:
        self._headers: OrderedDict[bytes, bytes] = OrderedDict()

    def __contains__(self, block: bytes) -> bool:
        return block in self._headers

    def get(self, block: bytes) -> bytes:
        """The header in RLP of the block of a hash; empty if it is not here. Spec: [ANCHOR-HEADERS.1]"""
        return self._headers.get(block, b"")

    def see(self, header: bytes) -> bool:
        """One more, in RLP; False for what is none. Spec: [ANCHOR-HEADERS.1]"""
        try:
            block = read_block(header).hash
        except RemoteProtocolError:
            return False
        self._headers[block] = header
        self._headers.move_to_end(block)
        if len(self._headers) > ANCHORS_KEPT:
            self._headers.popitem(last=False)
        return True
