"""What oracles and gossip get of a lane: nothing of prompt or answer, and no digest that could be tried out."""

import hashlib
import struct
from collections.abc import Iterator

import pytest

from protocol.core.codec import encode, pack
from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import Publish, Send, SendAll
from protocol.core.signing import keccak
from protocol.messages.tasks import EndReason, EndRecord
from protocol.session.transcript import advance, close_chain, prompt_tokens_digest
from tests.unit.protocol.machines import PROMPT, PROMPT_TOKENS, ROUTER, opening_of
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed, Withheld

WORDS = [b"%d " % number for number in range(30)]


class Overheard(Bound):
    """All bytes that go anywhere but to the session's router."""

    def perform(self, effect: object) -> None:
        super().perform(effect)
        match effect:
            case Publish() | SendAll():
                self.overheard.append(encode(effect.message))
            case Send() if effect.channel in self.links.values():
                self.overheard.append(encode(effect.message))

    overheard: list[bytes]


def digests_of(data: bytes) -> Iterator[bytes]:
    """What somebody would compute who guesses."""
    yield hashlib.sha256(data).digest()
    yield keccak(data)


def guesses() -> Iterator[bytes]:
    """Digests of prompt and answer as one who knows both, and no nonce, would try them."""
    text, ids = b"".join(WORDS), struct.pack(">30I", *range(30))
    question = PROMPT.messages[0].content.encode()
    words = struct.pack(f">{len(PROMPT_TOKENS)}I", *PROMPT_TOKENS)
    for data in (text, ids, question, words, pack(PROMPT.messages[0]), text.strip(), ids + text):
        yield from digests_of(data)
    yield prompt_tokens_digest(b"", PROMPT_TOKENS)
    yield prompt_tokens_digest(bytes(32), PROMPT_TOKENS)
    chain = ZERO_DIGEST
    for index, word in enumerate(WORDS):
        chain = advance(chain, index + 1, index, word)
        yield chain
    yield close_chain(chain, EndRecord(EndReason.STOP, len(PROMPT_TOKENS), len(WORDS), 0))


@pytest.mark.spec("RESULT-SECRET.1")
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_nothing_of_prompt_and_answer_goes_to_oracles_or_gossip(lanes: int) -> None:
    mine = Overheard()
    mine.overheard = []
    for number in range(6):
        run = Streamed(mine, opening_of(lanes=lanes, number=number))
        run.end(len(WORDS))
        assert run.text == b"".join(WORDS)
        run.ack()
        if lanes > 1:
            withheld = Withheld(mine, opening_of(lanes=2, number=50 + number), task=1)
            withheld.end(len(WORDS))
        mine.tell_closed(run.channel)
    mine.wait(1_000)
    for number in range(6):
        mine.ask(0, 1, 2, 3, opening=opening_of(lanes=lanes, number=number))
        mine.ask(0, 1, 2, 3, opening=opening_of(lanes=2, number=50 + number))
    mine.wait(20_000)
    everything = b"".join(mine.overheard)
    assert len(everything) > 10_000
    assert (len(mine.gossip) > 0) == (lanes > 1)
    question = PROMPT.messages[0].content.encode()
    fragments = [question, question[:8], question[-8:], b"".join(WORDS), b"".join(WORDS[10:14]), PROMPT.nonce]
    for secret in (*fragments, *guesses()):
        assert secret not in everything
        assert secret[::-1] not in everything
    assert everything.count(ROUTER.node), "so what is looked for would be found"


@pytest.mark.spec("RESULT-SECRET.1")
def test_before_it_is_opened_not_even_the_result_can_be_tried() -> None:
    mine = Overheard()
    mine.overheard = []
    Withheld(mine).end(5)
    mine.wait(1_000)
    (kept,) = (value for value in mine.machine._proving.outstanding.held.values())
    everything = b"".join(mine.overheard)
    opening, reveal = kept.stored.opening, kept.stored.reveal.reveal
    secrets = (reveal.root, reveal.salt, opening.chain, opening.segments[0].prompt_tokens)
    assert kept.stored.commit.commit.commitment in everything
    assert not [secret for secret in secrets if secret in everything]
