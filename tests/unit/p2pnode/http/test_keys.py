"""API keys: shown once, kept as a hash, and gone when they are revoked."""

import json
import threading
from pathlib import Path

import pytest

from p2pnode.http.keys import FILE, LOOK_EVERY_S, ApiKey, ApiKeyError, KeyFile, add_key, read_keys, revoke_key


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    secret, made = add_key(tmp_path / "node", ApiKey("anna", "", 0, requests_minute=5))
    path = tmp_path / "node" / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text(encoding="utf-8")
    assert secret.removeprefix("p2p-") not in path.read_text(encoding="utf-8")
    assert read_keys(path) == (made,)
    assert (made.name, made.requests_minute) == ("anna", 5)
    assert sorted(file.name for file in path.parent.iterdir()) == [FILE]


def test_a_running_node_sees_keys_come_and_go(tmp_path: Path) -> None:
    clock = Clock()
    keys = KeyFile(tmp_path, clock)
    assert keys.find("p2p-nobody") is None
    secret, made = add_key(tmp_path, ApiKey("anna", "", 0))
    clock.now += LOOK_EVERY_S
    assert keys.find(secret) == made
    assert keys.find(secret + "x") is None
    assert keys.find("x" + secret) is None
    assert keys.find("") is None
    revoke_key(tmp_path, "anna")
    clock.now += LOOK_EVERY_S
    assert keys.find(secret) is None


def test_names_are_unique_and_revoked_by_name_or_id(tmp_path: Path) -> None:
    _, first = add_key(tmp_path, ApiKey("anna", "", 0))
    with pytest.raises(ApiKeyError, match="there is a key named 'anna'"):
        add_key(tmp_path, ApiKey("anna", "", 0))
    with pytest.raises(ApiKeyError, match="1 to 64 printable"):
        add_key(tmp_path, ApiKey("a\n", "", 0))
    with pytest.raises(ApiKeyError, match="no key is named 'ann'"):
        revoke_key(tmp_path, "ann")
    with pytest.raises(ApiKeyError, match="no key is named"):
        revoke_key(tmp_path, first.id[:7])
    assert revoke_key(tmp_path, first.id[:8]) == first
    assert read_keys(tmp_path / FILE) == ()


def test_keys_that_are_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(tmp_path, ApiKey(f"k{n}", "", 0))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(tmp_path / FILE)} == {f"k{n}" for n in range(8)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"keys": [1]}',
        '{"keys": [{"name": "a"}]}',
        '{"keys": [{"name": "a", "id": "b", "made_s": "1"}]}',
        '{"keys": [{"name": "a", "id": "b", "made_s": 1, "at_once": -1}]}',
        '{"keys": [{"name": "a", "id": "b", "made_s": 1, "more": 1}]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_refused_and_never_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ApiKeyError) as caught:
        add_key(tmp_path, ApiKey("anna", "", 0))
    assert caught.value.hint
    assert path.read_text(encoding="utf-8") == text


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    _, made = add_key(tmp_path, ApiKey("anna", "", 0, tokens_total=9))
    entry = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["keys"][0]
    assert (entry["name"], entry["id"], entry["tokens_total"]) == ("anna", made.id, 9)
