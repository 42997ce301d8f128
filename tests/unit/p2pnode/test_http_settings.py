"""``[http]``: where it is served, who may call, and when a key is needed though nobody said so."""

from pathlib import Path

import pytest

from p2pnode.config import ConfigError, load_config
from p2pnode.http_role import guard_terms, keys_needed
from p2pnode.sections import HttpSection
from p2pnode.setting import host_and_port


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65_535)),
        ("api.example.org:80", ("api.example.org", 80)),
    ],
)
def test_where_it_is_served(text: str, read: tuple[str, int]) -> None:
    assert host_and_port(text) == read


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host", "host:", "host:x", "host:65536", "::1:80", "a b:80"])
def test_what_is_no_place_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"http\.listen = .*give HOST:PORT") as caught:
        load_config(None, overrides={"http.listen": [text]}, env={"P2PNODE_HOME": str(tmp_path)})
    assert caught.value.hint


@pytest.mark.parametrize("origin", ["app.example.org", "https://app.example.org/", "https://a b", "file:///x", "null"])
def test_what_is_no_origin_is_refused(origin: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an origin is like"):
        load_config(None, overrides={"http.origins": [origin]}, env={"P2PNODE_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("rule", "listen", "needed"),
    [
        ("auto", ("127.0.0.1:1", "[::1]:1", "localhost:1"), False),
        ("auto", ("127.0.0.1:1", "0.0.0.0:1"), True),
        ("auto", ("192.0.2.1:1",), True),
        ("required", ("127.0.0.1:1",), True),
        ("none", ("0.0.0.0:1",), False),
    ],
)
def test_keys_are_needed_where_others_can_reach_it(rule: str, listen: tuple[str, ...], needed: bool) -> None:
    assert keys_needed(HttpSection(keys=rule), listen) is needed


def test_only_on_loopback_its_name_is_checked() -> None:
    assert "localhost" in guard_terms(HttpSection(), ("127.0.0.1:1",)).hosts
    assert guard_terms(HttpSection(), ("0.0.0.0:1",)).hosts == frozenset()
