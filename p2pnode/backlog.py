"""What waits for the disk, as far as a node must slow down for it."""

import trio

from protocol.core.machine import Key

BACKLOG_MAX = 512
"""Effects that may wait for one key's Persist before nothing more is taken from peers."""


class Backlog:
    """The keys for which so much waits that what peers send has to wait, too: until it is on the disk it could have no
    effect, and meanwhile it would only add to what waits. The peers notice, as their streams take no more.

    Spec: [MACHINE-BACKLOG.1]
    """

    def __init__(self) -> None:
        self._behind: set[Key] = set()
        self._caught_up = trio.Event()

    def waits(self, key: Key, effects: int) -> None:
        """So many effects wait for a key's Persist."""
        if effects >= BACKLOG_MAX:
            self._behind.add(key)

    def taken_up(self, key: Key) -> None:
        """All that waited is on its way to the disk."""
        if key in self._behind:
            self._behind.discard(key)
            if not self._behind:
                self._caught_up.set()
                self._caught_up = trio.Event()

    async def keep_up(self) -> None:
        """Wait until something may be taken from peers; at once, where the disk keeps up."""
        while self._behind:
            await self._caught_up.wait()
