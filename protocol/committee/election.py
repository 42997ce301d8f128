"""Who is in a committee, and who leads when: pure functions that a contract computes as well.

The draw is by weight, without replacement: each place goes to a candidate with a probability in proportion to its
weight among those left. Integers and keccak only, one pass over the candidates for each of at most 31 places, and
candidates in the order of their node ids, so that no order of arrival matters.

Numbers are taken from a 256-bit hash modulo what is left, and nothing is drawn again. A draw below ``total`` is
uneven by less than total / 2^256: with weights that sum to less than 2^128, below 2^-128, which no one will ever
measure. Drawing again against it would need a loop without a bound, for which a contract has no use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from protocol.core.errors import LocalProtocolError
from protocol.core.ids import Digest, NetworkId, NodeId
from protocol.core.params import COMMITTEE_SIZES
from protocol.core.signing import keccak

TOTAL_WEIGHT_END = 1 << 128
"""Weights sum to less; all the wei there are need 87 bits."""

_DRAW = b"p2pnode/election/1"
_DRAW_SEED = b"p2pnode/draw-seed/1"
_SEED = b"p2pnode/epoch-seed/1"
_LEADERS = b"p2pnode/leaders/1"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that passed the gates: old enough, and not jailed."""

    node: NodeId
    stake_wei: int


def elect(
    seed: Digest,
    candidates: Sequence[Candidate],
    cap_wei: int,
    current: tuple[NodeId, ...],
    size: int = COMMITTEE_SIZES[-1],
) -> tuple[NodeId, ...]:
    """The committee that a seed draws, in the order of the draw. Spec: [ELECTION-DRAW.1]

    Args:
        candidates: In any order, each node once.
        cap_wei: Stake beyond this adds no weight.
        current: The committee that stays where there are too few candidates for the smallest one.
        size: The committee wanted; with fewer candidates it is the largest possible below.
    """
    pool = sorted(candidates, key=lambda candidate: candidate.node)
    weights = [min(candidate.stake_wei, cap_wei) for candidate in pool]
    _check(pool, weights, size)
    left, total = sum(weight > 0 for weight in weights), sum(weights)
    places = max((n for n in COMMITTEE_SIZES if n <= min(size, left)), default=0)
    if not places:
        return current
    drawn: list[NodeId] = []
    for place in range(places):
        taken = _find(weights, _number(_DRAW, seed, place) % total)
        drawn.append(pool[taken].node)
        total -= weights[taken]
        weights[taken] = 0
    return tuple(drawn)


def draw_seed(network_id: NetworkId, epoch: int, block_hash: Digest) -> Digest:
    """What an epoch's committee is drawn from, given an EVM block's hash. Spec: [ELECTION-SEED.1]"""
    return Digest(keccak(_DRAW_SEED + network_id + epoch.to_bytes(32, "big") + block_hash))


def _check(pool: Sequence[Candidate], weights: Sequence[int], size: int) -> None:
    if size not in COMMITTEE_SIZES:
        raise LocalProtocolError(f"a committee of {size} is none of 3f+1 members")
    if any(low.node == high.node for low, high in pairwise(pool)):
        raise LocalProtocolError("a candidate stands twice")
    if min(weights, default=0) < 0 or sum(weights) >= TOTAL_WEIGHT_END:
        raise LocalProtocolError("a weight is negative, or all together are 2^128 or more")


def _find(weights: Sequence[int], point: int) -> int:
    """The place of the weight that holds a point below their sum."""
    for place, weight in enumerate(weights):
        if point < weight:
            return place
        point -= weight
    raise LocalProtocolError("the point lies beyond all weights")


def leader_order(seed: Digest, turn: int, size: int) -> tuple[int, ...]:
    """Who leads the ``size`` heights of a turn, by place: leader(h) = order(h // size)[h % size].

    One hash has room for all permutations: 31! is below 2^113. Spec: [ELECTION-LEADER.1]

    Source: R. Durstenfeld's form of Fisher and Yates' shuffle.
    """
    number, order = _number(_LEADERS, seed, turn), list(range(size))
    for last in range(size - 1, 0, -1):
        number, place = divmod(number, last + 1)
        order[last], order[place] = order[place], order[last]
    return tuple(order)


def epoch_seed(network_id: NetworkId, epoch: int, root: Digest) -> Digest:
    """What the leaders of an epoch are drawn from. Spec: [ELECTION-LEADER.1]"""
    return Digest(keccak(_SEED + network_id + epoch.to_bytes(32, "big") + root))


def committee_root(members: Sequence[NodeId]) -> Digest:
    """What a header names a committee by: keccak of the addresses, each in a word. Spec: [ELECTION-ROOT.1]"""
    return Digest(keccak(b"".join([member.rjust(32, b"\0") for member in members])))


def _number(purpose: bytes, seed: Digest, counter: int) -> int:
    return int.from_bytes(keccak(purpose + seed + counter.to_bytes(32, "big")), "big")
