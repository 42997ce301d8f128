"""Two choices: of two miners drawn by the session id, the better one.

Always taking the best would send every session to the same miner until its figures catch up; drawing two and
taking the better spreads the load almost as evenly as a perfect view would.
Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
"""

import hashlib
from collections.abc import Mapping

from protocol.core.ids import NodeId


def draw_two(session: bytes, lane: int, count: int) -> tuple[int, int]:
    """Two distinct places below ``count`` (at least 2), fixed by session and lane. Spec: [AUCTION-PICK.1]"""
    digest = hashlib.sha256(b"p2pnode/pick/1" + session + bytes([lane])).digest()
    first = int.from_bytes(digest[:8], "big") % count
    second = int.from_bytes(digest[8:16], "big") % (count - 1)
    return first, second + (second >= first)


def tie_break(session: bytes, miner: bytes) -> bytes:
    """Orders miners of equal score, differently in each session; the smaller goes first."""
    return hashlib.sha256(b"p2pnode/tie/1" + session + miner).digest()


def rank(session: bytes, scores: Mapping[NodeId, int]) -> tuple[NodeId, ...]:
    """All miners, best first."""
    return tuple(sorted(scores, key=lambda miner: (-scores[miner], tie_break(session, miner))))


def pick(session: bytes, lanes: int, scores: Mapping[NodeId, int]) -> tuple[NodeId, ...]:
    """A distinct miner for each lane; fewer where there are not enough. Spec: [AUCTION-PICK.1]"""
    left = sorted(scores)
    picked: list[NodeId] = []
    for lane in range(min(lanes, len(left))):
        drawn = draw_two(session, lane, len(left)) if len(left) > 1 else (0,)
        better = rank(session, {left[place]: scores[left[place]] for place in drawn})[0]
        picked.append(better)
        left.remove(better)
    return tuple(picked)
