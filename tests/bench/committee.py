"""What a committee costs by its size: ``python -m tests.bench committee [--sizes 4,7,13,31] [--heights N] [--json]``.

All members run production's machine in the simulator with real signatures, one after the other on one core, a
millisecond apart and as far from their disks, an item in every block. So *heights/s* is what one core carries for the
whole committee, *per member* what it would be if every member had a core; the time from an item to its finalized
block is virtual, without CPU: what the messages' own way takes. Everything else is counted. Ratios are to the
smallest committee of the run.
"""

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_node import LOG_MADE, OracleProgram
from p2pnode.sim.counter import CounterLedger
from p2pnode.sim.crypto import Key, RealKeys
from p2pnode.sim.disk import Disk
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from p2pnode.sim.links import Profile
from p2pnode.sim.world import World
from protocol.core import signing
from protocol.core.codec import Message
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.machine import Note
from protocol.core.params import Params
from protocol.roles.oracle import Include

LINK_US = (500, 1_000)
SYNC_US = (500, 1_000)
PARAMS = replace(Params(), block_interval_ms_min=10, epoch_blocks=1 << 20).validate()
WARM_HEIGHTS = 3


class CountingKeys(RealKeys):
    """Real keys that count what is signed and what is checked."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.signed = 0
        self.checked = 0

    def key(self, name: str) -> Key:
        """See Keys."""
        key = super().key(name)

        def sign(digest: Digest) -> Signature:
            self.signed += 1
            return key.sign(digest)

        return Key(key.node_id, sign)

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """See Keys."""
        self.checked += 1
        return super().recover(digest, signature)


@dataclass
class Counting(Checker):
    """Counts bytes on streams, and hands in the next item as soon as one is final."""

    bytes_sent: int = 0
    messages: int = 0
    heights: int = 0
    included_us: int = 0
    waits_ms: list[float] = field(default_factory=list)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        self.messages += 1
        self.bytes_sent += len(self.world.network.encoded(message))

    def effect(self, drive: Drive, effect: object) -> None:
        if isinstance(effect, Note) and effect.what == "oracle.final" and drive.host.name == "oracle-1":
            self.heights += 1
            self.waits_ms.append((self.world.now_us - self.included_us) / 1_000)
            self.world.after(0, self.include)

    def include(self) -> None:
        """One item, of another member each time."""
        hosts = list(self.world.hosts.values())
        self.included_us = self.world.now_us
        hosts[self.heights % len(hosts)].drives[0].dispatch(Include(b"item %d" % self.heights))


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench committee")
    parser.add_argument("--sizes", default="4,7,13,31")
    parser.add_argument("--heights", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = [_measure(int(size), args.heights) for size in args.sizes.split(",")]
    if args.json:
        print(json.dumps(rows))
        return 0
    _print(rows)
    return 0


def _measure(size: int, heights: int) -> dict[str, Any]:
    keys = CountingKeys(size)
    with signing.scheme(keys):
        return _measured(keys, size, heights)


def _measured(keys: CountingKeys, size: int, heights: int) -> dict[str, Any]:
    made = {f"oracle-{number}": keys.key(f"oracle-{number}") for number in range(1, size + 1)}
    members = tuple(key.node_id for key in made.values())
    genesis = Genesis("bench", params=PARAMS, committee=members)
    world = World(1, genesis, Profile(LINK_US, late_bp=0), keys)
    ledger = CounterLedger(genesis.domain(), PARAMS)
    for name, key in made.items():
        program = OracleProgram(key, genesis, ledger)
        host = Host(world, name, key, program)
        host.disk = Disk(world.random(f"disk/{name}"), world.after, SYNC_US)
        host.disk.records[LOG_MADE] = b""
        program.host = host
        world.at(Random(name).randint(0, 1_000), host.start)
    counting = Counting()
    world.watched_by((counting,))
    world.run_until(3_000_000)
    counting.include()
    _run(world, counting, WARM_HEIGHTS)
    counting.bytes_sent = counting.messages = keys.signed = keys.checked = 0
    counting.waits_ms.clear()
    started_s, started_us = time.process_time(), world.now_us
    _run(world, counting, counting.heights + heights)
    cpu_s = time.process_time() - started_s
    waits = sorted(counting.waits_ms)
    return {
        "members": size,
        "heights": heights,
        "heights_per_s": heights / cpu_s,
        "cpu_ms_per_member": 1_000 * cpu_s / heights / size,
        "virtual_ms": (world.now_us - started_us) / 1_000,
        "item_to_final_ms_p50": waits[len(waits) // 2],
        "item_to_final_ms_max": waits[-1],
        "messages": counting.messages / heights,
        "bytes": counting.bytes_sent / heights,
        "signed": keys.signed / heights,
        "checked": keys.checked / heights,
    }


def _run(world: World, counting: Counting, until_height: int) -> None:
    while counting.heights < until_height:
        before = counting.heights
        world.run_until(world.now_us + 100_000)
        assert counting.heights > before or world.now_us < 600_000_000, "no height in 600 s"


def _print(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'n':>3} {'heights/s':>10} {'per member':>11} {'item->final ms':>15} "
        f"{'messages':>9} {'kB':>8} {'signed':>7} {'checked':>8}"
    )
    for row in rows:
        print(
            f"{row['members']:3} {row['heights_per_s']:10.1f} {1_000 / row['cpu_ms_per_member']:11.1f} "
            f"{row['item_to_final_ms_p50']:7.1f}/{row['item_to_final_ms_max']:7.1f} {row['messages']:9.0f} "
            f"{row['bytes'] / 1_000:8.1f} {row['signed']:7.1f} {row['checked']:8.1f}"
        )
    first = rows[0]
    for row in rows[1:]:
        ratio = first["heights_per_s"] / row["heights_per_s"]
        more = row["bytes"] / first["bytes"]
        print(
            f"{row['members']} members: {ratio:.1f} x the CPU and {more:.1f} x the bytes a height of {first['members']}"
        )
    print("messages, bytes on streams, signatures made and checked: by all members together, a height")
