"""What a user believes of committees, on disk: whole or refused, and two programs at once do no harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.trust_store import FILE, TrustContradicted, TrustKeeper, TrustStore, TrustUnreadable, own_trust
from protocol.light.headers import ReadersTime
from protocol.light.trust_book import KEPT_BYTES_MAX, KeptTrust, LightBook
from tests.unit.protocol.trust_at_hand import THIEF, Net

pytestmark = pytest.mark.spec("TRUST-KEPT.1")

NET = Net()
NETWORK = NET.genesis.network_id()


def followed(epochs: int, net: Net = NET) -> KeptTrust:
    """By somebody who has followed from the start."""
    book = LightBook(net.genesis, time=ReadersTime(net.begins_s(2)))
    book.take([net.hand_over(epoch) for epoch in range(1, epochs)])
    return book.kept()


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "trust")


def file_of(store: TrustStore) -> Path:
    return store._path(NETWORK)


def test_it_is_there_again_after_a_restart(store: TrustStore, tmp_path: Path) -> None:
    assert store.load(NETWORK) is None
    assert store.networks() == ()
    kept, other = followed(4), followed(3, NET.renamed("other"))
    store.save(kept)
    store.save(other)
    again = TrustStore(tmp_path / "trust")
    assert again.load(NETWORK) == kept
    assert {each.network_id for each in again.networks()} == {kept.network_id, other.network_id}
    book = again.book(NET.genesis, NET.begins_s(5) * 1_000)
    assert book.trust.epoch == 4
    assert file_of(store).parent.name == NETWORK.hex()[:16]
    assert file_of(store).parent.stat().st_mode & 0o077 == 0
    assert [path.name for path in file_of(store).parent.iterdir()] == [FILE]


def test_who_is_further_stays(store: TrustStore) -> None:
    store.save(followed(6))
    store.save(followed(3))
    assert store.load(NETWORK) == followed(6)
    store.save(followed(7))
    assert store.load(NETWORK) == followed(7)


WRITER = """
import sys
from pathlib import Path
from p2pnode.trust_store import TrustStore
from protocol.light.trust_book import read_kept
store, kept = TrustStore(Path(sys.argv[1])), [read_kept(Path(name).read_bytes()) for name in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    for each in kept:
        store.save(each)
        assert store.load(each.network_id) is not None
"""


def test_two_programs_at_once_leave_one_whole_file(store: TrustStore, tmp_path: Path) -> None:
    from protocol.light.trust_book import write_kept

    names = []
    for epochs in (4, 9):
        path = tmp_path / f"{epochs}.trust"
        path.write_bytes(write_kept(followed(epochs)))
        names.append(str(path))
    command = [sys.executable, "-c", WRITER, str(tmp_path / "trust"), *names]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        _, _ = writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
    assert store.load(NETWORK) in (followed(4), followed(9))
    assert [path.name for path in file_of(store).parent.iterdir()] == [FILE]


@pytest.mark.parametrize("what", ["empty", "cut", "flipped", "huge", "another network's", "a folder"])
def test_a_broken_file_is_refused_with_what_to_do(store: TrustStore, what: str) -> None:
    store.save(followed(4))
    path = file_of(store)
    data = path.read_bytes()
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what == "another network's":
        other = NET.renamed("other")
        store.save(followed(4, other))
        os.replace(store._path(other.genesis.network_id()), path)
    else:
        flipped = bytes([*data[:100], data[100] ^ 1, *data[101:]])
        path.write_bytes(
            {"empty": b"", "cut": data[:-1], "flipped": flipped, "huge": b"\0" * (KEPT_BYTES_MAX + 1)}[what]
        )
    for use in (lambda: store.load(NETWORK), lambda: store.save(followed(5)), lambda: store.book(NET.genesis, None)):
        with pytest.raises(TrustUnreadable) as caught:
            use()
        assert "trust add" in str(caught.value.hint)


def test_a_trust_point_is_added_to_what_is_known(store: TrustStore) -> None:
    store.save(followed(4))
    store.add(NET.point(40))
    assert store.book(NET.genesis, None).trust.wanted == 39
    assert store.book(NET.genesis, None).trust.epoch == 4
    with pytest.raises(TrustContradicted, match="another committee of epoch 3") as caught:
        store.add(NET.point(3, members=THIEF))
    assert "--replace" in str(caught.value.hint)
    with pytest.raises(TrustContradicted, match="another committee of epoch 40"):
        store.add(NET.point(40, members=THIEF))
    store.add(NET.point(3, members=THIEF), replace=True)
    store.add(NET.point(3, members=THIEF), NET.genesis, replace=True)
    assert store.book(NET.genesis, None).trust.wanted == 2


def test_a_trust_point_may_come_before_its_genesis(store: TrustStore) -> None:
    store.add(NET.point(40))
    assert store.book(NET.genesis, None).trust.wanted == 39
    store.add_genesis(NET.genesis)
    kept = store.load(NETWORK)
    assert kept is not None
    assert (kept.genesis, len(kept.points)) == (NET.genesis.to_json(), 1)
    with pytest.raises(TrustContradicted, match="another network"):
        store.add(NET.point(41), NET.renamed("other").genesis)


def test_a_first_committee_that_the_genesis_does_not_name_is_refused(store: TrustStore) -> None:
    store.add(NET.point(1, members=THIEF))
    with pytest.raises(TrustUnreadable):
        store.book(NET.genesis, None)


def test_it_lies_in_the_home_of_its_user(tmp_path: Path) -> None:
    own_trust({"P2PNODE_HOME": str(tmp_path)}).save(followed(3))
    assert (tmp_path / "trust" / NETWORK.hex()[:16] / FILE).is_file()


def test_a_keeper_writes_what_comes_and_what_comes_last(store: TrustStore) -> None:
    told: list[str] = []

    async def keeping() -> None:
        keeper = TrustKeeper(store, NETWORK, told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            keeper.moved(followed(3, NET.renamed("other")))
            keeper.moved(followed(3))
            with trio.fail_after(20):
                while await trio.to_thread.run_sync(store.load, NETWORK) is None:
                    await trio.lowlevel.checkpoint()
            keeper.moved(followed(5))
            nursery.cancel_scope.cancel()

    trio.run(keeping)
    assert store.load(NETWORK) == followed(5)
    assert len(store.networks()) == 1, "of a network that nobody named nothing is kept"
    file_of(store).write_bytes(b"broken")

    async def failing() -> None:
        keeper = TrustKeeper(store, NETWORK, told.append)
        keeper.moved(followed(5))
        with trio.CancelScope() as scope:
            scope.cancel()
            await keeper.run()

    trio.run(failing)
    assert "cannot be kept" in told[0]
