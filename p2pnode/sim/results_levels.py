"""S10: no client shows a level without what it takes, none goes down, and the answer's receipt proves as much."""

from dataclasses import dataclass

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_reading import Reading
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from p2pnode.sim.results_replay import OneLedger
from p2pnode.sim.results_seen import Lane, Seen
from protocol.core.genesis import parse_genesis
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Final, Level
from protocol.light.receipt import Verified, verify_receipt
from protocol.messages.receipts import Receipt
from protocol.messages.results import Observation, Verdict
from protocol.roles.client import Deliver, TaskHead, TaskLevel, TaskOver, TaskReceipt

RECEIPTS_CHECKED = 3
"""Of a run, those of the highest levels: each takes as long as some hundred events."""


@dataclass(slots=True)
class Shown:
    """What a client shows of an answer."""

    lane: Lane
    tokens: int | None = None
    level: Level = Level.STREAMED
    receipt: Receipt | None = None


class LevelsHold(Checker):
    """S10. ``reached`` counts how far the answers of correct clients came; ``shown`` is what they show."""

    invariant = "S10"

    def __init__(self, reading: Reading, seen: Seen, ledger: OneLedger) -> None:
        self.reached: dict[Level, int] = dict.fromkeys(Level, 0)
        self.shown: dict[tuple[str, int], Shown] = {}
        self._claims: list[tuple[Host, Lane, int, Final]] = []
        """Shown as final by a header that is not on any correct node's disk yet: a Byzantine oracle was quicker."""
        self._reading = reading
        self._seen = seen
        self._ledger = ledger

    def crashed(self, host: Host) -> None:
        """Whoever looked at it is gone."""
        for name in [name for name in self.shown if name[0] == host.name]:
            del self.shown[name]

    def effect(self, drive: Drive, effect: object) -> None:
        """A program is told something."""
        if not isinstance(effect, Deliver) or not drive.host.correct:
            return
        name, item = (drive.host.name, effect.handle), effect.item
        match item:
            case TaskHead(head=head):
                self.shown.setdefault(name, Shown((head.session, head.task, 0)))
            case TaskReceipt() if name in self.shown:
                self.shown[name].receipt = item.receipt
            case TaskOver() if name in self.shown:
                self.shown[name].tokens = item.tokens if item.end is not None else None
            case TaskLevel():
                shown = self.shown.get(name)
                if shown is None or shown.tokens is None:
                    self.fail("shows a level of what has no signed end", drive.host)
                else:
                    self._check(drive.host, shown, item)

    def _check(self, host: Host, shown: Shown, item: TaskLevel) -> None:
        if item.level < shown.level:
            self.fail(f"goes back from {shown.level.name} to {item.level.name}", host)
        for level in Level:
            if shown.level < level <= item.level:
                self.reached[level] += 1
        shown.level = item.level
        if item.level >= Level.COMMITTED and not self._committed(shown):
            self.fail("shows committed, and its miner never committed", host)
        if item.level is Level.CERTIFIED:
            self._check_certified(host, shown)
        if item.level is Level.FINALIZED:
            self._check_final(host, shown, item)

    def _committed(self, shown: Shown) -> bool:
        return shown.lane in self._seen.committed

    def _check_certified(self, host: Host, shown: Shown) -> None:
        values = self._seen.values[shown.lane]
        home_epochs = {order.home_epoch for order in self._seen.orders[shown.lane[:2]].values()}
        for home_epoch in home_epochs:
            committee = self._reading.committees[home_epoch]
            agreed: dict[Observation, int] = {}
            for member in committee.members:
                for value in values.get(member, ()):
                    if value.verdict is Verdict.OK and value.count == shown.tokens:
                        agreed[value] = agreed.get(value, 0) + 1
            if max(agreed.values(), default=0) >= committee.quorum:
                return
        self.fail("shows certified, and no 2f+1 oracles signed such a result", host)

    def _check_final(self, host: Host, shown: Shown, item: TaskLevel) -> None:
        if item.final is None or shown.tokens is None:
            self.fail("shows finalized and not where", host)
        elif (item.final.epoch, item.final.height) in self._ledger.headers:
            self._check_claim(host, shown.lane, shown.tokens, item.final)
        else:
            self._claims.append((host, shown.lane, shown.tokens, item.final))

    def _check_claim(self, host: Host, lane: Lane, tokens: int, final: Final) -> None:
        known = self._ledger.outcomes.get(lane)
        header = self._ledger.headers.get((final.epoch, final.height))
        if known is None or header is None:
            self.fail("shows finalized what no final block decided", host)
            return
        outcome, index = known
        if (outcome.verdict, outcome.count, index) != (Verdict.OK, tokens, final.index):
            self.fail(f"shows finalized as leaf {final.index}, it is {outcome.verdict.name} and {index}", host)
        if header.results_count <= index:
            self.fail("shows finalized by a header whose results do not hold the outcome", host)

    def ended(self) -> None:
        """What was shown early turned out to be so."""
        for claim in self._claims:
            self._check_claim(*claim)
        kept = [(name, shown) for name, shown in self.shown.items() if shown.receipt is not None]
        for (host, _), shown in sorted(kept, key=lambda each: -each[1].level)[:RECEIPTS_CHECKED]:
            self._check_receipt(host, shown)

    def _check_receipt(self, host: str, shown: Shown) -> None:
        """Whoever has the genesis, and the chain, sees in the receipt what the client shows."""
        assert shown.receipt is not None
        trust = HeaderTrust(parse_genesis(shown.receipt.genesis))
        verdict = verify_receipt(shown.receipt, trust, accepted=lambda _digest: True)
        if not isinstance(verdict, Verified) or verdict.level < shown.level:
            self.fail(f"{host} shows {shown.level.name}, and has a receipt of which it is said: {verdict}")
