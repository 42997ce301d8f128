"""What Byzantine oracles say of the chain: deposits that nobody made, blocks that are none, or nothing at all."""

from collections.abc import Mapping

from msgspec.structs import replace

from p2pnode.sim.results_bad_oracles import Lie, LyingSigner
from protocol.messages.chain import ChainWord, Deposited, run_digest
from protocol.messages.results import Content

GIFT = 1 << 40


def gives_itself_money(signer: LyingSigner, content: Content) -> Content:
    """Each word has one deposit more, for itself, in its right place."""
    return replace(content, words=tuple(_with_gift(signer, word) for word in content.words))


def _with_gift(signer: LyingSigner, word: ChainWord) -> ChainWord:
    for event in word.events:
        if isinstance(event, Deposited):
            signer.deposits = max(signer.deposits, event.number)
    gift = Deposited(signer.deposits + 1, signer.me, GIFT)
    return replace(word, events=(*word.events[:15], gift), digest=run_digest(word.digest, gift))


def says_nonsense_of_the_chain(signer: LyingSigner, content: Content) -> Content:
    """Blocks far ahead, digests of nothing, words of other positions."""
    rng = signer.rng
    words = [
        replace(word, number=word.number + rng.choice((1, 8, 1 << 40)), hash=rng.randbytes(32))
        for word in content.words
    ]
    words += [replace(word, first=word.first + 1) for word in content.words[:1]]
    words += [replace(word, digest=rng.randbytes(32)) for word in content.words[:1]]
    return replace(content, words=tuple(words[:8]))


def ignores_the_chain(_signer: LyingSigner, content: Content) -> Content:
    """No word of it."""
    return replace(content, words=())


WORD_LIES: Mapping[str, Lie] = {
    "gives-itself-money": gives_itself_money,
    "says-nonsense-of-the-chain": says_nonsense_of_the_chain,
    "ignores-the-chain": ignores_the_chain,
}
