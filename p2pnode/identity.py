"""The node key: one secp256k1 key that is a node's libp2p peer id and its EVM address at once (DESIGN §3).

A peer id holds the whole public key, so a node id follows from it; the other way it does not: whoever wants to
dial a node id needs an address that names the peer id.
"""

import json
import os
import secrets
from pathlib import Path

import base58
from coincurve import PrivateKey, PublicKey

from p2pnode.recursion import bound_recursion
from protocol.core.errors import P2PNodeError
from protocol.core.ids import NodeId, Signature
from protocol.core.signing import node_id_of_public_key

SCRYPT_N_STANDARD = 1 << 18
"""Work of unlocking a keystore on a real network: about a second and 256 MiB."""

SCRYPT_N_TESTNET = 1 << 14
"""Work of unlocking a keystore on a testnet, where many nodes start on one machine."""

_PEER_ID_PREFIX = bytes.fromhex("002508021221")
"""An identity multihash (0x00, 37 bytes) of libp2p's protobuf PublicKey{secp256k1, 33 bytes}."""


class KeystoreError(P2PNodeError):
    """A key file that cannot be written, read or unlocked; its hint says what to do next."""

    code = "identity/keystore"


class NodeKey:
    """The secret key of a node. Never printed: its repr shows the address only."""

    __slots__ = ("_key", "node_id")

    def __init__(self, secret: bytes) -> None:
        try:
            self._key = PrivateKey(secret)
        except ValueError as error:
            raise KeystoreError("a node key is 32 bytes between 1 and the order of secp256k1, exclusive") from error
        self.node_id: NodeId = node_id_of_key(self.public_key)

    @classmethod
    def generate(cls) -> "NodeKey":
        """A fresh key from the operating system's entropy."""
        return cls(PrivateKey(secrets.token_bytes(32)).secret)

    def __repr__(self) -> str:
        return f"NodeKey(0x{self.node_id.hex()})"

    @property
    def secret(self) -> bytes:
        """The 32 secret bytes, for libp2p and the keystore; handle with care."""
        return self._key.secret

    @property
    def public_key(self) -> bytes:
        """The compressed public key: 33 bytes."""
        return self._key.public_key.format(compressed=True)

    @property
    def peer_id(self) -> str:
        """The libp2p peer id in base58, as multiaddrs carry it (``16Uiu2HA…``)."""
        return base58.b58encode(_PEER_ID_PREFIX + self.public_key).decode()

    def sign(self, digest: bytes) -> Signature:
        """Sign 32 bytes that are already a digest: ``r || s || v`` with low ``s``, ``v`` in {27, 28}."""
        if len(digest) != 32:
            raise ValueError(f"a digest is 32 bytes, not {len(digest)}")
        signature = self._key.sign_recoverable(digest, hasher=None)
        return Signature(signature[:64] + bytes([signature[64] + 27]))


def node_id_of_key(public_key: bytes) -> NodeId:
    """The node id of a serialised secp256k1 public key, compressed or not. Raises ValueError if it is none."""
    return node_id_of_public_key(PublicKey(public_key).format(compressed=False)[1:])


def public_key_of_peer_id(peer_id: str | bytes) -> bytes:
    """The compressed public key inside a peer id, base58 or raw.

    Raises ValueError for a peer id of another key type: only secp256k1 keys have a node id.
    """
    raw = base58.b58decode(peer_id) if isinstance(peer_id, str) else peer_id
    if len(raw) != len(_PEER_ID_PREFIX) + 33 or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError("the peer id holds no secp256k1 key")
    return raw[len(_PEER_ID_PREFIX) :]


def node_id_of_peer_id(peer_id: str | bytes) -> NodeId:
    """The node id of a peer id, base58 or raw. Raises ValueError for a peer id without a secp256k1 key."""
    return node_id_of_key(public_key_of_peer_id(peer_id))


def create_key(path: Path, password: str, *, scrypt_n: int = SCRYPT_N_STANDARD) -> NodeKey:
    """Make a node key with its signer log; both are durable when this returns.

    The only way to a new key: a log that is made later would claim that the key has signed nothing. Raises
    KeystoreError if the file exists or cannot be written, SignerLogError if the log cannot.
    """
    from p2pnode.signer_log import create_signer_log

    key = NodeKey.generate()
    # The slow part first, and the log before the key: whatever ends the process in between, no key lacks its log,
    # and hardly ever a log its key.
    document = _keystore_document(key, password, scrypt_n)
    _make_folder(path)
    create_signer_log(path, key.node_id)
    _write_keystore(path, document)
    return key


def write_keystore(path: Path, key: NodeKey, password: str, *, scrypt_n: int = SCRYPT_N_STANDARD) -> None:
    """Write a key that has its signer log as a Web3 keystore v3, mode 0600, durable when this returns.

    Raises KeystoreError if the file exists (a key is never overwritten) or cannot be written.
    """
    document = _keystore_document(key, password, scrypt_n)
    _make_folder(path)
    _write_keystore(path, document)


def _keystore_document(key: NodeKey, password: str, scrypt_n: int) -> str:
    # eth_keyfile takes most of a second to import, and most commands touch no key file.
    from eth_keyfile.keyfile import create_keyfile_json

    bound_recursion()

    return json.dumps(create_keyfile_json(key.secret, password.encode(), version=3, kdf="scrypt", iterations=scrypt_n))


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        hint = "name a folder" if isinstance(error, FileExistsError) else "check the folder and its permissions"
        raise KeystoreError(f"cannot write {path}: {error.strerror}", hint=hint) from error


def _write_keystore(path: Path, document: str) -> None:
    try:
        _write_once(path, document)
    except FileExistsError as error:
        if not path.exists():
            raise KeystoreError(f"cannot write {path}: {error.strerror}", hint="name a folder") from error
        raise KeystoreError(
            f"{path} exists", hint="name another file, or move this one away if its key is retired"
        ) from error
    except OSError as error:
        raise KeystoreError(
            f"cannot write {path}: {error.strerror}", hint="check the folder and its permissions"
        ) from error


def read_keystore(path: Path, password: str) -> NodeKey:
    """Read and unlock a Web3 keystore v3. Raises KeystoreError: no file, no keystore, or a wrong password."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise KeystoreError(f"no key file at {path}", hint="create one first, or correct the path") from error
    except OSError as error:
        raise KeystoreError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    except ValueError as error:
        raise KeystoreError(f"{path} is no keystore (not JSON)", hint="restore it from a backup") from error
    if not isinstance(document, dict) or document.get("version") != 3:
        raise KeystoreError(f"{path} is no Web3 keystore of version 3", hint="restore it from a backup")
    from eth_keyfile.keyfile import decode_keyfile_json

    bound_recursion()

    try:
        secret = decode_keyfile_json(document, password.encode())
    except ValueError as error:
        if "MAC" not in str(error):
            raise KeystoreError(f"{path} is damaged ({error})", hint="restore it from a backup") from error
        raise KeystoreError(f"wrong password for {path}", hint="try again with the one it was created with") from error
    except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise KeystoreError(f"{path} is damaged ({error!r})", hint="restore it from a backup") from error
    return NodeKey(secret)


def keystore_address(path: Path) -> NodeId:
    """Whose key a keystore holds, as it says without its password. Raises KeystoreError."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["address"]
        return NodeId(bytes.fromhex(str(said).removeprefix("0x")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise KeystoreError(f"{path} is no keystore", hint="restore it from a backup") from error


def _write_once(path: Path, content: str) -> None:
    """Write a new file that only its owner may read, whole or not at all. Raises FileExistsError, OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, a link fails where a file already stands
    finally:
        os.unlink(draft)
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
