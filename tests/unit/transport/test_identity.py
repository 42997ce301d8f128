"""The node key: one key, two names, and a file that is written once."""

import json
import stat
from pathlib import Path

import pytest
from coincurve import PublicKey
from eth_account import Account

from p2pnode.identity import (
    SCRYPT_N_TESTNET,
    KeystoreError,
    NodeKey,
    node_id_of_peer_id,
    public_key_of_peer_id,
    read_keystore,
    write_keystore,
)

KEY = NodeKey(bytes(range(1, 33)))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_the_node_id_is_the_evm_address() -> None:
    assert "0x" + KEY.node_id.hex() == Account.from_key(KEY.secret).address.lower()


def test_the_node_id_follows_from_the_peer_id() -> None:
    assert KEY.peer_id.startswith("16Uiu2HA")
    assert node_id_of_peer_id(KEY.peer_id) == KEY.node_id
    assert public_key_of_peer_id(KEY.peer_id) == KEY.public_key


@pytest.mark.parametrize(
    "peer_id", ["", "0OIl", "12D3KooWGC6TvWhfajpgX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5", b"", bytes(39)]
)
def test_a_peer_id_without_a_secp256k1_key_has_no_node_id(peer_id: str | bytes) -> None:
    with pytest.raises(ValueError):
        node_id_of_peer_id(peer_id)


@pytest.mark.parametrize("n", range(50))
def test_signatures_recover_and_are_low(n: int) -> None:
    digest = n.to_bytes(32, "big")
    signature = KEY.sign(digest)
    assert len(signature) == 65
    assert signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2
    recoverable = signature[:64] + bytes([signature[64] - 27])
    recovered = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert recovered.format() == KEY.public_key


def test_only_digests_are_signed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KEY.sign(b"a message")


@pytest.mark.parametrize("secret", [b"", bytes(32), ORDER.to_bytes(32, "big"), bytes(33)])
def test_what_is_no_key(secret: bytes) -> None:
    with pytest.raises(KeystoreError):
        NodeKey(secret)


def test_keys_differ_and_keep_their_secret() -> None:
    assert NodeKey.generate().node_id != NodeKey.generate().node_id
    assert KEY.secret.hex() not in repr(KEY)


def test_a_keystore_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "node.json"
    write_keystore(path, KEY, "päss", scrypt_n=SCRYPT_N_TESTNET)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keystore(path, "päss").node_id == KEY.node_id
    assert Account.decrypt(json.loads(path.read_text()), "päss") == KEY.secret
    assert list(path.parent.iterdir()) == [path]


def test_a_keystore_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    write_keystore(path, KEY, "a", scrypt_n=2)
    before = path.read_bytes()
    with pytest.raises(KeystoreError, match="exists"):
        write_keystore(path, NodeKey.generate(), "b", scrypt_n=2)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_password_says_so(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    write_keystore(path, KEY, "right", scrypt_n=2)
    with pytest.raises(KeystoreError, match="wrong password"):
        read_keystore(path, "wrong")


@pytest.mark.parametrize(
    "content", ["", "no json", "[]", "{}", '{"version": 3}', '{"version": 3, "crypto": {"kdf": 1}}']
)
def test_a_damaged_keystore_says_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "node.json"
    path.write_text(content)
    with pytest.raises(KeystoreError):
        read_keystore(path, "x")


def test_a_missing_keystore_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="no key file"):
        read_keystore(tmp_path / "nowhere.json", "x")


def test_an_unwritable_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeystoreError, match="cannot write"):
        write_keystore(tmp_path / "file" / "node.json", KEY, "x", scrypt_n=2)
