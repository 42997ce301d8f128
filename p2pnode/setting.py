"""One thing an operator may set: its default, what it means, and the check that reads it.

A check takes the value as TOML gives it and the folder that relative paths start from; it raises ValueError, or the
error of the format it reads, saying what the value must be.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from p2pnode.address import parse_listen_address, parse_multiaddr
from protocol.core.ids import NodeId

UNSET = Path()
"""The default of a path that follows from another one."""

_ACCOUNT = re.compile("0x[0-9a-f]{40}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}")
_PORT = re.compile("[0-9]{1,5}")
_ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")

Check = Callable[[Any, Path], Any]


def setting(check: Check, doc: str) -> dict[str, Any]:
    """The metadata of a field that may be set; ``doc`` is what the operator reads beside an error."""
    return {"check": check, "doc": doc}


def number(low: int, high: int) -> Check:
    """A whole number within bounds, both included."""

    def check(value: Any, _: Path) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def number_of(numbers: Sequence[int]) -> Check:
    """One of some whole numbers."""

    def check(value: Any, _: Path) -> int:
        if type(value) is not int or value not in numbers:
            raise ValueError(f"must be one of {', '.join(map(str, numbers))}")
        return value

    return check


def text(characters_max: int) -> Check:
    """Printable text, not empty."""

    def check(value: Any, _: Path) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= characters_max or not value.isprintable():
            raise ValueError(f"must be text of 1 to {characters_max} printable characters, in quotes")
        return value

    return check


def one_of(names: Sequence[str]) -> Callable[..., str]:
    """One of some names."""

    def check(value: Any, _: Path = UNSET) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"must be one of {', '.join(names)}{nearest(str(value), names)}")
        return value

    return check


def flag(value: Any, _: Path) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise ValueError("must be true or false, without quotes")
    return value


def account(value: Any, _: Path) -> NodeId | None:
    """An address on the ledger, or None for an empty one."""
    if not isinstance(value, str) or (value and _ACCOUNT.fullmatch(value.lower()) is None):
        raise ValueError("must be 0x and 40 hexadecimal digits, in quotes")
    return NodeId(bytes.fromhex(value[2:])) if value else None


def path(value: Any, folder: Path) -> Path | None:
    """An absolute path, or None for an empty one."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a path in quotes")
    return (folder / Path(value).expanduser()).absolute() if value else None


def name_or_path(*, is_path: Callable[[str], bool]) -> Check:
    """A name, or the absolute form of a path."""

    def check(value: Any, folder: Path) -> str:
        name: str = text(4096)(value, folder)
        return str(path(name, folder)) if is_path(name) else name

    return check


def each(read: Callable[[str], Any], what: str) -> Check:
    """A list without repetitions of what ``read`` accepts."""

    def check(value: Any, _: Path) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f'must be a list of {what} in quotes: ["...", "..."]')
        if len(set(value)) != len(value):
            raise ValueError(f"names one of its {what} twice")
        return tuple(read(item) for item in value)

    return check


def each_as(read: Check, what: str) -> Check:
    """A list without repetitions of what another check accepts."""

    def check(value: Any, folder: Path) -> tuple[Any, ...]:
        return tuple(read(item, folder) for item in each(str, what)(value, folder))

    return check


def listen_address(value: str) -> str:
    """A multiaddr of this machine."""
    return str(parse_listen_address(value))


def announced_address(value: str) -> str:
    """A multiaddr that others can dial, without the peer id."""
    parsed = parse_multiaddr(value)
    if parsed.peer_id is not None or parsed.port == 0:
        raise ValueError(f"names {value}: give a host and a port from 1, without /p2p; the node adds its own")
    return str(parsed)


def endpoint(value: str) -> str:
    """The URL of a JSON-RPC endpoint."""
    if len(value) > 2_048 or not value.isprintable() or not value.startswith(("http://", "https://")):
        raise ValueError("names an endpoint that is no URL: it begins with http:// or https://")
    try:
        parsed = urlsplit(value)
        known = parsed.hostname and parsed.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("names an endpoint without a host, or with a port that cannot be")
    return value


def endpoint_if_any(value: Any, _: Path) -> str:
    """An endpoint, or empty for none."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a URL in quotes, or empty")
    return endpoint(value) if value else ""


def http_listen(value: str) -> str:
    """Where HTTP is served, as ``HOST:PORT``."""
    host_and_port(value)
    return value


def host_and_port(value: str) -> tuple[str, int]:
    """The two halves of ``127.0.0.1:8080`` or ``[::1]:8080``. Raises ValueError."""
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or _HOST.fullmatch(host) is None or _PORT.fullmatch(port) is None or int(port) > 65_535:
        raise ValueError(f"names {value[:64]!r}: give HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080; port 0 is any")
    return bare, int(port)


def web_origin(value: str) -> str:
    """An origin whose pages may call, as browsers name it; ``*`` is every one."""
    if value != "*" and _ORIGIN.fullmatch(value) is None:
        raise ValueError(f"names {value[:64]!r}: an origin is like https://app.example.org, without a path; or *")
    return value


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean …?`` if something known is near, else nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
