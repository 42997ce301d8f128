"""Many seeds of a scenario, of which none may violate anything."""

from p2pnode.sim.runner import run_many


def play(scenario: str, seeds: range, events_each: int) -> None:
    """Nothing is violated, and the worlds were worth playing: so many events each on average, and some faults."""
    results = list(run_many(seeds, (scenario,), processes=2))
    assert [(result.seed, str(result.violation)) for result in results if result.violation is not None] == []
    assert [result.seed for result in results] == list(seeds)
    assert all(4 <= result.counts.nodes <= 30 for result in results)
    assert sum(result.counts.faults for result in results) > 5 * len(results)
    assert sum(result.counts.events for result in results) > events_each * len(results)
