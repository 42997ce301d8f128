"""The signer log against real ends of a process: killed without warning, at any moment and at every statement; and a
disk that takes no more."""

import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from p2pnode.identity import create_key, read_keystore
from p2pnode.signer_log import SignerLogLocked, open_signer_log
from protocol.core.ids import NetworkId, NodeId

NETWORK = NetworkId(bytes(32))
KILLS = 30

COMMON = """
import os, random, resource, signal, sqlite3, sys, trio
from functools import partial
from pathlib import Path
from p2pnode import identity, signer_file
from p2pnode.signer_log import SignerLogError, open_signer_log

signer_file.FOLDED_BYTES = 30_000  # so that many a kill meets the folding
keystore, node = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])

def record(epoch, number):
    return b"signed/" + epoch.to_bytes(8, "big") + number.to_bytes(8, "big"), os.urandom(65)
"""

WRITER = """
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

async def write(log, epoch, number):
    while True:
        pair = [record(epoch, number), record(epoch, number + 1)]
        await log.append(pair)
        print(*(f"{key.hex()}:{value.hex()}" for key, value in pair), flush=True)
        number += 2

async def main():
    with open_signer_log(keystore, node, bytes(32)) as log:
        if log.lost:
            sys.exit(f"lost: {log.lost.what}")
        try:
            async with trio.open_nursery() as nursery:
                for epoch in range(3):
                    nursery.start_soon(write, log, epoch, len(await log.load(epoch)) - len(await log.load(epoch + 1)))
        except* SignerLogError:
            try:
                await log.append([record(9, 9)])
            except SignerLogError as error:
                print(type(error).__name__, error.hint, len(await log.load()), file=sys.stderr)
try:
    trio.run(main)
except SignerLogError as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    path = tmp_path / "key.json"
    create_key(path, "", scrypt_n=2)
    return path


def node_of(keystore: Path) -> NodeId:
    return read_keystore(keystore, "").node_id


def started(script: str, keystore: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", COMMON + script, str(keystore), node_of(keystore).hex(), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def signed(keystore: Path) -> dict[bytes, bytes]:
    with open_signer_log(keystore, node_of(keystore), NETWORK) as log:
        assert log.lost is None
        return await log.load()


def pairs_of(lines: list[str]) -> dict[bytes, bytes]:
    """What was printed. The last line may be cut off: nobody was shown it."""
    pairs = [pair.split(":") for line in lines if line.endswith("\n") for pair in line.split()]
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in pairs}


async def test_killed_at_any_moment_every_signature_shown_is_there(keystore: Path) -> None:
    rng, shown = random.Random(4), dict[bytes, bytes]()
    for _ in range(KILLS):
        with started(WRITER, keystore, 0) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rng.choice((0, 1, 30, 200)))]
            with suppress(subprocess.TimeoutExpired):
                # Without a line to wait for, somewhere in its start or a while after it.
                process.wait(timeout=rng.random() * (0.02 if lines else 0.8))
            process.kill()
            shown |= pairs_of(lines + process.stdout.readlines())
            assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read()
        durable = await signed(keystore)
        assert shown.items() <= durable.items()
        assert all(sum(key[7:15] == bytes(7) + bytes([epoch]) for key in durable) % 2 == 0 for epoch in range(3))
    assert len(shown) > 1_000


async def test_a_second_process_is_kept_out_while_the_first_lives(keystore: Path) -> None:
    with started(WRITER, keystore, 0) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with started(WRITER, keystore, 0) as second:
            output, errors = second.communicate(timeout=60)
        assert output == ""
        assert errors.startswith(f"SignerLogLocked another node signs with the key 0x{node_of(keystore).hex()}")
        assert f"process {first.pid}" in errors
        with pytest.raises(SignerLogLocked):
            await signed(keystore)
        first.kill()
        first.communicate()
    assert await signed(keystore)


async def test_a_disk_that_takes_no_more_ends_the_signing_and_nothing_else(keystore: Path) -> None:
    with started(WRITER, keystore, 25_000) as process:
        output, errors = process.communicate(timeout=60)
    # The process lives on, reads, and is refused at once when it writes again.
    kind, *_, readable = errors.split()
    assert kind in ("SignerLogFull", "SignerLogError")
    shown = pairs_of(output.splitlines(keepends=True))
    assert 0 < len(shown) <= int(readable)
    assert shown.items() <= (await signed(keystore)).items()


KILLED_AT_EVERY_STATEMENT = """
connect = sqlite3.connect

def killing(at, *arguments, **options):
    connection, left = connect(*arguments, **options), [at]
    def count(_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    connection.set_trace_callback(count)
    return connection

async def write(at):
    sqlite3.connect = partial(killing, at)
    with open_signer_log(keystore, node, bytes(32)) as log:
        if log.lost:
            sys.exit(f"lost: {log.lost.what}")
        for number in range(2):
            pair = record(at, number)
            await log.append([pair])
            print(f"{pair[0].hex()}:{pair[1].hex()}", flush=True)
            signer_file.FOLDED_BYTES = 0

at, status = 0, -signal.SIGKILL
while status == -signal.SIGKILL:
    at += 1
    child = os.fork()  # quicker than a process from scratch
    if child == 0:
        trio.run(write, at)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(at, file=sys.stderr)
sys.exit(status)
"""


async def test_killed_before_every_single_statement_the_log_is_whole(keystore: Path) -> None:
    with started(KILLED_AT_EVERY_STATEMENT, keystore) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert int(errors) > 30  # from the first statement of the opening to the last of a folding
    assert pairs_of(output.splitlines(keepends=True)).items() <= (await signed(keystore)).items()


KILLED_BEFORE_THE_KEY = """
identity._write_once = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
identity.create_key(keystore.with_name("new.json"), "", scrypt_n=2)
"""


def test_killed_between_the_log_and_the_key_there_is_no_key(keystore: Path) -> None:
    with started(KILLED_BEFORE_THE_KEY, keystore) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    path = keystore.with_name("new.json")
    assert not path.exists()
    assert len(list(path.parent.glob("signer-*.db"))) == 2
    key = create_key(path, "", scrypt_n=2)
    with open_signer_log(path, key.node_id, NETWORK) as log:
        assert log.lost is None
