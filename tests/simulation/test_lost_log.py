"""A member that was one epoch ahead of all others loses its signer log: what it signed there must bind it all the same.

Three of the four members of the first epoch have a block of its end notarized, and only one of them hears the others'
finalizes: it closes the epoch, and gives up the first height of the second one, alone. Then its disk is lost, and with
it the only copy of its own finalize. When it comes back two others, still in the first epoch, answer it.
"""

from dataclasses import replace

import pytest

from p2pnode.sim.checkers import Checker, Violation
from p2pnode.sim.committee import builder
from p2pnode.sim.committee_plan import Tuning
from p2pnode.sim.crypto import KeyedHashes
from p2pnode.sim.host import Host
from p2pnode.sim.scenario import Setup
from protocol.committee.signer import statement_key
from protocol.core import signing
from protocol.core.codec import Message
from protocol.core.params import Params
from protocol.messages.committee import State, StatementKind

AHEAD, SLOW = "oracle-1", "oracle-4"


def small(params: Params) -> Params:
    return replace(params, delta_ms=100, resend_interval_ms=400, epoch_blocks=3, heartbeat_ms=1_000)


class Script(Checker):
    """One member is cut off before the epoch's last height. When that is notarized nobody hears the others' finalizes
    but the one that will be ahead."""

    def __init__(self) -> None:
        self.slow = self.cut = self.lost = False

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        if not isinstance(message, State) or message.statement.height < self.world.genesis.params.epoch_blocks:
            return
        if not self.slow:
            self.slow = True
            for one, other in self._links(SLOW):
                self.world.network.cut(one, other)
        if not self.cut and message.statement.kind is StatementKind.FINALIZE:
            self.cut = True
            for one, other in self._deaf():
                self.world.network.cut(one, other)

    def _links(self, name: str) -> list[tuple[Host, Host]]:
        one, hosts = self.world.hosts[name], self.world.hosts.values()
        return [link for other in hosts if other is not one for link in ((one, other), (other, one))]

    def _deaf(self) -> list[tuple[Host, Host]]:
        others = [host for host in self.world.hosts.values() if host.name not in (AHEAD, SLOW)]
        ahead = self.world.hosts[AHEAD]
        return [(one, other) for one in (ahead, *others) for other in others if one is not other]

    def durable(self, host: Host, records: object) -> None:
        said = statement_key(StatementKind.NULLIFY, 2, 1)
        if host.name == AHEAD and said in host.disk.records and not self.lost:
            self.lost = True
            self.world.after(1, self._lose)

    def _lose(self) -> None:
        host, network = self.world.hosts[AHEAD], self.world.network
        host.crash()
        host.disk.wipe()
        for one, other in self._deaf():
            network.mend(one, other)
        self.world.after(50_000, host.start)
        self.world.after(15_000_000, self._mend)

    def _mend(self) -> None:
        for one, other in self._links(SLOW):
            self.world.network.mend(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_who_was_ahead_and_lost_its_log_does_not_contradict_itself(seed: int) -> None:
    keys = KeyedHashes(seed)
    tuning = Tuning(size=4, byzantine=(), quiet=True, delay_deltas=0.1, follow="same", params=small)
    script = Script()
    with signing.scheme(keys):
        built = builder(tuning)(Setup(seed, keys, 4_000))
        built.world.watched_by((script,))
        try:
            built.world.run_until(60_000_000)
        except Violation as violation:
            pytest.fail(str(violation))
    assert script.lost, "it was ahead, and lost what it had signed there"
    chain = [host.disk.records for host in built.world.hosts.values()]
    assert any(records for records in chain)
