"""The command line itself: help, words it does not know, how it is interrupted, and what it does not import."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.cli import ENTRY, assert_refused, environment, p2pnode


def test_help_names_every_command(tmp_path: Path) -> None:
    from p2pnode.cli.entry import COMMANDS

    ended = p2pnode(tmp_path, "--help")
    assert ended.status == 0
    for command in COMMANDS:
        assert f"\n    {command} " in ended.out
        assert p2pnode(tmp_path, command, "--help").status == 0


def test_nothing_is_no_command(tmp_path: Path) -> None:
    ended = p2pnode(tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert "commands:" in ended.err
    assert p2pnode(tmp_path, "--version").out.startswith("p2pnode ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stauts"], "there is no command 'stauts'; did you mean status?"),
        (["status", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["keys"], "ACTION"),
        (["keys", "nwe"], "invalid choice: 'nwe'"),
        (["model", "add"], "FILE"),
        (["model", "show"], "MODEL"),
    ],
)
def test_a_line_that_cannot_be_understood(tmp_path: Path, arguments: list[str], said: str) -> None:
    assert_refused(p2pnode(tmp_path, *arguments), said, status=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node]\nlog_levle = 1", "node.toml:2: unknown key log_levle in [node]; did you mean log_level?"),
        ("[node]\nname = ", "node.toml:2: Invalid value"),
        ("[network]\nbootstrap = ['/ip4/1.2.3.4']", "node.toml:2: network.bootstrap"),
    ],
)
@pytest.mark.parametrize("command", [["status"], ["peers"], ["model", "list"], ["keys", "show"]])
def test_a_bad_configuration(tmp_path: Path, command: list[str], text: str, said: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    assert_refused(p2pnode(tmp_path, *command, "--config", path), said)


def test_a_bad_environment_and_a_missing_file(tmp_path: Path) -> None:
    assert_refused(p2pnode(tmp_path, "status", P2PNODE_NODE_ROLE="miner"), "did you mean P2PNODE_NODE_ROLES?")
    assert_refused(p2pnode(tmp_path, "status", "--config", tmp_path / "none.toml"), "cannot read the configuration")


def test_light_commands_import_neither_libp2p_nor_llama(tmp_path: Path) -> None:
    heavy = {"libp2p", "llama_cpp", "numpy", "cryptography", "multiaddr"}
    code = (
        "import sys; from p2pnode.cli.entry import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    for arguments in (["--help"], ["model", "list"], ["status"], ["peers"], ["doctor", "--help"]):
        command = [sys.executable, "-c", code, *arguments]
        ended = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True
        )
        loaded = set(ended.stderr.split())
        assert not loaded & heavy, arguments
        if arguments == ["--help"]:
            assert not loaded & {"trio", "msgspec", "sqlite3", "coincurve", "eth_keyfile"}


def test_output_that_nobody_reads_or_no_disk_takes(tmp_path: Path) -> None:
    code = f'{sys.executable} -m p2pnode.cli.entry model list | true; echo "${{PIPESTATUS[0]}}"'
    ended = subprocess.run(
        ["bash", "-c", code],
        env=environment(tmp_path, PYTHONUNBUFFERED="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    # Whether `true` is gone before the first line is a matter of luck; that nobody complains is not.
    assert ended.stdout.strip() in ("0", "141")
    assert ended.stderr == ""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        pipe = subprocess.run(
            [*ENTRY, "model", "list"], env=environment(tmp_path), stdout=gone, stderr=subprocess.PIPE, check=False
        )
    assert (pipe.returncode, pipe.stderr) == (141, b"")
    with open("/dev/full", "w") as full:
        disk = subprocess.run(
            [*ENTRY, "model", "list"],
            env=environment(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert disk.returncode == 1
    assert disk.stderr.splitlines()[0] == "error: the system: No space left on device"
    assert len(disk.stderr.splitlines()) == 2


def test_ctrl_c_ends_quietly_with_130(tmp_path: Path) -> None:
    command = [*ENTRY, "doctor"]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ok    configuration")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "error: interrupted\n"


def test_a_bug_is_called_one_and_its_traceback_can_be_had(tmp_path: Path) -> None:
    code = (
        "import sys, p2pnode.cli.status as status\n"
        "from p2pnode.cli.entry import main\n"
        "status.run = lambda args: {}['missing']\n"
        "sys.exit(main(['status']))"
    )
    for more in ({}, {"P2PNODE_TRACEBACK": "1"}):
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env=environment(tmp_path, **more), capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert "error: a bug in p2pnode: KeyError: 'missing'" in ended.stderr
        assert ("Traceback" in ended.stderr) == bool(more)
