"""The mutations by name. Another role's are one more line."""

from collections.abc import Mapping

from p2pnode.sim.committee_mutations import COMMITTEE_MUTATIONS
from p2pnode.sim.fast_path_mutations import FAST_PATH_MUTATIONS
from p2pnode.sim.mutation import Mutation
from p2pnode.sim.onchain_mutations import CHAIN_MUTATIONS
from p2pnode.sim.results_mutations import RESULTS_MUTATIONS

MUTATIONS: Mapping[str, Mutation] = {
    **FAST_PATH_MUTATIONS,
    **COMMITTEE_MUTATIONS,
    **RESULTS_MUTATIONS,
    **CHAIN_MUTATIONS,
}
