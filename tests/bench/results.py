"""What proving results costs: ``python -m tests.bench results [--rate 50] [--lanes 1,2] [--miners 16] [--json]``.

A committee of four, two routers, and miners with the toy engine answer so many tasks a second, all with production's
machines and real signatures, one after the other on one core in the simulator; nodes are a millisecond apart and as far
from their disks: at 50 tasks/s the machines alone take one core and a half, so two cores do not carry processes and
libp2p as well. So the time to *certified* and *finalized* is virtual, without CPU: the messages' own way and the
intervals that oracles keep; what they compute is reported beside it, and has to fit into one core a node. Everything
else is counted: messages, bytes and signatures of a task from its order to its finalized outcome, and what goes over
gossip in any one second, which has to stay within the topics' budgets. Ratios are to the first row.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_node import LOG_MADE
from p2pnode.sim.counting_client import Errand, ErrandProgram
from p2pnode.sim.counting_nodes import CountingOracle, CountingRouter
from p2pnode.sim.counting_tally import CountingKeys, StreamCounts, Tally, percentile
from p2pnode.sim.crypto import Key, RealKeys
from p2pnode.sim.disk import Disk
from p2pnode.sim.drive import Drive
from p2pnode.sim.fast_path import MODEL
from p2pnode.sim.host import Host, Program
from p2pnode.sim.links import Profile
from p2pnode.sim.results_node import ProvingMiner, make_ledger
from p2pnode.sim.toy_engine import Pace
from p2pnode.sim.world import World
from protocol.core import signing
from protocol.core.codec import Message
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.params import Params
from protocol.session.adverts import AdvertBook

LINK_US = (500, 1_000)
SYNC_US = (500, 1_000)
ORACLES, ROUTERS = 4, 2
EVERY_MS = 1_000
"""Each client orders so often: there are as many clients as tasks a second."""
TOKENS = 32
PRICE_WEI = 3
PACE = Pace(slots=128, first_token_us=20_000, token_us=2_000)
SETTLE_MS = 5_000
"""Nodes find each other before the first client comes."""
RAMP_MS = 5_000
"""Clients come one after the other; what is measured begins after the last."""
TAIL_MS = 60_000
PARAMS = replace(Params(), epoch_blocks=1 << 20).validate()
TENTH_US = 100_000


class RoleKeys(CountingKeys):
    """Real keys that know whose machine is at work."""

    def __init__(self, seed: int) -> None:
        super().__init__(RealKeys(seed))
        self.role = ""
        self.signed_by: Counter[str] = Counter()
        self.checked_by: Counter[str] = Counter()

    def key(self, name: str) -> Key:
        """See Keys."""
        key = super().key(name)

        def sign(digest: Digest) -> Signature:
            self.signed_by[name.split("-")[0]] += 1
            return key.sign(digest)

        return Key(key.node_id, sign)

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        """See Keys."""
        self.checked_by[self.role] += 1
        return super().recover(digest, signature)


@dataclass
class Watching(Checker):
    """What is published, when, and what CPU each node's machines take."""

    keys: RoleKeys
    gossip: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """What was published, by topic, then by tenth of a second."""
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By the node's name."""
    _since_s: float = 0.0

    def handles(self, drive: Drive, event: object, now_ms: int) -> None:
        """See Checker."""
        self.keys.role = drive.host.name.split("-")[0]
        self._since_s = time.process_time()

    def handled(self, drive: Drive, event: object, effects: list[object]) -> None:
        """See Checker."""
        self.cpu_s[drive.host.name] += time.process_time() - self._since_s
        self.keys.role = "gossip's check"

    def published(self, host: Host, topic: str, message: Message) -> None:
        """See Checker."""
        self.gossip[topic][self.world.now_us // TENTH_US] += 1

    def published_now(self) -> dict[str, int]:
        """How many by topic."""
        return {topic: sum(counts.values()) for topic, counts in self.gossip.items()}

    def busiest_second(self, topics: list[str], from_us: int) -> int:
        """The most that were published on these topics within a second, from a time on."""
        first = from_us // TENTH_US
        tenths: Counter[int] = Counter()
        for topic in topics:
            tenths.update({tenth: count for tenth, count in self.gossip[topic].items() if tenth >= first})
        return max((sum(tenths[tenth + after] for after in range(10)) for tenth in list(tenths)), default=0)


@dataclass(frozen=True, slots=True)
class Count:
    """All counters at one moment."""

    tasks: int
    streams: dict[str, StreamCounts]
    published: dict[str, int]
    signed: Counter[str]
    checked: Counter[str]
    cpu_s: dict[str, float]
    process_s: float


class Bench:
    """The network, its clients, and what is counted of it."""

    def __init__(self, rate: int, seconds: int, miners: int, lanes: int) -> None:
        self.rate, self.seconds, self.lanes = rate, seconds, lanes
        self.keys = RoleKeys(1)
        self.tally = Tally()
        self.watching = Watching(self.keys)
        self._of = {
            role: {f"{role}-{number}": self.keys.key(f"{role}-{number}") for number in range(1, count + 1)}
            for role, count in (("oracle", ORACLES), ("router", ROUTERS), ("miner", miners), ("client", rate))
        }
        orders = (RAMP_MS + seconds * 1_000) // EVERY_MS
        cap_wei = orders * TOKENS * PRICE_WEI * lanes * 2
        self.genesis = Genesis(
            "results bench",
            params=PARAMS,
            committee=tuple(key.node_id for key in self._of["oracle"].values()),
            allocation=tuple(sorted((key.node_id, cap_wei) for key in self._of["client"].values())),
            miners=tuple(sorted(key.node_id for key in self._of["miner"].values())),
        )
        self.world = World(1, self.genesis, Profile(LINK_US, late_bp=0), self.keys, lines_max=0)
        self.world.events_max = 1 << 40
        self._nodes()
        routers = tuple(key.node_id for key in self._of["router"].values())
        for number, (name, key) in enumerate(self._of["client"].items()):
            errand = Errand(routers[number % len(routers)], MODEL, orders, EVERY_MS, TOKENS, lanes, PRICE_WEI, cap_wei)
            host = self._host(name, key, ErrandProgram(key, self.genesis, errand), dialable=False)
            self.world.at((SETTLE_MS + number * RAMP_MS // rate) * 1_000, host.start)
        self.world.watched_by((self.tally, self.watching))

    def _nodes(self) -> None:
        genesis = self.genesis
        ledger = make_ledger(genesis)
        for name, key in self._of["oracle"].items():
            book = AdvertBook(PARAMS, bytes(16))
            program = CountingOracle(key, genesis, ledger, f"/memory/{name}", book)
            program.host = self._host(name, key, program)
            program.host.disk.records[LOG_MADE] = b""
        for name, key in self._of["router"].items():
            self._host(name, key, CountingRouter(key, genesis, "router", f"/memory/{name}"))
        for name, key in self._of["miner"].items():
            self._host(name, key, ProvingMiner(key, genesis, "miner", f"/memory/{name}", PACE, PRICE_WEI))
        for number, host in enumerate(self.world.hosts.values()):
            self.world.at(number * 10_000, host.start)

    def _host(self, name: str, key: Key, program: Program, *, dialable: bool = True) -> Host:
        routers = tuple(other.node_id for other in self._of["router"].values() if other is not key)
        host = Host(self.world, name, key, program, keeps=routers if dialable else (), dialable=dialable)
        host.disk = Disk(self.world.random(f"disk/{name}"), self.world.after, SYNC_US)
        return host

    def count(self) -> Count:
        """Now."""
        return Count(
            tasks=self.tally.ends["task"],
            streams=self.tally.streams_now(),
            published=self.watching.published_now(),
            signed=self.keys.signed_by.copy(),
            checked=self.keys.checked_by.copy(),
            cpu_s=dict(self.watching.cpu_s),
            process_s=time.process_time(),
        )

    def run(self) -> dict[str, Any]:
        """Run it and report."""
        with signing.scheme(self.keys):
            self.world.run_until((SETTLE_MS + RAMP_MS) * 1_000)
            before, from_us = self.count(), self.world.now_us
            self.world.run_until(from_us + self.seconds * 1_000_000)
            after, until_us = self.count(), self.world.now_us
            while (
                self.tally.ends["session session_closed"] < self.rate and self.world.now_us < until_us + TAIL_MS * 1_000
            ):
                self.world.run_until(self.world.now_us + 1_000_000)
        return self._report(before, after, from_us)

    def _report(self, before: Count, after: Count, from_us: int) -> dict[str, Any]:
        tasks = after.tasks - before.tasks
        topics = list(self.watching.gossip)
        nothing = StreamCounts()
        streams = {name: now.since(before.streams.get(name, nothing)) for name, now in sorted(after.streams.items())}
        cpu_s = {name: spent_s - before.cpu_s.get(name, 0.0) for name, spent_s in after.cpu_s.items()}
        budget = PARAMS.gossip_budget()
        return {
            "lanes": self.lanes,
            "tasks": tasks,
            "tasks_per_s": tasks / self.seconds,
            "ends": dict(self.tally.ends),
            "waits_ms": {
                what: [(percentile(waits, part) or 0) / 1_000 for part in (50, 99)]
                for what, waits in self.tally.waits_us.items()
            },
            "reached": {what: len(waits) for what, waits in self.tally.waits_us.items()},
            "stream_messages": {name: counts.messages / tasks for name, counts in streams.items()},
            "stream_bytes": {name: counts.message_bytes / tasks for name, counts in streams.items()},
            "gossip": {topic: (after.published[topic] - before.published.get(topic, 0)) / tasks for topic in topics},
            "gossip_busiest_second": {
                **{topic: self.watching.busiest_second([topic], from_us) for topic in budget},
                "all": self.watching.busiest_second(topics, from_us),
            },
            "gossip_budget": {**budget, "all": sum(budget.values())},
            "signed": _shares(after.signed - before.signed, tasks),
            "checked": _shares(after.checked - before.checked, tasks),
            "cpu_ms": _shares(_by_role(cpu_s), tasks / 1_000),
            "process_cpu_ms": 1_000 * (after.process_s - before.process_s) / tasks,
            "busiest_core": {
                role: max(cpu_s[name] for name in self._of[role]) / self.seconds
                for role in ("oracle", "miner", "router")
            },
        }


def _by_role(cpu_s: dict[str, float]) -> dict[str, float]:
    roles: dict[str, float] = defaultdict(float)
    for name, spent_s in cpu_s.items():
        roles[name.split("-")[0]] += spent_s
    return roles


def _shares(counts: Mapping[str, float], tasks: float) -> dict[str, float]:
    return {role: counts[role] / tasks for role in sorted(counts)}


def main(arguments: list[str]) -> int:
    """Measure and print; 1 if an answer was not finalized, or gossip went over its budget."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench results")
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--miners", type=int, default=16)
    parser.add_argument("--lanes", default="1,2")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = [Bench(args.rate, args.seconds, args.miners, int(lanes)).run() for lanes in args.lanes.split(",")]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows)
    return int(not all(map(_holds, rows)))


def _holds(row: dict[str, Any]) -> bool:
    kept = all(row["gossip_busiest_second"][topic] <= row["gossip_budget"][topic] for topic in ("results", "all"))
    return kept and row["reached"].get("finalized", 0) == row["ends"].get("task", 0)


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        waits = [f"{what} {pair[0]:.0f}/{pair[1]:.0f}" for what, pair in row["waits_ms"].items()]
        print(f"{row['lanes']} lane(s): {row['tasks_per_s']:.1f} tasks/s, {row['tasks']} tasks measured")
        print(f"  ends           {_figures(row['ends'], 0)}")
        print(f"  reached        {_figures(row['reached'], 0)}")
        print(f"  ms p50/p99     {', '.join(waits)}  (virtual; results: from the answer's signed end)")
        messages, kilobytes = row["stream_messages"], {name: size / 1_000 for name, size in row["stream_bytes"].items()}
        print(f"  streams a task {_figures(messages, 1)}: {sum(messages.values()):.1f} messages")
        print(f"    kB           {_figures(kilobytes, 1)}: {sum(kilobytes.values()):.1f} kB")
        print(f"  gossip a task  {_figures(row['gossip'], 3)}")
        busiest, budget = row["gossip_busiest_second"], row["gossip_budget"]
        said = ", ".join(f"{topic} {busiest[topic]} of {budget[topic]}" for topic in busiest)
        print(f"  busiest second {said}  ({'kept' if _holds(row) else 'NOT kept'})")
        print(f"  signed         {_figures(row['signed'], 2)}: {sum(row['signed'].values()):.1f}")
        print(f"  checked        {_figures(row['checked'], 2)}: {sum(row['checked'].values()):.1f}")
        print(f"  CPU ms         {_figures(row['cpu_ms'], 2)}; with the simulator's own {row['process_cpu_ms']:.1f}")
        print(f"  busiest node   {_figures(row['busiest_core'], 3)} of a core, without codec and transport")
    for row in rows[1:]:
        ratio = row["process_cpu_ms"] / rows[0]["process_cpu_ms"]
        print(f"{row['lanes']} lanes: {ratio:.2f} x the CPU of a task with {rows[0]['lanes']}")


def _figures(values: dict[str, float], digits: int) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
