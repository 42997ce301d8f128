"""How long things may take once all faults are over: what L1, L2, L5 and L8 hold a world to, from its own numbers.

A *hop* is one message between correct members: the longest real delay, and six syncs of a disk, since what a member
says waits for a block, a certificate, a finalized state and its own signature to be durable, some of them twice.

At a height with a correct leader all correct members enter within a hop of each other (whoever leaves sends the
certificate to all), the leader waits ``block_interval_ms_min``, proposes (a hop), and votes go round (a hop). So the
height ends notarized before anybody's timer fires once 3Δ·2^k ≥ 4 hops; ``doublings`` is the smallest such k. The timer
doubles for every height without a finalization beyond the first f+1, so at most f+1 + k heights pass until it is long
enough; then at most 2f heights in a row are led by faulty members (f at the end of one turn of the permutation, f at
the beginning of the next), during which it goes on doubling up to the cap; the next leader is correct, and its block
is final. A height that fails costs its timer and two hops, for the nullifies and their certificate.

A batch may have to wait for that twice: once for the end of its epoch, once for the first block of the next.
"""

from p2pnode.sim.committee_plan import SYNC_MS_MAX, Plan
from p2pnode.sim.network import DIAL_TIMEOUT_US, PATIENCE_US
from p2pnode.sim.streams import OPEN_TIMEOUT_US
from protocol.committee.members import faulty_max
from protocol.committee.timing import DOUBLINGS_MAX
from protocol.roles.oracle import syncing
from protocol.roles.oracle.links import RETRY_MS_MAX

SYNCS_A_HOP = 6


class Bounds:
    """Of one world. All in milliseconds."""

    def __init__(self, plan: Plan) -> None:
        params = plan.params
        self.plan = plan
        self.delta_ms = params.delta_ms
        self.hop_ms = plan.delay_ms + SYNCS_A_HOP * SYNC_MS_MAX
        self.faulty_max = faulty_max(plan.size)
        self.doublings = next(k for k in range(64) if 3 * self.delta_ms << k >= 4 * self.hop_ms)
        assert self.doublings <= DOUBLINGS_MAX, "the real delay is beyond what the back-off reaches"

    @property
    def in_time(self) -> bool:
        """Whether real delays are such that no timer of a height with a correct leader ever fires."""
        return self.doublings == 0

    def timer_ms(self, doublings: int) -> int:
        """T after so many doublings."""
        capped = min(DOUBLINGS_MAX, doublings)
        return self.plan.params.block_interval_ms_min + (3 * self.delta_ms << capped)

    @property
    def final_ms(self) -> int:
        """Until a block is final, from a time at which the back-off is at its beginning. See the module."""
        f, k = self.faulty_max, self.doublings
        timers = (f + 1) * self.timer_ms(0)
        timers += sum(self.timer_ms(doublings) for doublings in range(1, k + 2 * f + 2))
        return timers + 2 * self.hop_ms * (3 * f + k + 3)

    @property
    def backed_off_ms(self) -> int:
        """The same from a time at which it may be anywhere: it is long enough, or gets there as above."""
        f = self.faulty_max
        return self.final_ms + (2 * f + 2) * (self.timer_ms(DOUBLINGS_MAX) + 2 * self.hop_ms)

    @property
    def item_ms(self) -> int:
        """L1: until a batch that a correct member signed is final: the end of an epoch, its hand-over, a block."""
        return self.plan.params.heartbeat_ms + 2 * self.final_ms + 2 * self.hop_ms + self.sync_ms(1)

    @property
    def links_ms(self) -> int:
        """Until all links between correct members stand again after the worst: a connection that died unheard is given
        up, the next try is waited for, fails slowly, and the one after it works."""
        patience_ms, open_ms, dial_ms = PATIENCE_US[1] // 1_000, OPEN_TIMEOUT_US // 1_000, DIAL_TIMEOUT_US // 1_000
        return patience_ms + 2 * RETRY_MS_MAX + open_ms + dial_ms + 4 * self.hop_ms

    def sync_ms(self, epochs: int) -> int:
        """Until a node that so many epochs have passed has all their blocks: for each of them at most f peers that give
        nothing are asked before one that does; a page is a dial, a stream, a question and an answer."""
        page_ms = 7 * self.plan.delay_ms + 4 * SYNC_MS_MAX
        patience_ms = syncing.ANSWER_TIMEOUT_DELTAS * self.delta_ms
        doublings = next(k for k in range(64) if patience_ms << k >= page_ms)
        # Whoever stays silent makes the next be waited for longer.
        waits = range(doublings + 2 * self.faulty_max)
        fruitless_ms = sum((patience_ms << min(syncing.DOUBLINGS_MAX, k)) + self.delta_ms for k in waits)
        blocks_ms = self.plan.params.epoch_blocks * 4 * SYNC_MS_MAX
        return (epochs + 1) * (page_ms + fruitless_ms + blocks_ms)

    def restart_ms(self, epochs: int) -> int:
        """L5: until a member that comes back signs again: two rounds of re-sending, catching up, and a height that
        asks for its word."""
        connect_ms = 7 * self.plan.delay_ms + 2 * RETRY_MS_MAX
        return connect_ms + 2 * self.plan.params.resend_interval_ms + self.sync_ms(epochs) + self.item_ms

    def healed_ms(self, epochs: int) -> int:
        """From the heal until whatever waited is final."""
        resend_ms = 2 * self.plan.params.resend_interval_ms
        return self.links_ms + resend_ms + self.sync_ms(epochs) + self.backed_off_ms + self.item_ms

    @property
    def told_ms(self) -> int:
        """Until everybody has heard, by gossip or sync, of something that is final: the leader of a final block tells,
        unless it is faulty, and there is one at least every ``heartbeat_ms``."""
        blocks = 2 * self.faulty_max + 2
        return blocks * (self.plan.params.heartbeat_ms + self.final_ms) + self.sync_ms(2)
