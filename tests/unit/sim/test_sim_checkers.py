"""The checkers see what they are there for, and the keys sign as they should."""

import pytest

from p2pnode.sim.checkers import Checker, Violation, Watch
from p2pnode.sim.crypto import KeyedHashes, Keys, RealKeys, keys_of
from p2pnode.sim.tables import Table, TablesAreBounded, tables_of
from p2pnode.sim.trace import Trace, shown
from protocol.core import signing
from protocol.core.deadlines import Deadlines
from protocol.core.errors import SignatureError
from protocol.core.ids import Digest
from protocol.core.machine import Received
from protocol.roles.client import ClientMachine
from tests.unit.sim.worlds import Told, host_of, number, world_of

DIGEST = Digest(bytes(range(32)))


@pytest.mark.parametrize("keys", [KeyedHashes(7), RealKeys(7)])
def test_keys_come_from_the_seed_and_their_signatures_name_them(keys: Keys) -> None:
    one, other = keys.key("one"), keys.key("other")
    assert type(keys)(7).key("one").node_id == one.node_id  # type: ignore[call-arg]
    assert type(keys)(8).key("one").node_id != one.node_id  # type: ignore[call-arg]
    with signing.scheme(keys):
        signature = one.sign(DIGEST)
        assert len(signature) == 65
        assert signing.recover(DIGEST, signature) == one.node_id != other.node_id
        assert signing.recover(Digest(bytes(32)), signature) not in (one.node_id, other.node_id)
        with pytest.raises(SignatureError):
            signing.recover(DIGEST, signature[:-1] + b"\0")


def test_one_seed_in_fifty_signs_for_real() -> None:
    assert sum(isinstance(keys_of(seed), RealKeys) for seed in range(500)) == 10


def test_only_hooks_that_are_overridden_are_called() -> None:
    class Ends(Checker):
        def ended(self) -> None:
            pass

    watch = Watch((Ends(), Checker()))
    assert (len(watch.ended), watch.effect, watch.wire) == (1, (), ())


def test_a_violation_says_what_when_and_where_and_crosses_processes() -> None:
    import pickle

    violation = Violation("S11", "shown twice", 1_500, "client-1")
    again = pickle.loads(pickle.dumps(violation))
    assert (str(again), again.invariant) == ("S11 at 1.500 s, client-1: shown twice", "S11")


class Hoard(Told):
    """Forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = {b"a": [1, 2, 3], b"b": [4]}
        self.clocks: Deadlines[int] = Deadlines()
        self.clocks.set(1, 5)


def test_every_table_is_found_by_its_way() -> None:
    found: dict[str, int] = {}
    for path, size in tables_of(Hoard()):
        found[path] = max(size, found.get(path, 0))
    assert found == {"Hoard.peers": 2, "Hoard.peers[]": 3, "Hoard.clocks": 1, "Hoard.heard": 0, "Hoard.times": 0}


def test_production_machines_have_no_table_that_is_not_walked() -> None:
    machine = ClientMachine(bytes(20), lambda digest: bytes(65))  # type: ignore[arg-type,return-value]
    names = {path for path, _ in tables_of(machine)}
    assert {f"ClientMachine._held.{name}" for name in ("routers", "sessions", "tasks", "direct", "deadlines")} <= names


def test_a_table_is_held_to_its_bound_and_to_nothing_at_rest() -> None:
    world = world_of()
    checker = TablesAreBounded(lambda params: 3, {".heard": Table(lambda params: 9, lambda params: 9)})
    world.watched_by((checker,))
    host = host_of(world, "node", Hoard())
    with pytest.raises(Violation, match=r"Hoard\.peers has 2 entries at rest, its bound is 0"):
        checker.ended()
    machine = host.drives[0].machine
    assert isinstance(machine, Hoard)
    machine.peers = {bytes([at]): [] for at in range(4)}
    with pytest.raises(Violation, match=r"Hoard\.peers has 4 entries under way, its bound is 3"):
        host.crash()
    machine.peers, machine.clocks = {}, Deadlines()
    machine.heard = [None] * 9
    checker.ended()


def test_a_trace_tells_everything_in_its_hash_and_names_nodes() -> None:
    traces = [Trace(2), Trace(2), Trace(2)]
    for at, trace in enumerate(traces):
        trace.names[b"x" * 20] = "miner-1"
        for moment in range(600):
            trace.add(moment + (at == 2 and moment == 3), "node", "does", Received(1, number(moment)))  # type: ignore[arg-type]
    assert traces[0].digest() == traces[1].digest() != traces[2].digest()
    assert len(traces[0].lines()) == 2
    assert "Received(channel=1 message=ClientHello(version=599))" in traces[0].lines()[-1]
    assert shown((b"x" * 20, b"", b"\1" * 32), traces[0].names) == "[miner-1, -, 01010101]"
