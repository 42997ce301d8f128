"""What passes between the tester, its node, and the engines that the node holds to test with."""

from dataclasses import dataclass

from protocol.core.ids import ModelDigest, NodeId
from protocol.core.machine import NO_KEY, Key
from protocol.messages.results import TestReport
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage


@dataclass(frozen=True, slots=True)
class CalledLane:
    """The lane whose transcript is to be scored."""

    lane: int
    root: bytes
    """Of its outcome: what the transcript must lead to."""


@dataclass(frozen=True, slots=True)
class Called:
    """A test that the ledger calls for."""

    miner: NodeId
    test: int
    seed: bytes
    model: ModelDigest
    tokens_per_second: int
    """As the miner claims; 0: nothing, or nothing that it is held to in this test."""
    lane: CalledLane | None = None
    """None: a challenge."""


@dataclass(frozen=True, slots=True)
class Calls:
    """All tests that are called for now, of miners whose model this oracle holds; what is not among them is over."""

    calls: tuple[Called, ...]
    oracles: int = 0
    """In the present committee: a miner under test answers them one by one."""


@dataclass(frozen=True, slots=True)
class Score:
    """Render the messages and run the claimed tokens through the model; Scored or ScoringFailed comes back."""

    number: int
    model: ModelDigest
    messages: tuple[PromptMessage, ...]
    sampling: SamplingParams
    lane_seed: bytes
    ids: tuple[int, ...]
    """Of the whole answer."""
    texts: tuple[bytes, ...]
    start: int
    stop: int
    """Tokens ``start`` to before ``stop`` are scored."""
    tools: str = ""
    """As the prompt carries them."""
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Scored:
    """What the engine says of an answer."""

    number: int
    build: str
    """Of the engine."""
    margins_milli: tuple[int, ...]
    text: bytes
    """What all tokens say."""
    ends: bool
    """Whether nothing follows the last token."""
    prompt_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScoringFailed:
    """No word of the engine. ``blames_miner``: the answer holds what no engine can have made."""

    number: int
    blames_miner: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Answer the same and compare by embedding; Compared or ScoringFailed comes back."""

    number: int
    model: ModelDigest
    messages: tuple[PromptMessage, ...]
    sampling: SamplingParams
    lane_seed: bytes
    max_tokens: int
    text: str
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Compared:
    """How near two answers lie to each other."""

    number: int
    similarity_bp: int


@dataclass(frozen=True, slots=True)
class Tested:
    """A test is over: what the oracle reports, and why, for its operator."""

    __test__ = False  # no test of pytest's

    report: TestReport
    why: str
    key: Key = NO_KEY
