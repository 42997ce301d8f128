"""API keys: who may ask over HTTP, and how much. A key is shown once, when it is made; the file holds only its hash.

The file is the node's, ``api-keys.json`` beside its database, mode 0600. It is read again when it changes, so that a
key that is added or revoked counts at once.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path

from protocol.core.errors import P2PNodeError

FILE = "api-keys.json"
KEYS_MAX = 10_000
FILE_BYTES_MAX = 8 << 20
NAME_CHARACTERS_MAX = 64
PREFIX = "p2p-"
"""How each key begins, so that one that leaks is recognised."""
SECRET_BYTES = 32
LOOK_EVERY_S = 0.5
"""So often the file is asked whether it changed."""


class ApiKeyError(P2PNodeError):
    """Keys that cannot be read or written, or one that is not there."""

    code = "http/keys"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the file has it. A limit of 0 is the configuration's, a total of 0 is none."""

    name: str
    id: str
    """The SHA-256 of the key in hexadecimal digits: 32 random bytes need no slow hash."""
    made_s: int
    requests_minute: int = 0
    tokens_minute: int = 0
    at_once: int = 0
    tokens_total: int = 0
    """Tokens of prompts and answers that it may use up in its life."""
    wei_total: int = 0
    """What its answers may cost in its life, in the ledger's units."""


class KeyFile:
    """The keys of a node. Another process may change them at any time."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = folder / FILE
        self._clock = clock
        self._keys: Mapping[str, ApiKey] = {}
        self._version: tuple[int, ...] | None = None
        self._look_at = -float("inf")

    def find(self, given: str) -> ApiKey | None:
        """Whose key this is. Raises ApiKeyError as long as the file cannot be read: then nobody is let in."""
        if not given.startswith(PREFIX) or len(given) > 128:
            return None
        if self._clock() >= self._look_at:
            self._look()
        # What is compared is a hash: how long it takes says nothing of the key.
        return self._keys.get(_hashed(given))

    def _look(self) -> None:
        version = _version(self.path)
        if version != self._version:
            self._keys = {key.id: key for key in read_keys(self.path)}
            self._version = version
        self._look_at = self._clock() + LOOK_EVERY_S


def read_keys(path: Path) -> Sequence[ApiKey]:
    """All keys of a file; none where there is no file. Raises ApiKeyError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ApiKeyError(f"cannot read {path}: {error.strerror}", hint="check the file and its permissions") from error
    try:
        if len(data) > FILE_BYTES_MAX:
            raise ValueError("it is too large")
        return tuple(_read_key(entry) for entry in json.loads(data)["keys"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        hint = "move it away and make the keys anew: p2pnode api-key add NAME"
        raise ApiKeyError(f"{path} is not a file of API keys: {error}", hint=hint) from error


def _read_key(entry: Mapping[str, object]) -> ApiKey:
    key = ApiKey(**entry)  # type: ignore[arg-type]
    for item in fields(ApiKey):
        value = getattr(key, item.name)
        if type(value) is not item.type or (isinstance(value, int) and value < 0):
            raise ValueError(f"{item.name} = {value!r:.40}")
    return key


def add_key(folder: Path, key: ApiKey) -> tuple[str, ApiKey]:
    """Make a key with that name and limits; gives the secret, which is nowhere else. Raises ApiKeyError."""
    if not 0 < len(key.name) <= NAME_CHARACTERS_MAX or not key.name.isprintable():
        raise ApiKeyError("a key's name is 1 to 64 printable characters", hint="p2pnode api-key add NAME")
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    made = replace(key, id=_hashed(secret), made_s=int(time.time()))
    with _changing(folder) as keys:
        if any(each.name == key.name for each in keys):
            raise ApiKeyError(
                f"there is a key named {key.name!r}", hint="`p2pnode api-key list` shows all; revoke it first"
            )
        if len(keys) >= KEYS_MAX:
            raise ApiKeyError(f"there are {KEYS_MAX} keys, the most that are held", hint="revoke some")
        keys.append(made)
    return secret, made


def revoke_key(folder: Path, name: str) -> ApiKey:
    """Take a key away, by its name or the beginning of its id. Raises ApiKeyError."""
    with _changing(folder) as keys:
        found = [key for key in keys if key.name == name or (len(name) >= 8 and key.id.startswith(name))]
        if len(found) != 1:
            what = f"no key is named {name!r}" if not found else f"{name!r} names {len(found)} keys"
            raise ApiKeyError(what, hint="`p2pnode api-key list` shows all")
        keys.remove(found[0])
    return found[0]


@contextmanager
def _changing(folder: Path) -> Iterator[list[ApiKey]]:
    """The keys, to be changed; written back when the block ends well. Raises ApiKeyError."""
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            keys = list(read_keys(path))
            yield keys
            write_private(path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=1))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ApiKeyError(
            f"cannot write {path}: {error.strerror}", hint="check the folder and its permissions"
        ) from error


def write_private(path: Path, text: str) -> None:
    """Put a file in place at once, readable by its owner only. Raises OSError."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _version(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _hashed(secret: str) -> str:
    return sha256(b"p2pnode/api-key/1" + secret.encode()).hexdigest()
