"""The scenarios by name. Another one is one more line."""

from collections.abc import Mapping

from p2pnode.sim import committee, fast_path, results
from p2pnode.sim.scenario import Builder

SCENARIOS: Mapping[str, Builder] = {
    "fast-path": fast_path.build,
    **{name: committee.builder(tuning) for name, tuning in committee.PROFILES.items()},
    **{name: results.builder(tuning) for name, tuning in results.PROFILES.items()},
}

MAIN = ("committee", "fast-path", "results")
"""Those that are played where none is named; the others are variants for mutations."""
