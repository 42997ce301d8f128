"""Miners in the node pool: where each stands, the test it is called to, and what has been measured of it."""

from enum import IntEnum

from protocol.core.signing import U32, U64, Bytes20, Bytes32
from protocol.ledger.records import Record
from protocol.ledger.statistics import Statistics


class PoolState(IntEnum):
    """Where a miner stands."""

    PENDING = 1
    """Neither tested nor called to a test: it may enlist."""
    TESTING = 2
    """It is called to a test, and takes no sessions until it has passed."""
    AVAILABLE = 3
    """It passed a test that is recent enough. It may be called to another one meanwhile."""
    JAILED = 4
    """It failed a test."""


class TestKind(IntEnum):
    """What a test is made of."""

    __test__ = False  # no test of pytest's

    CHALLENGE = 1
    """A task from public randomness."""
    LANE = 2
    """A transcript that the miner just produced, scored."""


class Vote(Record, frozen=True):
    """An oracle's report on a test."""

    oracle: Bytes20
    passed: bool
    tokens_per_second: U32
    first_token_ms: U32


class Call(Record, frozen=True):
    """A test to which a miner is called."""

    kind: TestKind
    seed: Bytes32
    """Public randomness that nobody knew before the block that called for it."""
    epoch: U64
    session: Bytes32
    """Whose lane is scored; zero in a challenge."""
    task: U32
    lane: U32
    votes: tuple[Vote, ...] = ()


class Miner(Record, frozen=True):
    """A miner in the pool."""

    owner: Bytes20
    """Who is paid."""
    model: Bytes32
    """Zero of a miner that the genesis lists, until it enlists: it serves whatever it says it does."""
    slots: U32
    claimed_tokens_per_second: U32
    enlisted: U64
    """The number of its last Enlist."""
    state: PoolState
    since_epoch: U64
    """Of its state."""
    tested_epoch: U64
    """When it last passed; 0 if it never did."""
    test: U64
    """The number of the last test that it was called to."""
    call: Call | None
    """That test, until it is decided."""
    tokens_per_second: U32
    """As its last passed test measured it."""
    first_token_ms: U32
    statistics: Statistics
