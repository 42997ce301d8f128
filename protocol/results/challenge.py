"""What an oracle asks in a node test: a pure function of its signature over the test's seed.

Text that a model finds likely hides what runs it: nearly every token is the only candidate. So all questions but the
first are words without sense, answered at the highest temperature, where many tokens compete. Measured on the shipped
model: with Q4_0 in place of Q8_0 one token in six differs there, where in a story at temperature 0.7 it is one in two
hundred; honest margins stay what they are.
"""

from dataclasses import dataclass

from protocol.core.ids import Digest
from protocol.core.signing import Domain, Sign, keccak, typed_digest, verify
from protocol.messages.audits import ANSWER_TOKENS_MAX, ANSWERS_MAX, Challenge
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.session.sampling import lane_seed

GREEDY = SamplingParams(temperature_bp=0)
HOT = SamplingParams(temperature_bp=20_000)
WORDS = (
    "animal", "answer", "bed", "bird", "boat", "book", "bridge", "brother", "car", "chair", "city", "clock", "cloud",
    "coat", "colour", "corner", "cup", "day", "door", "dream", "ear", "evening", "field", "fire", "fish", "floor",
    "flower", "friend", "game", "garden", "glass", "hand", "hat", "hill", "home", "horse", "house", "island", "key",
    "kitchen", "lamp", "letter", "light", "market", "moon", "morning", "mountain", "mouth", "music", "name", "night",
    "number", "paper", "rain", "river", "road", "school", "sea", "shoe", "song", "stone", "table", "tree", "window",
)  # fmt: skip
WORDS_ASKED = 12


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a challenge, as an engine takes it."""

    messages: tuple[PromptMessage, ...]
    sampling: SamplingParams
    lane_seed: bytes
    max_tokens: int


def sign_challenge(domain: Domain, sign: Sign, challenge: Challenge) -> bytes:
    """The oracle's signature. Signing twice gives the same one, so a test that is begun again asks the same."""
    return sign(typed_digest(domain, challenge))


def check_challenge(domain: Domain, challenge: Challenge, signature: bytes) -> None:
    """Raises SignatureError unless its oracle signed it."""
    verify(typed_digest(domain, challenge), signature, challenge.oracle, "the challenge")


def question(signature: bytes, index: int) -> Question:
    """Question ``index`` of a challenge. Spec: [TEST-CHALLENGE.1]"""
    seed = keccak(b"p2pnode/challenge/1" + signature + index.to_bytes(4, "big"))
    words = [WORDS[byte % len(WORDS)] for byte in seed[:WORDS_ASKED]]
    if index == 0:
        text, sampling = f"Tell me a story about a {words[0]} and a {words[1]}.", GREEDY
    else:
        text, sampling = " ".join(words), HOT
    noise = lane_seed(Digest(seed), sampling.choice, 0)
    return Question((PromptMessage("user", text),), sampling, noise, ANSWER_TOKENS_MAX)


def is_complete(test_tokens: int, answers: int, tokens: int) -> bool:
    """Whether so many whole answers with so many tokens in all make a challenge complete. Spec: [TEST-CHALLENGE.1]"""
    return tokens >= test_tokens or answers >= ANSWERS_MAX
