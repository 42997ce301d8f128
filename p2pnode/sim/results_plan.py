"""What the seed of a ``results`` world decides: who is there, who is Byzantine and how, how far apart, how soon things
are given up.

At most f oracles are Byzantine; of routers, miners and clients any may be, but for one router, some miners and one
client that are left for the promises of liveness.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from p2pnode.sim.byzantine_tricks import TRICKS
from p2pnode.sim.committee_plan import Plan
from p2pnode.sim.links import Profile
from p2pnode.sim.results_bad_clients import draw_client_ruses
from p2pnode.sim.results_bad_miners import draw_miner_ruses
from p2pnode.sim.results_bad_oracles import draw_oracle_ruses
from p2pnode.sim.results_bad_routers import draw_router_ruses
from protocol.committee.members import faulty_max
from protocol.core.params import Params

Ruses = tuple[str, ...]
ALLOCATION_WEI = 2_000_000
"""What each client has."""
CAPS_WEI = ((0,), (50_000,), (50_000, 400_000), (ALLOCATION_WEI // 2, ALLOCATION_WEI))
"""Some want nothing reserved, some all that they have, over and over: more than one deposit is worth."""
SOUND_MINERS = 3
"""Never Byzantine, with room for everybody: so whoever is waited for at the end is not waited for in vain."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a profile of the scenario leaves to chance, and what it fixes; None is chance."""

    quiet: bool = False
    """No faults but those that are planned here."""
    lanes: tuple[int, ...] | None = None
    """How many lanes sessions have."""
    oracles: tuple[Ruses, ...] | None = None
    """The ruses of each Byzantine oracle."""
    miners: tuple[Ruses, ...] | None = None
    routers: tuple[Ruses, ...] | None = None
    clients: tuple[Ruses, ...] | None = None
    params: Callable[[Params], Params] | None = None
    caps_wei: tuple[int, ...] | None = None
    """What sessions may cost."""
    follow: tuple[str, ...] = ("same",)
    """How the next committee is chosen, one of these: see ``committee_plan``."""
    spare: tuple[int, ...] = (0,)
    """Oracles beyond those that the first committee has."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Every node by name, with the ruses of those that are Byzantine."""

    oracles: tuple[str, ...]
    routers: tuple[str, ...]
    miners: tuple[str, ...]
    clients: tuple[str, ...]
    ruses: dict[str, Ruses]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.oracles, *self.routers, *self.miners, *self.clients)


@dataclass(frozen=True, slots=True)
class ResultsPlan:
    """A world to be built."""

    cast: Cast
    committee: Plan
    """What the bounds of the committee's liveness are reckoned from."""
    lanes_max: int
    lanes: tuple[int, ...]
    caps_wei: tuple[int, ...]

    @property
    def params(self) -> Params:
        """Of the network."""
        return self.committee.params


def draw_plan(rng: Random, tuning: Tuning) -> ResultsPlan:
    """From 10 to 30 nodes, mostly few."""
    size = rng.choices((4, 7), (90, 10))[0]
    # What is fixed is not drawn: so the worlds of one profile do not change with another's.
    follow = rng.choice(tuning.follow) if len(tuning.follow) > 1 else tuning.follow[0]
    spare = rng.choice(tuning.spare) if len(tuning.spare) > 1 else tuning.spare[0]
    cast = _draw_cast(rng, tuning, size, spare)
    params = _draw_params(rng, size)
    if tuning.params is not None:
        params = tuning.params(params).validate()
    profile = _profile(rng, params)
    # An announcement, a stream and a bid take five ways; who is slower bids in vain, round after round.
    params = replace(params, bid_window_ms=max(params.bid_window_ms, profile.delay_us_max() // 150)).validate()
    lanes = tuning.lanes or rng.choice(((1,), (1, 2), (2,), (1, 2, 3), (3,)))
    committee = Plan(size, size + spare, params, profile, follow, faulty_max(size))
    caps_wei = tuning.caps_wei or rng.choice(CAPS_WEI)
    return ResultsPlan(cast, committee, max(lanes), lanes, caps_wei)


def _draw_cast(rng: Random, tuning: Tuning, size: int, spare: int) -> Cast:
    routers = rng.choice((1, 2, 2, 3))
    miners = SOUND_MINERS + int(6 * rng.random() ** 2)
    clients = 1 + int(5 * rng.random() ** 2)
    bad = {
        "oracle": _draw_bad(rng, tuning.oracles, faulty_max(size), lambda: draw_oracle_ruses(rng, TRICKS)),
        "router": _draw_bad(rng, tuning.routers, routers - 1, lambda: draw_router_ruses(rng)),
        "miner": _draw_bad(rng, tuning.miners, miners - SOUND_MINERS, lambda: draw_miner_ruses(rng)),
        "client": _draw_bad(rng, tuning.clients, clients - 1, lambda: draw_client_ruses(rng)),
    }
    sizes = {"oracle": size + spare, "router": routers, "miner": miners, "client": clients}
    names: dict[str, tuple[str, ...]] = {}
    ruses: dict[str, Ruses] = {}
    for kind, count in sizes.items():
        chosen = bad[kind]
        count = max(count, len(chosen) + (SOUND_MINERS if kind == "miner" else 1))
        names[kind] = tuple(f"{kind}-{number}" for number in range(1, count + 1))
        # The first of a kind are sound; oracles take their places in the committee by chance.
        places = rng.sample(names[kind], len(chosen)) if kind == "oracle" else names[kind][count - len(chosen) :]
        ruses.update(zip(places, chosen, strict=True))
    return Cast(names["oracle"], names["router"], names["miner"], names["client"], ruses)


def _draw_bad(rng: Random, fixed: tuple[Ruses, ...] | None, most: int, draw: Callable[[], Ruses]) -> tuple[Ruses, ...]:
    number = rng.randint(0, most)
    drawn = tuple(draw() for _ in range(number))
    return drawn if fixed is None else fixed


def _draw_params(rng: Random, size: int) -> Params:
    """Parameters small enough that a world runs into them."""
    delta_ms, ack_every = rng.choice((50, 100, 200)), rng.choice((4, 16, 64))
    return replace(
        Params(),
        bids_good=rng.randint(1, 3),
        bid_window_ms=rng.choice((200, 400)),
        first_frame_timeout_ms=5_000,
        frame_gap_timeout_ms=4_000,
        lease_idle_ms=rng.choice((3_000, 20_000)),
        sessions_per_miner_max=64,
        sessions_per_router_max=24,
        sessions_per_client_max=8,
        ack_every_tokens=ack_every,
        unacked_tokens_max=2 * ack_every,
        frame_tokens_max=2 * ack_every,
        adverts_max=64,
        delta_ms=delta_ms,
        resend_interval_ms=delta_ms * rng.choice((8, 20)),
        block_interval_ms_min=rng.choice((50, 100, 200)),
        # Large committees say much in a height: they get fewer of them.
        heartbeat_ms=rng.choice((2_000, 5_000, 10_000)) * (1 if size < 7 else 4),
        epoch_blocks=rng.randint(6, 40),
        commit_window_ms=rng.choice((300, 1_000, 3_000)),
        reveal_window_ms=rng.choice((500, 1_500, 4_000)),
        result_resend_ms=rng.choice((500, 1_000, 2_000)),
        ack_wait_ms=rng.choice((200, 1_000)),
        batch_interval_ms=rng.choice((1, 50, 200)),
        lanes_observed_max=rng.choice((64, 4_096)),
        unreserved_credit_wei=rng.choice((500, 10_000, 1_000_000)),
        reservation_epochs=rng.randint(1, 6),
        snapshot_blocks=rng.choice((1, 3, 10, 256)),
        test_age_epochs=1_000,
    ).validate()


def _profile(rng: Random, params: Params) -> Profile:
    """Delays up to so many Δ, distance, jitter and stragglers together."""
    longest_us = int(params.delta_ms * 1_000 * rng.choice((0.05, 0.2, 0.5, 0.9)))
    late_bp = rng.choice((0, 50, 300))
    late_us = longest_us // 4 if late_bp else 0
    far_us = (longest_us - late_us) * 10_000 // 13_000
    return Profile((far_us // rng.choice((2, 4, 20)), far_us), 3_000, late_bp, late_us)
