"""An oracle's words on the chain: the events that follow those which the ledger has, up to a final block.

Two honest oracles whose nodes know the same block of the chain say the same word up to it, whatever else they know.
"""

from collections.abc import Sequence
from typing import NamedTuple

from protocol.core.codec import pack
from protocol.core.ids import Digest
from protocol.ledger.chain import ChainState
from protocol.messages.chain import WORD_BYTES_MAX, WORD_EVENTS_MAX, ChainEvent, ChainWord, run_digest

FRAME_BYTES = 128
"""More than a word takes beside its events."""


class AnchorBlock(NamedTuple):
    """A final block of the EVM chain at which the ledger may be anchored."""

    number: int
    hash: Digest


def next_word(chain: ChainState, events: Sequence[ChainEvent], block: AnchorBlock) -> ChainWord:
    """The word that takes the ledger as far as a block, or some way there. Spec: [CHAIN-MADE.1]

    Args:
        events: All that follow those which the ledger has, of blocks up to this one.
    """
    taken = _fitting(events)
    digest = chain.digest
    for event in taken:
        digest = run_digest(digest, event)
    reached = block if len(taken) == len(events) else AnchorBlock(chain.number, Digest(chain.hash))
    return ChainWord(chain.events, taken, reached.number, reached.hash, digest)


def _fitting(events: Sequence[ChainEvent]) -> tuple[ChainEvent, ...]:
    room, taken = WORD_BYTES_MAX - FRAME_BYTES, []
    for event in events[:WORD_EVENTS_MAX]:
        room -= len(pack(event))
        if room < 0:
            break
        taken.append(event)
    return tuple(taken)
