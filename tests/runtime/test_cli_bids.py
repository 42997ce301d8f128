"""``p2pnode bids`` and ``explain --bid``: a miner shows what a router countersigned, and who left it out."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from p2pnode.session_records import load_record, save_record
from p2pnode.store import open_store
from protocol.core.machine import Persist
from tests.runtime.cli import Ended, assert_refused, p2pnode
from tests.unit.protocol.machines import GENESIS, MINER, MINERS, ROUTER, id_of, opening_of
from tests.unit.protocol.omission import auction

HONEST, CHEATED = opening_of(number=1), opening_of(number=2)


@dataclass(frozen=True)
class World:
    """A home with a client's records and a miner's node of the machines' network."""

    home: Path
    persists: tuple[Persist, ...]

    async def run(self, *arguments: str | Path) -> Ended:
        return await trio.to_thread.run_sync(partial(p2pnode, self.home, *arguments))

    async def bids(self, *arguments: str | Path) -> Ended:
        return await self.run("bids", "--config", self.home / "node.toml", *arguments)

    async def fill(self) -> None:
        with open_store(self.home / "node") as store:
            for persist in self.persists:
                await store.persist(persist.records)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One session with an honest router, and one whose router left out the miner's bid."""
    (tmp_path / "genesis.json").write_text(GENESIS.to_json())
    (tmp_path / "node.toml").write_text(f"[network]\ngenesis = '{tmp_path / 'genesis.json'}'")
    persists = []
    for opening, honest in ((HONEST, True), (CHEATED, False)):
        record, persist = auction(honest=honest, opening=opening)
        save_record(tmp_path / "sessions", id_of(opening), record)
        persists.append(persist)
    return World(tmp_path, tuple(persists))


@pytest.mark.spec("BID-KEPT.1")
async def test_bids_are_listed_beside_a_running_node_and_without_one(world: World) -> None:
    await world.fill()
    with open_store(world.home / "node"):
        beside = await world.bids("--json")
    alone = await world.bids("--json")
    assert (beside.status, beside.out) == (0, alone.out)
    rows = json.loads(alone.out)
    assert {row["session"] for row in rows} == {id_of(HONEST).hex(), id_of(CHEATED).hex()}
    assert {(row["router"], row["position"], row["price_wei"]) for row in rows} == {("0x" + ROUTER.node.hex(), 0, 7)}
    assert {row["when"] for row in rows} == {"2027-01-15T08:00:00+00:00"}
    (headers, *lines) = (await world.bids(id_of(CHEATED).hex()[:12])).out.splitlines()
    assert headers.split() == ["SESSION", "ROUTER", "POSITION", "PRICE_WEI", "WHEN"]
    assert [line.split()[0] for line in lines] == [id_of(CHEATED).hex()[:16]]


@pytest.mark.spec("BID-OMISSION.1")
async def test_a_router_that_left_out_a_bid_is_named_by_what_the_miner_exported(world: World) -> None:
    await world.fill()
    files = {}
    for opening in (HONEST, CHEATED):
        session = id_of(opening).hex()
        files[session] = world.home / f"{session[:8]}.bids"
        exported = await world.bids(session, "--export", files[session])
        assert exported.out.splitlines()[1].endswith(f"p2pnode explain {session[:12]} --bid {files[session]}")

    honest, cheated = files
    listed = await world.run("explain", honest[:12], "--bid", files[honest])
    assert (listed.status, listed.err) == (0, "")
    assert listed.out.splitlines()[-1].endswith("countersigned at position 0, is in the bid set")

    left_out = await world.run("explain", cheated[:12], "--bid", files[cheated])
    assert (left_out.status, left_out.err) == (1, "")
    verdict = left_out.out.splitlines()[-1]
    assert verdict.startswith(f"the bid of 0x{MINER.node.hex()}, which router 0x{ROUTER.node.hex()} countersigned")
    assert "was left out" in verdict

    told = json.loads((await world.run("explain", cheated[:12], "--bid", files[cheated], "--json")).out)
    assert [bid["fate"] for bid in told["bids"]] == ["left_out"]
    assert_refused(
        await world.run("explain", honest[:12], "--bid", files[cheated]),
        "proves nothing: the bid is on another session",
    )


async def test_explain_shows_who_might_bid_and_what_it_cannot_show(world: World) -> None:
    shown = (await world.run("explain", id_of(HONEST).hex()[:12])).out
    assert "eligible: everyone; announced to a pool of 3, widened 0 times" in shown
    assert "no segment was verified" in shown
    assert "what these papers cannot show\n- how many miners there were" in shown
    told = json.loads((await world.run("explain", id_of(HONEST).hex()[:12], "--json")).out)
    (assignment,) = told["assignments"]
    assert (assignment["pool"], assignment["widening"], assignment["threshold"]) == (3, 0, hex(2**64))
    assert {bid["miner"] for bid in assignment["bids"]} == {"0x" + miner.node.hex() for miner in MINERS[:2]}
    assert all(int(bid["draw"], 16) < 2**64 for bid in assignment["bids"])
    assert told["not_known"]


async def test_a_record_that_was_changed_is_refused(world: World) -> None:
    honest, cheated = (world.home / "sessions" / f"{id_of(opening).hex()}.session" for opening in (HONEST, CHEATED))
    assignments = load_record(world.home, str(cheated)).assignments
    mixed = msgspec.structs.replace(load_record(world.home, str(honest)), assignments=assignments)
    save_record(world.home, id_of(HONEST), mixed)
    changed = world.home / honest.name
    assert_refused(await world.run("explain", changed), "the record does not hold: assignment: session")


async def test_what_cannot_be_listed_or_exported(world: World) -> None:
    file = world.home / "x.bids"
    assert_refused(await world.bids(), "no node has worked in")
    with open_store(world.home / "node"):
        pass
    assert (await world.bids()).out == "No router has countersigned a bid of this node yet.\n"
    assert_refused(await world.bids("--export", file), "one session's bids go into a file; these are of 0")
    await world.fill()
    assert_refused(await world.bids("--export", file), "one session's bids go into a file; these are of 2")
    assert_refused(await world.bids("0000"), "no countersigned bid on session '0000' is kept in")
    elsewhere = await world.run("bids")
    assert (elsewhere.status, elsewhere.out) == (0, "No router has countersigned a bid of this node yet.\n")
    assert elsewhere.err == "2 more are of another network: --config names its genesis\n"
    assert_refused(await world.run("explain", "--bid", world.home / "node.toml"), "holds no countersigned bids")
    assert not file.exists()
