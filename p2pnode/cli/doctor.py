"""``p2pnode doctor``: checks this machine for what a node needs; each line says what is so, and what to do about it."""

import argparse
import errno
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from p2pnode.address import parse_listen_address
from p2pnode.cli.doctor_fix import REPAIRS, damage, leftovers
from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import bytes_shown, paint, print_json, printable
from p2pnode.config import NodeConfig, load_config
from p2pnode.store import DATABASE
from protocol.core.errors import P2PNodeError

DEPENDENCIES = {
    "libp2p": "==0.8.1",
    "trio": ">=0.31",
    "msgpack": ">=1.1",
    "msgspec": ">=0.19",
    "numpy": ">=1.26",
    "coincurve": "==21.0.0",
    "safe-pysha3": ">=1.0.7",
    "base58": ">=2.1",
    "eth-keyfile": ">=0.8",
    "jinja2": ">=3.1",
    "cryptography": ">=42",
    "web3": ">=8",
    "fastapi": ">=0.115",
    "hypercorn": ">=0.18",
    "prometheus-client": ">=0.21",
    "llama-cpp-python": "==0.3.36",
}
"""What pyproject.toml asks for; a test keeps the two the same."""

PYTHON_MIN = (3, 11)
DISK_FAIL_BYTES, DISK_WARN_BYTES = 100 << 20, 2 << 30
MEMORY_WARN_BYTES = 1 << 30
LLAMA_TIMEOUT_S = 60
FILES_PER_CONNECTION, FILES_BESIDE = 3, 128


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``level`` is ok, warn or fail; ``next`` what to do, for whatever is not ok."""

    check: str
    level: str
    message: str
    next: str | None = None
    fixed: str | None = None
    """What was done about it, with ``--fix``."""


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor", description="Check this machine, and say what to do. Exit status 1 if something must be repaired."
    )
    parser.add_argument("--fix", action="store_true", help="mend what can be mended without harm")
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line per check; 1 if one fails."""
    findings = []
    for finding in _examine(args):
        findings.append(finding)
        if not args.json:
            _print(finding)
    if args.json:
        print_json([asdict(finding) for finding in findings])
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _examine(args: argparse.Namespace) -> Iterator[Finding]:
    try:
        config = config_of(args)
        config.require_runnable()
        config.genesis()
    except P2PNodeError as error:
        yield Finding("configuration", "fail", str(error), error.hint)
        # The other checks still tell something, so they go on with what is configured by default.
        config = load_config(
            env={name: os.environ[name] for name in ("P2PNODE_HOME", "XDG_DATA_HOME") if name in os.environ}
        )
    else:
        yield Finding("configuration", "ok", str(args.config) if args.config else "defaults")
    for name in CHECKS:
        finding = _checked(name, config)
        yield _mended(finding, config) if args.fix and finding.level != "ok" else finding


def _checked(name: str, config: NodeConfig) -> Finding:
    try:
        found = CHECKS[name](config)
    except P2PNodeError as error:
        found = ("fail", str(error), error.hint)
    except OSError as error:
        found = ("fail", f"{error.filename or name}: {error.strerror}", "check the path and its permissions")
    return Finding(name, *found)


def _mended(finding: Finding, config: NodeConfig) -> Finding:
    """The finding after its repair, if there is one and it can be done."""
    repair = REPAIRS.get(finding.check)
    if repair is None:
        return finding
    try:
        done = repair(config)
    except (P2PNodeError, OSError) as error:
        return replace(finding, next=f"{finding.next}; --fix could not: {error}")
    return replace(_checked(finding.check, config), fixed=done)


def _print(finding: Finding) -> None:
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.level]
    print(f"{paint(finding.level.ljust(4), colour)}  {finding.check}: {printable(finding.message)}", flush=True)
    if finding.fixed:
        print(f"      {paint('fixed:', 'cyan')} {printable(finding.fixed)}", flush=True)
    if finding.next:
        print(f"      {paint('next:', 'cyan')} {printable(finding.next)}", flush=True)


Found = tuple[str, str, str | None]


def _python(_: NodeConfig) -> Found:
    here = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if sys.version_info < PYTHON_MIN:
        return "fail", here, f"install Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer"
    return "ok", here, None


def _dependencies(_: NodeConfig) -> Found:
    wrong = []
    for name, wanted in DEPENDENCIES.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        fits = found == wanted[2:] if wanted.startswith("==") else _numbers(found) >= _numbers(wanted[2:])
        if not fits:
            wrong.append(f"{name} is {found}, wanted {wanted}")
    if wrong:
        return "fail", ", ".join(wrong), "install p2pnode again: pip install -e ."
    return "ok", f"{len(DEPENDENCIES)} packages", None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _llama(_: NodeConfig) -> Found:
    # In a process of its own: a build for another processor dies of an illegal instruction, not of an exception.
    code = "import llama_cpp; llama_cpp.llama_backend_init(); print(llama_cpp.__version__)"
    repair = "build it here: pip install --no-binary :all: --force-reinstall llama-cpp-python (about five minutes)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=LLAMA_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "warn", f"did not load within {LLAMA_TIMEOUT_S} s", "try again when the machine is less busy"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return "fail", f"llama.cpp does not load: {last}", repair
    return "ok", f"llama-cpp-python {done.stdout.split()[-1]} loads", None


def _models(config: NodeConfig) -> Found:
    from p2pnode.models.store import ModelStore, shipped

    store = ModelStore(config.node.models_dir)
    for model in shipped():
        store.verify(model)
    served = store.resolve(config.miner.model).manifest if "miner" in config.node.roles else None
    return "ok", f"{len(shipped())} shipped, sha256 right" + (f"; serves {served.name}" if served else ""), None


def _folder(config: NodeConfig) -> Found:
    folder = config.node.state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing == folder and folder.is_dir() and folder.stat().st_mode & 0o077:
        return "warn", f"{folder} can be looked into by others", f"chmod 700 {folder}, or p2pnode doctor --fix"
    with tempfile.TemporaryFile(dir=existing) as probe:
        probe.write(b"p2pnode")
        probe.flush()
    free = shutil.disk_usage(existing).free
    message = f"{folder} can be written, {bytes_shown(free)} free"
    if free < DISK_FAIL_BYTES:
        return "fail", message, "free some space, or use another folder: --state-dir FOLDER"
    if free < DISK_WARN_BYTES:
        return "warn", message, "free some space: models take gigabytes"
    return "ok", message, None


def _key(config: NodeConfig) -> Found:
    from p2pnode.identity import KeystoreError, read_keystore

    path = config.keys.keystore
    if not path.exists():
        return "ok", "none yet; it is made at the first start, or by `p2pnode keys new`", None
    try:
        key = read_keystore(path, config.password())
    except KeystoreError as error:
        return "fail", str(error), error.hint or "set P2PNODE_PASSWORD or keys.password_file"
    if path.stat().st_mode & 0o077:
        return "warn", f"{path} can be read by others", f"chmod 600 {path}, or p2pnode doctor --fix"
    return "ok", f"0x{key.node_id.hex()} in {path}", None


def _database(config: NodeConfig) -> Found:
    wrong = damage(config)
    if wrong is not None:
        return "fail", wrong, "p2pnode doctor --fix puts it aside: the node forgets its sessions, not its key"
    return "ok", "whole" if (config.node.state_dir / DATABASE).exists() else "none yet", None


def _signer_log(config: NodeConfig) -> Found:
    from p2pnode.identity import keystore_address
    from p2pnode.signer_log import signer_log_path

    keystore = config.keys.keystore
    if "oracle" not in config.node.roles or not keystore.exists():
        return "ok", "only an oracle needs one", None
    path = signer_log_path(keystore, keystore_address(keystore))
    if not path.exists():
        told = "start it all the same: it follows the committee, and signs again two epochs later"
        return "warn", f"there is no {path}", f"{told}; never put back a copy"
    return "ok", str(path), None


def _leftovers(config: NodeConfig) -> Found:
    found = leftovers(config)
    if found:
        return "warn", ", ".join(path.name for path in found), "p2pnode doctor --fix removes what was never finished"
    return "ok", "none", None


def _ports(config: NodeConfig) -> Found:
    fixed = []
    for text in config.network.listen:
        address = parse_listen_address(text)
        if address.port == 0:
            continue
        fixed.append(str(address.port))
        with socket.socket(socket.AF_INET6 if address.host_kind == "ip6" else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                return _busy(config, text, error)
    return "ok", f"{', '.join(fixed)} free" if fixed else "any free one is taken", None


def _busy(config: NodeConfig, text: str, error: OSError) -> Found:
    from p2pnode.control import SOCKET, ControlError, ask_control

    if error.errno != errno.EADDRINUSE:
        return (
            "fail",
            f"cannot listen on {text}: {error.strerror}",
            "choose an address of this machine in network.listen",
        )
    try:
        ask_control(config.node.state_dir / SOCKET, "status")
    except ControlError:
        return (
            "fail",
            f"{text} is in use by another program",
            "stop that program, or choose another port in network.listen",
        )
    return "ok", f"{text} is in use by the node that runs here", None


def _open_files(config: NodeConfig) -> Found:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # `p2pnode run` takes what it may have
    needed = config.network.connections_max * FILES_PER_CONNECTION + FILES_BESIDE
    if hard not in (-1, resource.RLIM_INFINITY) and hard < needed:
        return (
            "warn",
            f"{hard} open files allowed, {needed} may be needed",
            f"ulimit -n {needed}, or lower network.connections_max",
        )
    return "ok", f"{hard} allowed, {needed} may be needed", None


def _machine(config: NodeConfig) -> Found:
    cores, memory = len(_usable_cores()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    message = f"{cores} cores, {bytes_shown(memory)}"
    if memory < MEMORY_WARN_BYTES:
        return "warn", message, "serve a small model, or run the role router only"
    if "miner" in config.node.roles and config.miner.threads >= cores > 1:
        return (
            "warn",
            f"{message}, {config.miner.threads} threads for the engine",
            "leave the node a core: lower miner.threads",
        )
    return "ok", message, None


def _usable_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _clock(_: NodeConfig) -> Found:
    # Without a network the one thing known of the time is that it is later than this program was installed.
    installed = Path(__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < installed:
        return (
            "fail",
            f"{shown} is before p2pnode was installed",
            "set the clock, best by NTP: others refuse what is 30 s off",
        )
    return "ok", f"{shown}; keep it right by NTP, 30 s off is too much", None


CHECKS: dict[str, Callable[[NodeConfig], Found]] = {
    "python": _python,
    "packages": _dependencies,
    "engine": _llama,
    "models": _models,
    "state folder": _folder,
    "key": _key,
    "database": _database,
    "signer log": _signer_log,
    "leftovers": _leftovers,
    "ports": _ports,
    "open files": _open_files,
    "machine": _machine,
    "clock": _clock,
}
"""In the order of the lines."""
