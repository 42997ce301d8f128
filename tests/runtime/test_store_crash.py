"""The store against real ends of a process: killed without warning, and a disk that takes no more."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.store import open_store

WRITER = """
import resource, sys, trio
from pathlib import Path
from p2pnode.store import StoreError, open_store

limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

async def write(store, lane):
    number = 0
    while True:
        await store.persist([(b"%d/%d/a" % (lane, number), bytes(500)), (b"%d/%d/b" % (lane, number), bytes(500))])
        print(lane, number, flush=True)
        number += 1

async def main():
    with open_store(Path(sys.argv[1])) as store:
        async with trio.open_nursery() as nursery:
            for lane in range(4):
                nursery.start_soon(write, store, lane)
try:
    trio.run(main)
except* StoreError as group:
    print(type(group.exceptions[0]).__name__, group.exceptions[0].hint, file=sys.stderr)
"""


def writer(folder: Path, *, file_bytes_max: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), str(file_bytes_max)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def holds_exactly_whole_batches(folder: Path, acknowledged: list[str]) -> None:
    with open_store(folder) as store:
        found = {key.decode() for key in store.load(b"")}
    for line in acknowledged:
        lane, number = line.split()
        assert {f"{lane}/{number}/a", f"{lane}/{number}/b"} <= found
    assert {key[:-1] for key in found if key.endswith("a")} == {key[:-1] for key in found if key.endswith("b")}


@pytest.mark.parametrize("batches", [1, 50, 400])
def test_killed_at_any_moment_everything_acknowledged_is_there(tmp_path: Path, batches: int) -> None:
    for _ in range(2):  # the second life starts from what the first one left
        with writer(tmp_path) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline() for _ in range(batches)]
            process.kill()
            # The last line may be cut off: it was not acknowledged to anybody.
            acknowledged += [line for line in process.stdout if line.endswith("\n")]
        holds_exactly_whole_batches(tmp_path, acknowledged)


def test_a_disk_that_takes_no_more_ends_in_a_named_error_and_loses_nothing(tmp_path: Path) -> None:
    with writer(tmp_path, file_bytes_max=400_000) as process:
        output, errors = process.communicate(timeout=60)
    assert errors.startswith(("StoreFull", "StoreError"))
    assert "free" in errors
    assert output
    holds_exactly_whole_batches(tmp_path, output.splitlines())
