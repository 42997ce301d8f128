"""All that watches a ``results`` world."""

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_bounds import Bounds
from p2pnode.sim.committee_chain import OneChain
from p2pnode.sim.committee_promises import Promises
from p2pnode.sim.committee_reading import Reading
from p2pnode.sim.committee_tables import NobodyIsCutOff
from p2pnode.sim.committee_word import KeepsItsWord, OnlyTheGuilty
from p2pnode.sim.endings import EndsOnce
from p2pnode.sim.relaying import NobodyIsBlamed
from p2pnode.sim.results_byzantine import Den, Spy
from p2pnode.sim.results_cut import OneOutcome
from p2pnode.sim.results_ending import Ends, Last
from p2pnode.sim.results_levels import LevelsHold
from p2pnode.sim.results_money import CreditIsBounded, PaidAsSigned, ValueIsConserved
from p2pnode.sim.results_node import make_ledger
from p2pnode.sim.results_outcomes import NoiseIsOwn, OpensItsOwn, SeenByOne
from p2pnode.sim.results_plan import ResultsPlan
from p2pnode.sim.results_replay import OneLedger
from p2pnode.sim.results_seen import Seen
from p2pnode.sim.results_tables import results_tables
from p2pnode.sim.shown_text import ShownIsSigned
from p2pnode.sim.world import World
from protocol.committee.payload import NextCommittee, same_members


def results_checkers(
    world: World,
    plan: ResultsPlan,
    den: Den,
    last: Last,
    follow: NextCommittee = same_members,
    *,
    conserved: type[ValueIsConserved] = ValueIsConserved,
    paid: type[PaidAsSigned] = PaidAsSigned,
    ending: type[Ends] = Ends,
) -> tuple[Checker, ...]:
    """In the order in which they look: what a later one builds on comes first."""
    bounds, reading, seen = Bounds(plan.committee), Reading(world.genesis), Seen(world.genesis.domain())
    chain = OneChain(reading)
    ledger = OneLedger(reading, chain, make_ledger(world.genesis, follow))
    sound = tuple(name for name in plan.cast.oracles if name not in plan.cast.ruses)
    promises = Promises(bounds, ledger, sound)
    levels = LevelsHold(reading, seen, ledger)
    of_results = (SeenByOne(reading, seen), OneOutcome(reading, seen, ledger), OpensItsOwn(reading, seen), NoiseIsOwn())
    of_money = (conserved(seen), paid(seen, ledger), CreditIsBounded(seen))
    alone = (
        KeepsItsWord(reading),
        OnlyTheGuilty(reading),
        NobodyIsBlamed(),
        NobodyIsCutOff(),
        results_tables(),
        ShownIsSigned(),
        EndsOnce(among_liars=True),
    )
    ends = ending(bounds, seen, ledger, levels, promises, last)
    return (Spy(den), seen, *of_results, chain, ledger, *of_money, *alone, levels, promises, ends)
