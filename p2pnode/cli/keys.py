"""``p2pnode keys``: the node key. It is created once and never overwritten."""

import argparse
import os
import secrets
import sys
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import print_json, print_mapping
from p2pnode.config import DEVNET, NodeConfig
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.identity import NodeKey

NEW_PASSWORD = "P2PNODE_NEW_PASSWORD"
"""The environment variable for the second password of a change."""


class PasswordError(P2PNodeError):
    """No password can be had: nobody to ask, or two that differ."""

    code = "keys/password"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("keys", description="The key of this node.")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, summary in (
        ("new", "make the key (never over an existing one)"),
        ("show", "the node's id and peer id; never the secret"),
        ("password", "change the keystore's password"),
    ):
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        action.add_argument(
            "--keystore", metavar="FILE", help="the key's file (default: node-key.json in the state folder)"
        )
        action.add_argument("--password-file", metavar="FILE", help="its first line is the password")
        if name == "password":
            action.add_argument("--new-password-file", type=Path, metavar="FILE", help="its first line is the new one")
        add_config_options(action)
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    """Do one thing with the key. Raises KeystoreError, SignerLogError, PasswordError, ConfigError."""
    config = config_of(args, {"keys.keystore": args.keystore, "keys.password_file": args.password_file})
    key = {"new": _new, "show": _unlocked, "password": _change_password}[args.action](config, args)
    shown = {"node": f"0x{key.node_id.hex()}", "peer_id": key.peer_id, "keystore": str(config.keys.keystore)}
    if args.json:
        print_json(shown)
    else:
        print_mapping(shown)
    return 0


def _new(config: NodeConfig, _: argparse.Namespace) -> "NodeKey":
    from p2pnode.identity import KeystoreError, create_key

    path = config.keys.keystore
    if path.exists():  # asked before the password is; create_key is what makes sure of it
        raise KeystoreError(f"{path} exists and is never overwritten", hint="`p2pnode keys show` shows it")
    password = config.password() if _has_password(config) else _asked_twice("Password for the new key (empty: none): ")
    if not password:
        print(f"The key has no password: {path} itself is the secret (mode 0600).", file=sys.stderr)
    return create_key(path, password, scrypt_n=_scrypt_n(config))


def _unlocked(config: NodeConfig, _: argparse.Namespace) -> "NodeKey":
    from p2pnode.identity import KeystoreError, read_keystore

    try:
        return read_keystore(config.keys.keystore, config.password())
    except KeystoreError:
        # Nothing was configured and the empty password did not fit: ask, where there is somebody.
        if _has_password(config) or not config.keys.keystore.exists() or not sys.stdin.isatty():
            raise
    return read_keystore(config.keys.keystore, getpass("Password: ", sys.stderr))


def _change_password(config: NodeConfig, args: argparse.Namespace) -> "NodeKey":
    from p2pnode.identity import read_keystore, write_keystore

    key = _unlocked(config, args)
    if args.new_password_file is not None:
        with args.new_password_file.open(encoding="utf-8") as file:
            password = file.readline(4096).rstrip("\r\n")
    elif NEW_PASSWORD in os.environ:
        password = os.environ[NEW_PASSWORD]
    elif sys.stdin.isatty():
        password = _asked_twice("New password (empty: none): ")
    else:
        raise PasswordError("no new password is given", hint=f"give --new-password-file FILE, or set {NEW_PASSWORD}")
    path = config.keys.keystore
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        write_keystore(draft, key, password, scrypt_n=_scrypt_n(config))
        read_keystore(draft, password)  # before the old one goes: the new one opens
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return key


def _has_password(config: NodeConfig) -> bool:
    return "P2PNODE_PASSWORD" in os.environ or config.keys.password_file is not None


def _asked_twice(prompt: str) -> str:
    if not sys.stdin.isatty():
        return ""
    password = getpass(prompt, sys.stderr)
    if getpass("Again: ", sys.stderr) != password:
        raise PasswordError("the two passwords differ", hint="try again; nothing was changed")
    return password


def _scrypt_n(config: NodeConfig) -> int:
    from p2pnode.identity import SCRYPT_N_STANDARD, SCRYPT_N_TESTNET

    return SCRYPT_N_TESTNET if config.network.genesis == DEVNET else SCRYPT_N_STANDARD
