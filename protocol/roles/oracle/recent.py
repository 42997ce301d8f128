"""The last headers that became final here, with the states after their blocks: any of them may become a checkpoint."""

from collections import OrderedDict

from protocol.core.ids import Digest
from protocol.roles.oracle.followers import Final

RECENT_MAX = 512
"""States share what they have in common, so each costs what its block changed."""


class RecentFinals:
    """By the header's digest, the oldest dropped first."""

    def __init__(self) -> None:
        self._finals: OrderedDict[bytes, Final] = OrderedDict()

    def add(self, final: Final) -> None:
        """A header is final."""
        self._finals[final.certified.certificate.header] = final
        if len(self._finals) > RECENT_MAX:
            self._finals.popitem(last=False)

    def get(self, digest: Digest) -> Final | None:
        """None where it was too long ago, or never was final here."""
        return self._finals.get(digest)
