"""The scenarios by name. Another one is one more line."""

from collections.abc import Mapping

from p2pnode.sim import committee, fast_path
from p2pnode.sim.scenario import Builder

SCENARIOS: Mapping[str, Builder] = {
    "fast-path": fast_path.build,
    **{name: committee.builder(tuning) for name, tuning in committee.PROFILES.items()},
}

MAIN = ("committee", "fast-path")
"""Those that are played where none is named; the others are variants of the committee's for mutations."""
