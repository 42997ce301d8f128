"""A restart: the blocks that became final after the last snapshot are executed again."""

from collections.abc import Sequence

from protocol.committee.payload import InvalidBody, claimed_roots
from protocol.committee.tree import Base, Tree
from protocol.core.errors import DecodeError
from protocol.core.ids import Digest
from protocol.core.signing import Domain, keccak
from protocol.messages.committee import Block, Certificate, header_digest


def replay(domain: Domain, tree: Tree, blocks: Sequence[Block]) -> tuple[Base, Certificate | None]:
    """Where a node's chain ends, from the snapshot that is the tree's base, and the certificate of its last block.

    Raises DecodeError if the blocks do not follow each other, or do not lead to the states that they name.
    Spec: [STATE-REPLAY.1]
    """
    at, certificate = tree.base, None
    for block in blocks:
        header = block.header
        if header.parent != at.digest or keccak(block.body) != header.body:
            raise DecodeError(f"block {header.epoch}/{header.height} on disk does not follow the one before it")
        try:
            state = tree.execute(header.height, at.state, block.body)
        except InvalidBody as error:
            raise DecodeError(f"block {header.epoch}/{header.height} on disk does not hold: {error}") from error
        if state.roots != claimed_roots(header):
            raise DecodeError(f"block {header.epoch}/{header.height} on disk leads to another state than it names")
        at, certificate = Base(header, Digest(header_digest(domain, header)), state), block.certificate
    return at, certificate
