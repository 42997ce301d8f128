"""What the contracts are deployed with."""

from dataclasses import dataclass

from chain.deploy import Terms as DeployTerms
from protocol.core.errors import LocalProtocolError
from protocol.core.genesis import Contracts, Genesis
from protocol.core.ids import NOBODY, NodeId
from protocol.core.signing import Domain


@dataclass(frozen=True, slots=True)
class Terms:
    """What the contracts know from their constructors; never changes."""

    domain: Domain
    addresses: Contracts
    committee: tuple[NodeId, ...]
    """Of the first epoch."""
    guardian: NodeId = NOBODY
    """Who may pause withdrawals; nobody where it is zero."""
    unit: int = 1
    """Coin in one unit of the ledger's."""
    deposit_min: int = 1
    # Checkpoints
    window_s: int = 600
    """How long a header can be challenged before money leaves by it."""
    dead_s: int = 7 * 86_400
    """Without an accepted header for so long, the exit opens."""
    terms_max: int = 8
    """How often in a row a committee may follow itself."""
    pause_max_s: int = 86_400
    # Registry
    stake_min: int = 1
    stake_cap: int = 1 << 62
    unbonding_s: int = 14 * 86_400
    slash_bp: int = 5_000
    reward_bp: int = 1_000
    size_max: int = 31
    # Inbox
    proving_s: int = 86_400

    @staticmethod
    def of(genesis: Genesis, given: DeployTerms) -> "Terms":
        """As ``chain.deploy`` would deploy them: the genesis names its contracts."""
        if genesis.contracts is None or given.token != NOBODY:
            raise LocalProtocolError("the model is of contracts that a genesis names, and of coin")
        params = genesis.params
        return Terms(
            genesis.domain(),
            genesis.contracts,
            genesis.committee,
            given.guardian,
            given.unit,
            given.deposit_min,
            given.window_s,
            given.dead_s,
            params.committee_terms_max,
            given.pause_max_s,
            given.stake_min,
            given.stake_cap,
            given.unbonding_s,
            given.slash_bp,
            given.reward_bp,
            params.committee_size_max,
            given.proving_s,
        )
