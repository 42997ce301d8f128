"""L6: after a miner's death its client gets the next frame within stall detection plus the standby's first token.

The bound, once faults are over and as long as a sound miner has a free slot:

    frame_gap_timeout_ms            until the router takes a silent miner for lost; a reset stream says so at once
  + lease_request_timeout_ms        if the standby that is asked first has died too, unnoticed
  + RETRY_MS_MAX + 8 bid_window_ms  if no standby is left: a pause, and another round of bids, which may need a window
                                    that was doubled thrice (and all rounds before it together take less)
  + first token                     of the slowest engine
  + 24 delays                       notice, dial and open (5), ask and grant (2), announce by way of others (4), bid
                                    and receipt (6), order, head and frame (5), two more

A client that takes its frames directly hears the end of its own stream first, and asks the router then: 4 more.
"""

from p2pnode.sim.checkers import Checker
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from protocol.core.params import Params
from protocol.roles.client import Deliver, SessionOver, TaskHead, TaskOver, TaskText
from protocol.roles.router.rounds import RETRY_MS_MAX

DELAYS = 28


def takeover_bound_ms(params: Params, delay_ms_max: int, first_token_ms_max: int) -> int:
    """The bound of L6."""
    waits_ms = params.frame_gap_timeout_ms + params.lease_request_timeout_ms + params.bid_window_ms + RETRY_MS_MAX
    return waits_ms + first_token_ms_max + DELAYS * delay_ms_max


class TakesOver(Checker):
    """L6."""

    invariant = "L6"

    def __init__(self, bound_ms: int) -> None:
        self.bound_ms = bound_ms
        self.taken_over = 0
        self.longest_ms = 0
        self._healed = False
        self._miners: dict[tuple[str, int], bytes] = {}
        """Whose frames each client waits for, by client and order."""
        self._since_us: dict[tuple[str, int], int] = {}
        """Orders whose miner died, and when."""

    def healed(self) -> None:
        """From here on the bound holds."""
        self._healed = True

    def crashed(self, host: Host) -> None:
        """A miner dies under some orders, or a client with all of its own."""
        for table in (self._miners, self._since_us):
            for name in [name for name in table if name[0] == host.name]:
                del table[name]
        if self._healed:
            for name, miner in self._miners.items():
                if miner == host.node:
                    self._since_us.setdefault(name, self.world.now_us)
                    self.world.at(self.world.now_us + self.bound_ms * 1_000 + 1, lambda: self._check(host))

    def _check(self, host: Host) -> None:
        for (client, order), since_us in self._since_us.items():
            if self.world.now_us - since_us > self.bound_ms * 1_000:
                self.fail(
                    f"no frame of order {order} in {self.bound_ms} ms since {host.name} died", self.world.hosts[client]
                )

    def effect(self, drive: Drive, effect: object) -> None:
        """A client is shown something."""
        if not isinstance(effect, Deliver):
            return
        name = (drive.host.name, effect.handle)
        match effect.item:
            case TaskHead():
                self._miners[name] = effect.item.head.miner
            case TaskText() if name in self._since_us:
                if self._miners[name] not in self._dead():
                    self._took_over(name)
            case TaskOver() | SessionOver():
                self._miners.pop(name, None)
                if self._since_us.pop(name, None) is not None and isinstance(effect.item, TaskOver):
                    self._ended(drive.host, effect.item)

    def _dead(self) -> set[bytes]:
        return {host.node for host in self.world.hosts.values() if not host.up}

    def _took_over(self, name: tuple[str, int]) -> None:
        self.taken_over += 1
        self.longest_ms = max(self.longest_ms, (self.world.now_us - self._since_us.pop(name)) // 1_000)

    def _ended(self, host: Host, item: TaskOver) -> None:
        # Whose miner died after all was sent, or whose client has enough or is out of time, gets no other.
        if item.end is None and item.code not in (
            "cancelled",
            "deadline_exceeded",
            "session_closed",
            "session_expired",
        ):
            self.fail(f"an order whose miner died ended with {item.code}: {item.detail}", host)
