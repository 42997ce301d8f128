"""The model registry: a name's log goes on only by its owner's hand, entry by entry."""

from protocol.core.errors import SignatureError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest, verify
from protocol.ledger.names import Alias, Name
from protocol.ledger.records import Section
from protocol.ledger.working import Working
from protocol.messages.results import NAME_BYTES_MAX, RegistryEntry, SignedEntry

ALIASES = ("", "canary", "stable")
NAMES_MAX = 10_000


def take_entry(work: Working, signed: SignedEntry) -> None:
    """The next entry of a name's log; the first makes the name its owner's. Spec: [REGISTRY-HEAD.1]"""
    entry = signed.entry
    head = work.name(entry.name)
    named = 0 < len(entry.name.encode()) <= NAME_BYTES_MAX
    if not named or entry.alias not in ALIASES or not _follows(work, head, entry):
        return
    digest = typed_digest(work.domain, entry)
    try:
        verify(digest, signed.signature, entry.owner, "the entry")
    except SignatureError:
        return
    aliases = {alias.alias: alias for alias in (() if head is None else head.aliases)}
    if entry.alias:
        aliases[entry.alias] = Alias(entry.alias, entry.number, entry.model)
    after = Name(entry.owner, entry.number, digest, entry.model, tuple(aliases[name] for name in sorted(aliases)))
    work.write(Section.NAMES, entry.name.encode(), after)


def _follows(work: Working, head: Name | None, entry: RegistryEntry) -> bool:
    if head is None:
        room = work.size(Section.NAMES) < NAMES_MAX
        return room and (entry.number, entry.previous) == (1, ZERO_DIGEST)
    return (entry.owner, entry.number, entry.previous) == (head.owner, head.number + 1, head.head)
