"""All that watches a ``committee`` world."""

from collections.abc import Sequence
from random import Random

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_bounds import Bounds
from p2pnode.sim.committee_chain import OneChain, SameState
from p2pnode.sim.committee_ending import ComesBack
from p2pnode.sim.committee_promises import Promises
from p2pnode.sim.committee_reading import Reading
from p2pnode.sim.committee_tables import NobodyIsCutOff, committee_tables
from p2pnode.sim.committee_word import HoldsWhatItVotesFor, KeepsItsWord, OnlyTheGuilty
from p2pnode.sim.committee_work import Work
from p2pnode.sim.counter import CounterLedger
from p2pnode.sim.relaying import NobodyIsBlamed
from p2pnode.sim.world import World


def committee_checkers(
    world: World, bounds: Bounds, ledger: CounterLedger, work: Work, sound: Sequence[str]
) -> tuple[Checker, ...]:
    """In the order in which they look: what a later one builds on comes first."""
    reading = Reading(world.genesis)
    chain = OneChain(reading)
    states = SameState(reading, chain, ledger)
    promises = Promises(bounds, states, sound)
    back = ComesBack(bounds, states, promises, work, Random(f"ending/{world.seed}"), sound)
    word, guilty = KeepsItsWord(reading), OnlyTheGuilty(reading)
    alone = (HoldsWhatItVotesFor(), NobodyIsBlamed(), NobodyIsCutOff(), committee_tables())
    return (word, chain, states, guilty, *alone, promises, back)
