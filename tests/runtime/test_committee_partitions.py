"""Cut cables between oracles that run as processes: every connection between them goes through the tests' proxies."""

from collections.abc import Iterator

import psutil
import pytest

from tests.runtime.committee_net import RECONNECT_S, Net, bound_s, open_net, until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_net(tmp_path_factory.mktemp("partitions"), proxied=True) as net:
        net.start()
        yield net


@pytest.fixture
def net(shared: Net) -> Net:
    """Every cable is whole, every link up, and heights go on."""
    shared.cables.heal()
    shared.await_signing()
    shared.await_links(2 * RECONNECT_S)
    shared.include()
    shared.await_heights(shared.highest, within_s=RECONNECT_S + bound_s(shared.params, 4, 0))
    return shared


def test_all_connections_go_through_the_proxies(net: Net) -> None:
    ports = {oracle.port for oracle in net.oracles}
    for oracle in net.oracles:
        assert oracle.process is not None
        connections = psutil.Process(oracle.process.pid).net_connections("tcp")
        dialed = {each.raddr.port for each in connections if each.raddr and each.laddr.port != oracle.port}
        assert dialed & ports == set()


@pytest.mark.parametrize("broken_s", [0.0, 8.0], ids=["short", "until every connection is given up"])
def test_two_and_two_decide_nothing_and_go_on_when_healed(net: Net, broken_s: float) -> None:
    one, other = net.oracles[:2], net.oracles[2:]
    with net.load():
        net.cables.cut(([oracle.name for oracle in one], [oracle.name for oracle in other]))
        stuck = net.highest
        # What was under way may still be decided; then nothing is, while timers fire on both sides.
        with pytest.raises(AssertionError, match="above"):
            net.await_heights((stuck[0], stuck[1] + 1), within_s=max(broken_s, bound_s(net.params, 4, 1)))
        if broken_s:
            until(lambda: not one[0].linked, 10, "the broken links are known")
        stuck = net.highest
        net.cables.heal()
        within_s = bound_s(net.params, 4, 0, unfinalized=2)
        net.await_heights(stuck, within_s=within_s + (RECONNECT_S if broken_s else 0.0))


@pytest.mark.parametrize("both_ways", [True, False], ids=["both ways", "one way"])
def test_one_broken_link_stops_nobody(net: Net, both_ways: bool) -> None:
    """What two members cannot tell each other they hear by certificates, sync and gossip of the others."""
    first, second, witness, _ = net.oracles
    with net.load():
        net.cables.cut(([first.name], [second.name]), both_ways=both_ways)
        since = net.highest
        rise(net, 10)
        if both_ways:
            until(lambda: not first.linked, 15, "the broken link is known")
            since = net.highest
            rise(net, 10)
    leaders = {block["leader"] for block in witness.blocks_after(since)}
    assert leaders == {oracle.shown for oracle in net.oracles}, "all four lead, also the two that are cut off"


def rise(net: Net, heights: int) -> None:
    """Wait for so many blocks, each within the bound of a single lost leader."""
    for _ in range(heights):
        net.await_heights(net.highest, within_s=bound_s(net.params, 4, 1))


def test_a_member_that_is_cut_off_catches_up(net: Net) -> None:
    alone, *others = net.oracles[::-1]
    with net.load():
        net.cables.cut(([alone.name], [oracle.name for oracle in others]))
        for _ in range(10):
            net.await_heights(max(oracle.final for oracle in others), *others, within_s=bound_s(net.params, 4, 2))
        missed = others[0].final
        assert alone.final < missed
        net.cables.heal()
        net.await_heights(missed, alone, within_s=RECONNECT_S)
