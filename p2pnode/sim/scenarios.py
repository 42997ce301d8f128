"""The scenarios by name. Another one is one more line."""

from collections.abc import Mapping

from p2pnode.sim import committee, fast_path, onchain, results
from p2pnode.sim.scenario import Builder

SCENARIOS: Mapping[str, Builder] = {
    "fast-path": fast_path.build,
    **{name: committee.builder(tuning) for name, tuning in committee.PROFILES.items()},
    **{name: results.builder(tuning) for name, tuning in results.PROFILES.items()},
    **{name: onchain.builder(tuning) for name, tuning in onchain.PROFILES.items()},
}

MAIN = ("committee", "fast-path", "results", "chain")
"""Those that are played where none is named; the others are variants for mutations."""
