"""The mutations by name. Another role's are one more line."""

from collections.abc import Mapping

from p2pnode.sim.committee_mutations import COMMITTEE_MUTATIONS
from p2pnode.sim.fast_path_mutations import FAST_PATH_MUTATIONS
from p2pnode.sim.mutation import Mutation

MUTATIONS: Mapping[str, Mutation] = {
    **FAST_PATH_MUTATIONS,
    **COMMITTEE_MUTATIONS,
}
