"""The counting mode: what it counts is what happened, and the same each time."""

import argparse
import json
from pathlib import Path

import pytest

from p2pnode.cli import sim
from p2pnode.sim.checkers import Checker
from p2pnode.sim.counting import Counted, Network, count
from p2pnode.sim.host import Host
from protocol.core import signing
from protocol.core.codec import Message, decode
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import Announcement
from protocol.session.lottery import is_eligible

SESSIONS = 12


class Rounds(Checker):
    """Remembers every announcement."""

    def __init__(self) -> None:
        self.announced: list[Announcement] = []

    def published(self, host: Host, topic: str, message: Message) -> None:
        if topic == "sessions" and isinstance(message, Envelope):
            announcement = decode(message.payload)
            assert isinstance(announcement, Announcement)
            self.announced.append(announcement)


@pytest.mark.parametrize("nodes", [10, 100])
def test_who_bids_is_who_was_drawn_and_nobody_else(nodes: int) -> None:
    network, rounds = Network(nodes, SESSIONS, seed=3), Rounds()
    network.world.watched_by((rounds,))
    with signing.scheme(network.keys):
        network.warm_up()
        network.serve()
    params = network.world.genesis.params
    miners = [host.node for name, host in network.world.hosts.items() if name.startswith("miner")]
    expected: dict[bytes, int] = {}
    for round_ in rounds.announced:
        assert round_.pool == len(miners) == network.shape.miners, "routers know every miner by now"
        drawn = sum(is_eligible(params, round_.session, miner, round_.pool, round_.widening) for miner in miners)
        expected[round_.session] = expected.get(round_.session, 0) + drawn
    assert len(expected) == SESSIONS
    assert dict(network.tally.bids) == expected


def test_bids_a_session_stay_what_the_lottery_aims_at() -> None:
    small, large = count(100, SESSIONS), count(400, SESSIONS)
    for counted in (small, large):
        assert counted.ends["task"] == counted.ends["session session_closed"] == SESSIONS
        assert 5 < sum(counted.bids) / SESSIONS < 14, "8, and a second round now and then"
        assert all(len(counted.waits_us[level]) == SESSIONS for level in ("committed", "certified", "finalized"))
        committed, certified, finalized = (
            counted.wait_ms(level, 50) or 0 for level in ("committed", "certified", "finalized")
        )
        assert 0 < committed < certified < 500
        assert certified < finalized < 1_500
    # What streams carry does not grow with the network either.
    assert _stream_bytes(large) < 1.5 * _stream_bytes(small) + 300_000 * SESSIONS


def _stream_bytes(counted: Counted) -> int:
    return sum(counts.message_bytes for counts in counted.streams.values())


def test_a_session_s_gossip_reaches_each_miner_some_seven_times() -> None:
    counted = count(300, 6)
    gossip = counted.gossip["sessions"]
    heard = gossip.published * counted.shape.miners
    assert gossip.copies - gossip.duplicates == heard
    assert 5.5 < gossip.duplicates / heard < 7
    assert gossip.wire_bytes > 300 * gossip.copies
    # Each node is advertised once an interval, ± 20 %.
    advertised = counted.shape.miners + counted.shape.routers
    assert 1 <= counted.adverts.published / advertised < 1.25


def test_a_network_counted_twice_is_the_same_network() -> None:
    one, again, other = count(30, 4, seed=5), count(30, 4, seed=5), count(30, 4, seed=6)
    assert one == again
    assert one.hash != other.hash


def test_the_command_prints_tables_draws_and_speaks_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    sim.configure(parser.add_subparsers())
    plot = tmp_path / "scale.svg"
    options = ["sim", "--scale", "30,10", "--sessions", "2"]
    assert sim.run(parser.parse_args([*options, "--plot", str(plot)])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["10", "30"]
    assert plot.read_text().startswith("<svg ")
    assert sim.run(parser.parse_args([*options, "--json"])) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["nodes"] for row in rows] == [10, 30]
    assert all(row["ends"]["task"] == 2 and row["memory_bytes"] > 1 << 20 for row in rows)


@pytest.mark.parametrize("sizes", ["9", "10,x", "", "-10", "10000000"])
def test_sizes_that_are_none(sizes: str) -> None:
    parser = argparse.ArgumentParser()
    sim.configure(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["sim", "--scale", sizes])
