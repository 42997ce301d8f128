"""Golden vectors of committees and leaders, from fixed inputs: ``python -m tests.vectors.election`` writes them anew.

A vector changes only when a rule does, so its diff is the review of that change. The contract that draws is held to
the same file.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from protocol.committee.election import Candidate, committee_root, draw_seed, elect, epoch_seed, leader_order
from protocol.core.ids import Digest, NetworkId, NodeId

ELECTION = Path(__file__).with_name("election.json")

MANIFEST = {
    "suite": "election",
    "format": 1,
    "rules": ["ELECTION-DRAW.1", "ELECTION-LEADER.1", "ELECTION-ROOT.1", "ELECTION-SEED.1"],
    "reading": (
        "bytes are hex, weights decimal strings of wei; draws: elected is elect(seed, candidates as [node, stake], "
        "cap, current, size), in the order of the draw; leaders: root and seed of a committee's epoch under "
        "network_id, and for each turn the places that lead its heights; seeds: what an epoch's committee is drawn "
        "from, given the hash of an EVM block"
    ),
}

GWEI, ETHER = 10**9, 10**18
SEED = Digest(bytes(range(32)))
NETWORK = NetworkId(bytes(range(100, 132)))


def node(number: int) -> NodeId:
    """Node ids that look like addresses."""
    return NodeId(hashlib.sha256(b"election" + number.to_bytes(4, "big")).digest()[:20])


PRESENT = tuple(node(1_000 + place) for place in range(4))

STAKES: dict[str, tuple[list[int], int, int]] = {
    "nobody": ([], ETHER, 31),
    "three with weight and one without": ([ETHER, ETHER, 0, ETHER], ETHER, 31),
    "four of four": ([1, 2, 3, 4], ETHER, 31),
    "six suffice for four": ([1, 2, 3, 4, 5, 6], ETHER, 31),
    "seven wanted of forty": ([(place + 1) * GWEI for place in range(40)], ETHER, 7),
    "a cap levels what lies above it": ([10**place for place in range(18)], 10**9, 10),
    "no cap to speak of: the greatest is all but sure": ([1, 1, 1, 1, 1, 1, 1, 10**30], 2**100, 4),
    "thirty-one of fifty": ([ETHER + place * place * GWEI for place in range(50)], 32 * ETHER, 31),
    "weights up to the end": ([2**125] * 7, 2**126, 7),
    "a cap of nothing": ([ETHER] * 8, 0, 31),
}


def election_vectors() -> dict[str, Any]:
    """The content of election.json."""
    return {
        "manifest": MANIFEST,
        "draws": [_draw(name, *case) for name, case in STAKES.items()],
        "leaders": [_leaders(size, epoch) for size, epoch in ((4, 1), (7, 2), (31, 2**40))],
        "seeds": [_seed(epoch) for epoch in (2, 3, 2**40)],
    }


def _draw(name: str, stakes: list[int], cap_wei: int, size: int) -> dict[str, Any]:
    candidates = [Candidate(node(place), stake) for place, stake in enumerate(stakes)]
    elected = elect(SEED, candidates, cap_wei, PRESENT, size)
    return {
        "name": name,
        "seed": SEED.hex(),
        "candidates": [[candidate.node.hex(), str(candidate.stake_wei)] for candidate in candidates],
        "cap_wei": str(cap_wei),
        "current": [member.hex() for member in PRESENT],
        "size": size,
        "elected": [member.hex() for member in elected],
    }


def _leaders(size: int, epoch: int) -> dict[str, Any]:
    members = tuple(node(place) for place in range(size))
    root = committee_root(members)
    seed = epoch_seed(NETWORK, epoch, root)
    return {
        "network_id": NETWORK.hex(),
        "epoch": epoch,
        "members": [member.hex() for member in members],
        "root": root.hex(),
        "seed": seed.hex(),
        "turns": [[turn, list(leader_order(seed, turn, size))] for turn in (0, 1, 2**32)],
    }


def _seed(epoch: int) -> dict[str, Any]:
    block_hash = Digest(hashlib.sha256(b"block" + epoch.to_bytes(8, "big")).digest())
    seed = draw_seed(NETWORK, epoch, block_hash)
    return {"network_id": NETWORK.hex(), "epoch": epoch, "block_hash": block_hash.hex(), "seed": seed.hex()}


def main() -> None:
    """Write the vectors."""
    ELECTION.write_text(json.dumps(election_vectors(), indent=1) + "\n")


if __name__ == "__main__":
    main()
