"""The parameters of a network: frozen in its genesis, the same on every node, checked in one place.

``docs`` of each field are the parameter table of SPEC.md.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from protocol.core.errors import ParameterError

COMMITTEE_SIZES = (4, 7, 10, 13, 16, 19, 22, 25, 28, 31)
"""n = 3f+1. With any other n a quorum is larger than it need be, or two share no correct member."""


def _param(default: int, low: int, high: int, doc: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "doc": doc})


@dataclass(frozen=True, slots=True)
class Params:
    """Every number the rules depend on. Times are in milliseconds, sizes in bytes."""

    # Gossip
    gossip_message_bytes_max: int = _param(16_384, 1_024, 65_536, "largest gossip message")
    gossip_nodes_per_second: int = _param(20, 1, 100, "budget of topic nodes, network-wide")
    gossip_sessions_per_second: int = _param(50, 1, 100, "budget of topic sessions, network-wide")
    gossip_results_per_second: int = _param(15, 1, 100, "budget of topic results, network-wide")
    gossip_committee_per_second: int = _param(10, 1, 100, "budget of topic committee, network-wide")
    gossip_demand_per_second: int = _param(5, 1, 100, "budget of topic demand, network-wide")
    advert_interval_ms: int = _param(300_000, 1_000, 3_600_000, "a node repeats its advert this often, ± 20 %")
    advert_lifetime_ms: int = _param(900_000, 3_000, 7_200_000, "an advert older than this is forgotten")
    adverts_max: int = _param(20_000, 16, 1_000_000, "adverts a node remembers")
    clock_skew_ms_max: int = _param(30_000, 100, 300_000, "how far in the future a peer's clock may be")
    # Auction
    bid_target: int = _param(8, 1, 64, "bids per session that the lottery aims at")
    bids_max: int = _param(32, 1, 128, "bids per session that a router takes")
    bids_good: int = _param(3, 1, 64, "a router closes as soon as it holds this many usable bids")
    bid_window_ms: int = _param(400, 10, 10_000, "a router closes at the latest this long after announcing")
    announcement_lifetime_ms: int = _param(5_000, 100, 60_000, "an announcement is void after this")
    measurement_weight_bp: int = _param(3_000, 0, 3_000, "share of a router's own measurements in a score")
    # Leases
    lease_request_timeout_ms: int = _param(1_000, 50, 10_000, "a miner answers a lease request within this")
    lease_idle_ms: int = _param(120_000, 1_000, 3_600_000, "a lease without a running task ends after this")
    sessions_per_miner_max: int = _param(256, 1, 4_096, "leases and pending leases a miner holds")
    # Sessions and tasks
    lanes_max: int = _param(8, 1, 16, "lanes of a session")
    session_lifetime_ms_max: int = _param(86_400_000, 10_000, 604_800_000, "how far ahead a SessionOpen may expire")
    tasks_per_session_max: int = _param(1_000, 1, 100_000, "orders in one session")
    tasks_pending_per_session_max: int = _param(8, 1, 64, "orders of a session that wait or run at once")
    prompt_bytes_max: int = _param(262_144, 1_024, 1_048_576 // 2, "prompt payload of an order")
    messages_per_prompt_max: int = _param(512, 1, 4_096, "messages in a prompt payload")
    tokens_per_task_max: int = _param(32_768, 16, 1_000_000, "tokens an order may ask for")
    task_deadline_ms_max: int = _param(600_000, 1_000, 3_600_000, "longest deadline of an order")
    first_frame_timeout_ms: int = _param(60_000, 100, 600_000, "a router waits this long for a first frame")
    stall_ms_min: int = _param(1_000, 50, 60_000, "a miner whose pace is known is not taken for stalled before this")
    frame_gap_timeout_ms: int = _param(20_000, 100, 600_000, "a router waits this long between frames")
    resume_window_ms: int = _param(
        10_000, 100, 600_000, "a router holds a session this long for a client that was cut off"
    )
    # Streams
    ack_every_tokens: int = _param(64, 1, 1_024, "a client acknowledges at least this often")
    unacked_tokens_max: int = _param(128, 2, 4_096, "a miner streams at most this far beyond the last ack")
    frame_tokens_max: int = _param(128, 1, 1_024, "tokens in one frame")
    # Router queue
    queue_requests_max: int = _param(256, 1, 65_536, "requests waiting in a router's queue")
    queue_tokens_max: int = _param(1_048_576, 1_024, 1 << 30, "tokens asked for by the requests in the queue")
    queue_client_requests_max: int = _param(32, 1, 65_536, "requests of one client in the queue")
    sessions_per_router_max: int = _param(2_048, 1, 65_536, "sessions a router holds")
    sessions_per_client_max: int = _param(256, 1, 4_096, "sessions of one client a router holds")
    # Committee
    delta_ms: int = _param(500, 10, 60_000, "Δ: a message between two correct members takes at most this in good times")
    resend_interval_ms: int = _param(2_000, 20, 120_000, "members send again what may be lost, this often")
    block_interval_ms_min: int = _param(200, 1, 60_000, "a leader waits this long after it entered its height")
    heartbeat_ms: int = _param(30_000, 100, 3_600_000, "an empty block follows the last notarized one after this")
    epoch_blocks: int = _param(1_024, 1, 1 << 32, "heights of an epoch before it closes")
    block_bytes_max: int = _param(262_144, 65_536, 786_432, "body of a block; each oracle has an equal share of it")
    batches_waiting_max: int = _param(64, 1, 1_024, "batches of one oracle that a member holds before they are final")
    heights_ahead_max: int = _param(64, 2, 1_024, "statements for heights this far ahead are kept")
    # Results
    commit_window_ms: int = _param(5_000, 10, 600_000, "an oracle takes commits of a task this long after the first")
    reveal_window_ms: int = _param(5_000, 10, 600_000, "an oracle waits this long for an opening it asked for")
    result_resend_ms: int = _param(2_000, 20, 120_000, "commits and openings are sent again until final, this often")
    ack_wait_ms: int = _param(3_000, 10, 60_000, "a miner waits this long for a client's last ack before it opens")
    batch_interval_ms: int = _param(50, 1, 10_000, "an oracle signs batches at most this often")
    receipts_kept_ms: int = _param(
        3_600_000, 1_000, 604_800_000, "routers and miners serve what proves an answer for so long after its end"
    )
    lanes_observed_max: int = _param(4_096, 16, 1_000_000, "undecided lanes that an oracle holds")
    # Ledger
    unreserved_credit_wei: int = _param(1_000_000, 0, 2**62, "a miner serves a client this far ahead of a reservation")
    router_share_bp: int = _param(500, 0, 3_000, "of what a lane is paid, to the router of its assignment")
    oracle_share_bp: int = _param(500, 0, 3_000, "of what a lane is paid, to the oracles that observed its outcome")
    lane_fee_bp: int = _param(2_000, 0, 10_000, "a lane above 0 is paid this share of what its tokens cost in lane 0")
    reservation_epochs: int = _param(4, 1, 1_000, "epochs after its own for which a session's reservation holds")
    sessions_reserved_max: int = _param(100_000, 16, 10_000_000, "reservations that the ledger holds")
    miners_max: int = _param(20_000, 16, 1_000_000, "miners in the node pool")
    decay_bp: int = _param(9_500, 5_000, 10_000, "what statistics keep of their weight from one epoch to the next")
    snapshot_blocks: int = _param(256, 1, 100_000, "a node writes the whole ledger down after so many blocks")
    # Chain
    anchor_stride: int = _param(8, 1, 1_024, "the ledger is anchored at EVM blocks whose number this divides")
    checkpoint_blocks: int = _param(64, 1, 1 << 32, "blocks after the last checkpoint, the next one is due")
    checkpoint_ms: int = _param(60_000, 100, 86_400_000, "or this long after it, if there are any")
    checkpoint_idle_ms: int = _param(3_600_000, 100, 2_592_000_000, "and at least this often, whatever happens")
    turn_ms: int = _param(
        15_000, 100, 3_600_000, "each member waits this long for the one whose turn is before its own"
    )
    committee_size_max: int = _param(31, 4, 31, "the largest committee that is drawn")
    committee_terms_max: int = _param(8, 1, 1_000, "epochs that a committee stays when no other is drawn in time")
    trust_period_ms: int = _param(
        604_800_000, 1_000, 315_360_000_000, "a committee is believed this long after it was named; stake unbonds later"
    )
    registered_max: int = _param(50_000, 16, 1_000_000, "nodes of the registry that the ledger holds")
    # Node tests
    test_age_epochs: int = _param(16, 1, 100_000, "a passed test opens the pool for so many epochs")
    test_tokens: int = _param(256, 16, 4_096, "tokens of a test's answer")
    test_deadline_ms: int = _param(30_000, 100, 600_000, "a test that is not answered within this failed")
    # Engine
    microbatch_tokens: int = _param(32, 1, 63, "n_ubatch of generator and checker")
    margin_tolerance_milli: int = _param(
        100, 1, 10_000, "τ: raw margin an honest token stays below, in thousandths of a logit"
    )

    def validate(self) -> "Params":
        """Check every bound and every relation between parameters; returns self. Raises ParameterError."""
        for item in fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            if type(value) is not int or not low <= value <= high:
                raise ParameterError(f"{item.name} = {value!r} must be an integer from {low} to {high}")
        self._require(self.ack_every_tokens < self.unacked_tokens_max, "ack_every_tokens < unacked_tokens_max")
        self._require(self.frame_tokens_max <= self.unacked_tokens_max, "frame_tokens_max <= unacked_tokens_max")
        self._require(self.bids_good <= self.bids_max, "bids_good <= bids_max")
        self._require(self.bid_window_ms < self.announcement_lifetime_ms, "bid_window_ms < announcement_lifetime_ms")
        self._require(
            self.advert_interval_ms * 2 < self.advert_lifetime_ms, "2 × advert_interval_ms < advert_lifetime_ms"
        )
        self._require(self.delta_ms <= self.resend_interval_ms, "delta_ms <= resend_interval_ms")
        self._require(self.router_share_bp + self.oracle_share_bp <= 5_000, "miners keep at least half of their pay")
        self._require(self.committee_size_max in COMMITTEE_SIZES, "committee_size_max = 3f+1")
        self._require(self.checkpoint_ms <= self.checkpoint_idle_ms, "checkpoint_ms <= checkpoint_idle_ms")
        self._require(sum(self.gossip_budget().values()) <= 100, "the topics' budgets sum up to at most 100/s")
        return self

    def gossip_budget(self) -> dict[str, int]:
        """Messages a second of each topic."""
        return {
            name.removeprefix("gossip_").removesuffix("_per_second"): getattr(self, name)
            for name in (item.name for item in fields(self))
            if name.startswith("gossip_") and name.endswith("_per_second")
        }

    @staticmethod
    def _require(holds: bool, relation: str) -> None:
        if not holds:
            raise ParameterError(f"parameters must satisfy {relation}")
