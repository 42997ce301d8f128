"""The simulator: production's machines of all roles on one event heap, a virtual clock, one seed.

``p2pnode sim --seed 7`` plays a world: nodes, links, disks, clocks, and the faults that the seed drew for it, while
checkers watch from outside. A seed is the whole input: the same one gives the same run, to the last byte of the trace
hash, in any process. No trio, no threads, no wall clock, no socket; nothing is drawn but from ``World.random``.

The pieces, each a file:

- ``world`` the heap and the clock, ``trace`` what happened, ``scenario`` and ``scenarios`` what is played by which name
- ``host`` a node and its lives, ``drive`` one of its machines by the driver's contract, ``disk``, ``local_clock``
- ``network`` links' ends and connections, ``links``, ``streams``, ``spreading`` (gossip)
- ``crypto`` keys and signatures, ``faults`` what can strike, ``swarm`` how a seed draws it
- ``checkers`` the interface of the checkers, and one file for each of them
- ``runner`` one seed or many, ``shrink`` fewer faults, ``mutations`` mistakes that the checkers have to find
- ``counting`` what sessions cost in networks of up to ten thousand nodes, without faults; ``counting_*`` are its parts
- ``fast_path`` the scenario of routers, miners and clients, with ``toy_engine`` and ``client_script``
- ``committee`` the scenario of the oracles alone, and ``results`` the one with everybody and money: ``results_plan``
  who is there, ``results_node`` what they run, ``results_byzantine`` and ``results_bad_*`` what some do instead,
  ``results_seen`` and ``results_replay`` what was said and what it comes to, ``results_ending`` how it ends

**How a scenario is written.** A builder, one line in ``scenarios.SCENARIOS``, takes a :class:`scenario.Setup` and
returns a :class:`scenario.Scenario`: a world that is ready to run, and its faults, not planned yet::

    def build(setup: Setup) -> Scenario:
        rng = Random(f"committee/{setup.seed}")                  # never the global one
        world = World(setup.seed, genesis, Profile(...), setup.keys, setup.lines_max)
        world.network.lossy = frozenset({"member"})              # protocols that promise to live with loss
        for name in names:
            key = setup.keys.key(name)                           # node id and sign, the same for the same seed
            host = Host(world, name, key, OracleProgram(key, ...), keeps=others, skew_ms=...)
            world.at(rng.randrange(500_000), host.start)         # times are in microseconds
        world.watched_by((Agreement(), OneSignatureASlot(), ...))
        menu = Menu(nodes=names, crashing=names, from_ms=1_000, heal_ms=60_000)
        return Scenario(world, draw_faults(Random(f"faults/{setup.seed}"), menu), heal_ms=60_000, end_ms=120_000)

**A program** is what a node runs. ``start(boot)`` is called at every start of the node, after a crash too, with what
the disk holds, and returns the machines, each in a :class:`host.Part`, with performers for effects of its role
alone. Whatever is to survive a crash has to go through Persist. A Byzantine node is a program with a machine of your
own, and ``Host(..., correct=False)``: checkers ask ``host.correct`` before they hold anybody to a promise. Most are
production's machine behind small classes that turn what it hears and says: ``byzantine`` for oracles' consensus,
``results_byzantine`` for everybody else.

**A checker** overrides the hooks it needs (see :class:`checkers.Checker`) and calls ``self.fail``. Hooks come at the
moment a thing happens and before anything follows: at ``wire`` the message is about to leave, so what must be durable
by then is in ``host.disk.records``. Machines may be looked at (``drive.machine``), never changed.

**Crashes at effect boundaries**: ``faults.CrashAtEffect`` kills a node just before or after its k-th effect, where a
Persist counts when its write starts; ``host.effects`` is the count so far. What was not durable is lost, or, of what
was being written, all but the first batches.

**Good to know.** Events of one machine are handled in order; a handle takes no time; its effects happen at that same
instant, those behind a Persist of their key when it is durable. Iterate over lists and dicts, never over sets, and
sort what comes out of one. Draw every part of a world from a stream of its own (``world.random(name)``), so that
``--shrink`` can take a fault away without changing everything after it.
"""
