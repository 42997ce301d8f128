"""What the seed of a ``committee`` world decides: how many nodes, who follows whom, how far apart, who is faulty.

Liveness is promised while at most f members of a committee are Byzantine, lost their log or have a failed disk, so no
more than f of the smallest committee are chosen for that, whoever is elected later.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from p2pnode.sim.links import Profile
from protocol.committee import members
from protocol.committee.election import Candidate, elect
from protocol.committee.members import Committee, faulty_max
from protocol.committee.payload import NextCommittee
from protocol.core.ids import Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import keccak

NODES_MAX = 30
SYNC_MS_MAX = 30
"""The slowest sync of a sound disk, see ``p2pnode.sim.host``."""

SNAPSHOTS = (1, 2, 5, 256)
"""Heights between two snapshots of the ledger, the last one longer than any epoch here."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a profile of the scenario leaves to chance, and what it fixes; None is chance."""

    size: int | None = None
    """Members of the first committee."""
    byzantine: tuple[tuple[str, ...], ...] | None = None
    """The tricks of each Byzantine node."""
    quiet: bool = False
    """No faults but those that are planned here."""
    crashes: bool = False
    """Everybody crashes at effect boundaries again and again."""
    lossy: bool = False
    """Until the heal a large part of what members say is lost."""
    lost_logs: bool | None = None
    params: Callable[[Params], Params] | None = None
    delay_deltas: float | None = None
    """The longest real delay, in Δ."""
    even: bool = False
    """All nodes are about as far from each other as the farthest."""
    follow: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A world to be built."""

    size: int
    """Members of the first committee."""
    nodes: int
    params: Params
    profile: Profile
    follow: str
    """How the next committee is chosen: ``same``, ``rotate``, ``elect`` or ``resize``."""
    faulty: int
    """How many nodes are faulty in one way or another."""

    @property
    def delay_ms(self) -> int:
        """The longest that a message is under way where no fault is at work."""
        return self.profile.delay_us_max() // 1_000 + 1


def draw_plan(rng: Random, tuning: Tuning) -> Plan:
    """From 4 to 30 nodes, mostly few."""
    drawn = rng.choices((4, 7, 10, 13, 22, 28), (680, 220, 60, 30, 7, 3))[0]
    # A size that is none is rounded down, unless a mutation allows it.
    size = drawn if tuning.size is None else max(n for n in members.COMMITTEE_SIZES if n <= tuning.size)
    spare = rng.choice((0, 0, 1, 2, 3, 6)) if size < 20 else rng.choice((0, 1, 2))
    nodes = min(NODES_MAX, size + spare)
    follow = tuning.follow or rng.choice(("same", "rotate", "rotate", "elect", "resize"))
    smallest = 4 if follow == "resize" else size
    params = draw_params(rng, size)
    if tuning.params is not None:
        params = tuning.params(params).validate()
    deltas = tuning.delay_deltas or rng.choices((0.1, 0.5, 0.9, 2.0, 8.0), (30, 30, 20, 10, 10))[0]
    profile = _profile(rng, params, deltas, even=tuning.even)
    return Plan(size, nodes, params, profile, follow, rng.randint(0, _faulty_max(smallest)))


def _faulty_max(size: int) -> int:
    return (size - 1) // 3


def draw_params(rng: Random, size: int) -> Params:
    """Parameters small enough that a world runs into them."""
    delta_ms = rng.choice((50, 100, 100, 200))
    drawn = replace(
        Params(),
        delta_ms=delta_ms,
        # Large committees say much in a height and at every re-sending: they get fewer of them.
        resend_interval_ms=delta_ms * rng.choice((2, 4, 8, 20)) * (1 if size < 10 else 4 if size < 20 else 10),
        block_interval_ms_min=rng.choice((1, 20, 100)) + (0 if size < 10 else 20 * size),
        heartbeat_ms=rng.choice((2_000, 10_000, 30_000)),
        epoch_blocks=rng.randint(3, 12),
        block_bytes_max=65_536,
        batches_waiting_max=rng.choice((2, 8, 64)),
        heights_ahead_max=rng.choice((2, 8, 64)),
    )
    return replace(drawn, snapshot_blocks=SNAPSHOTS[drawn.epoch_blocks % len(SNAPSHOTS)]).validate()


def _profile(rng: Random, params: Params, deltas: float, *, even: bool) -> Profile:
    """Delays up to so many Δ, distance, jitter and stragglers together."""
    longest_us = int(params.delta_ms * 1_000 * deltas)
    if even:
        return Profile((longest_us * 85 // 100, longest_us * 95 // 100), 500, 0, 0)
    late_bp = rng.choice((0, 50, 300))
    late_us = longest_us // 4 if late_bp else 0
    far_us = (longest_us - late_us) * 10_000 // 13_000
    return Profile((far_us // rng.choice((2, 4, 20)), far_us), 3_000, late_bp, late_us)


def follower(follow: str, everybody: tuple[NodeId, ...], size: int) -> NextCommittee:
    """Who follows a committee, by the way that a seed has chosen: a pure function of the committee."""

    def same(committee: Committee) -> tuple[NodeId, ...]:
        return committee.members

    def rotate(committee: Committee) -> tuple[NodeId, ...]:
        count = len(everybody)
        return tuple(everybody[(committee.epoch + place) % count] for place in range(size))

    def chosen(committee: Committee) -> tuple[NodeId, ...]:
        seed = Digest(keccak(b"sim/election" + committee.epoch.to_bytes(8, "big")))
        candidates = [Candidate(node, 1 + node[0]) for node in everybody]
        wanted = size if follow == "elect" or committee.epoch % 2 else 4
        return elect(seed, candidates, 1 << 20, committee.members, wanted)

    return {"same": same, "rotate": rotate, "elect": chosen, "resize": chosen}[follow]


def promised_faulty_max(plan: Plan) -> int:
    """f of the smallest committee that the world will see."""
    return faulty_max(4 if plan.follow == "resize" else plan.size)
