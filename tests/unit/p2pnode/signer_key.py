"""What is written into a signer log, and whose it is."""

from pathlib import Path

from p2pnode.signer_log import Record
from protocol.core.ids import NetworkId, NodeId

NODE = NodeId(bytes(range(20)))
NETWORK = NetworkId(b"n" * 32)
OTHER_NETWORK = NetworkId(b"o" * 32)


def record(epoch: int, number: int, value: bytes = b"signature") -> Record:
    """What was signed in a slot."""
    return b"signed/" + epoch.to_bytes(8, "big") + number.to_bytes(8, "big"), value


def beside(path: Path, suffix: str) -> Path:
    """A file of the same name with something behind it."""
    return path.with_name(path.name + suffix)


def silent(before_epoch: int) -> Record:
    """The record of a silence."""
    return b"silence/" + before_epoch.to_bytes(8, "big"), b""
