"""What is in a node's folder, and which of it a backup takes."""

from dataclasses import dataclass
from enum import Enum

from p2pnode.control import SOCKET
from p2pnode.store import DATABASE, LOCK

KEYSTORE = "node-key.json"
"""The key's name in a backup; ``keys.keystore`` may have it elsewhere."""
ADDRESSES = "addresses.json"
API_KEYS, API_USAGE = "api-keys.json", "api-usage.json"
TRANSACTIONS = "transactions.db"


class Copy(Enum):
    """What may be done with a file."""

    BACKUP = "yes"
    SNAPSHOT = "by `p2pnode backup` only"
    """SQLite, with its newest part in a second file: copied by hand while the node runs it may be torn."""
    NEVER = "never"
    NEEDLESS = "no use"


@dataclass(frozen=True, slots=True)
class StateFile:
    """One file, or several of one form (``*``)."""

    name: str
    what: str
    copy: Copy


STATE_FILES = (
    StateFile(KEYSTORE, "the node key: identity and account in one", Copy.BACKUP),
    StateFile(API_KEYS, "API keys of the HTTP surface, hashed, and their limits", Copy.BACKUP),
    StateFile(API_USAGE, "what each API key has used", Copy.BACKUP),
    StateFile(ADDRESSES, "where other nodes were last reached", Copy.BACKUP),
    StateFile(DATABASE, "sessions, bids, results, the oracle's chain", Copy.SNAPSHOT),
    StateFile(TRANSACTIONS, "transactions that were sent to the chain", Copy.SNAPSHOT),
    StateFile("signer-*.db", "what an oracle's key has signed", Copy.NEVER),
    StateFile("signer-*.db.lost-*", "a signer log that was lost, kept to be looked at", Copy.NEVER),
    StateFile(f"{KEYSTORE}.moved", "says that the key has moved to another machine", Copy.NEVER),
    StateFile(SOCKET, "what `p2pnode status` asks", Copy.NEEDLESS),
    StateFile(LOCK, "keeps a second process out; so do the `.lock` files", Copy.NEEDLESS),
)
"""In the order of the table in the README. SQLite keeps ``-wal`` and ``-shm`` beside its files."""

BACKED_UP = tuple(each.name for each in STATE_FILES if each.copy in (Copy.BACKUP, Copy.SNAPSHOT))
