"""The light client's machine and time: what it keeps of committees, and whom it stops believing."""

from collections.abc import Mapping

import pytest

from protocol.core.ids import NetworkId
from protocol.core.machine import Channel, ChannelClosed, Close, Open, Received
from protocol.light.handovers import HandOverStore
from protocol.light.trust import show_trust
from protocol.light.trust_book import KeptTrust, LightBook
from protocol.messages.committee import Certified
from protocol.messages.greeting import RouterHello
from protocol.messages.handover import HandOver, HandOversAsked, HandOversFound, HandOversPicked
from protocol.messages.results import LedgerNews
from protocol.roles.client import ClientMachine, ConnectRouter, Deliver, RouterGone, RouterReady, TrustMoved
from tests.unit.protocol.machines import CLIENT, ROUTER, Hand, of, sent
from tests.unit.protocol.trust_at_hand import DAY_S, FOUNDED_S, PERIOD_S, THIEF, Net

NET = Net()
FAR = Net(turn=11, epoch_s=600)
"""Its committee stays as it is."""
NETWORK = NET.genesis.network_id()


class Reader(Hand):
    """A client of a network, at a time, and a router that shows it what it has."""

    def __init__(
        self, net: Net, now_s: int, kept: Mapping[NetworkId, KeptTrust] | None = None, *, live: bool = False
    ) -> None:
        super().__init__(ClientMachine(CLIENT.node, CLIENT.sign, kept, live=live), now_s * 1_000)
        self.net = net
        self.store = HandOverStore()
        self.items: list[object] = []
        self.asked: list[object] = []
        (opened,) = of(self.tell(ConnectRouter(1, ROUTER.node, net.genesis.network_id())), Open)
        self.channel: Channel = opened.channel

    def has(self, *hand_overs: HandOver) -> "Reader":
        for hand_over in hand_overs:
            self.store.keep(hand_over)
        return self

    def greets(self, certified: Certified | None) -> "Reader":
        self.says(RouterHello(ROUTER.node, self.net.genesis.to_json(), (), certified))
        return self

    def says(self, message: object) -> list[object]:
        effects = self.tell(Received(self.channel, message))  # type: ignore[arg-type]
        self.items += [effect.item for effect in of(effects, Deliver)]
        for question in sent(effects, self.channel):
            self.asked.append(question)
            if isinstance(question, HandOversPicked):
                effects += self.says(self.store.found(question))
            if isinstance(question, HandOversAsked):
                effects += self.says(self.store.page(question.first))
        return effects

    @property
    def ready(self) -> RouterReady:
        (found,) = [item for item in self.items if isinstance(item, RouterReady)]
        return found

    @property
    def kept(self) -> KeptTrust:
        """What it would write down."""
        return [item.kept for item in self.items if isinstance(item, TrustMoved)][-1]


@pytest.mark.spec("TRUST-KEPT.1")
def test_a_client_goes_on_from_what_it_knew() -> None:
    first = Reader(NET, NET.begins_s(4)).has(*map(NET.hand_over, (1, 2, 3, 4))).greets(NET.final(4))
    assert first.ready.untrusted == ""
    assert first.kept.latest == 5
    late_s = FOUNDED_S + PERIOD_S
    again = Reader(NET, late_s, {NETWORK: first.kept}).has(*map(NET.hand_over, (5, 6, 7, 8))).greets(NET.final(8))
    assert again.asked == [HandOversAsked(5)]
    assert (again.ready.untrusted, again.ready.oracles) == ("", 4)
    assert again.kept.latest == 9
    without = Reader(NET, late_s).has(*map(NET.hand_over, range(1, 9))).greets(NET.final(8))
    assert "7 days ago" in without.ready.untrusted
    assert not [item for item in without.items if isinstance(item, TrustMoved)]


@pytest.mark.spec("TRUST-SKIP.1")
def test_a_client_that_was_away_skips() -> None:
    reader = Reader(FAR, FAR.begins_s(300)).has(FAR.hand_over(299), FAR.hand_over(300)).greets(FAR.final(300))
    assert reader.asked == [HandOversPicked((299,)), HandOversAsked(300)]
    assert reader.ready.untrusted == ""
    assert LightBook(FAR.genesis, reader.kept).trust.epoch == 301


@pytest.mark.spec("TRUST-POINT.1")
def test_a_trust_string_takes_a_new_client_to_an_old_network() -> None:
    kept = KeptTrust(1, NETWORK, "", (show_trust(NET.point(40)),))
    reader = Reader(NET, NET.begins_s(42), {NETWORK: kept})
    reader.has(*map(NET.hand_over, range(39, 43))).greets(NET.final(42))
    assert reader.asked == [HandOversAsked(39)]
    assert reader.ready.untrusted == ""
    wrong = KeptTrust(1, NETWORK, "", (show_trust(NET.point(1, members=THIEF)),))
    refused = Reader(NET, NET.begins_s(2), {NETWORK: wrong}).greets(NET.final(2))
    assert isinstance(refused.items[-1], RouterGone)
    assert "contradicts" in refused.items[-1].detail


@pytest.mark.spec("TRUST-PERIOD.1")
def test_stolen_keys_of_a_retired_committee_convince_no_client_past_its_period() -> None:
    stolen, now_s = NET.committee(1)[:3], FOUNDED_S + 60 * DAY_S
    fork = [
        NET.hand_over(1, following=THIEF, signers=stolen, time_s=now_s),
        *(NET.hand_over(epoch, following=THIEF, signers=THIEF[:3], time_s=now_s) for epoch in range(2, 61)),
    ]
    leap = NET.hand_over(59, following=THIEF, signers=stolen, time_s=now_s)
    for shown, forged in (
        (NET.final(1, stolen), fork),
        (NET.final(60, THIEF[:3]), fork),
        (NET.final(60, stolen), [leap]),
    ):
        reader = Reader(NET, now_s).has(*forged).greets(shown)
        assert "7 days" in reader.ready.untrusted or "60 days" in reader.ready.untrusted
        assert not [item for item in reader.items if isinstance(item, TrustMoved)]
        for news in (NET.final(61, THIEF[:3]), NET.final(61, stolen), NET.final(1, stolen, height=11)):
            effects = reader.says(LedgerNews(news, ()))
            assert not of(effects, Close)
        reader.tell(ChannelClosed(reader.channel, "gone"))


@pytest.mark.spec("TRUST-PERIOD.1")
def test_within_the_period_the_same_fork_is_a_lie_to_who_knows_better() -> None:
    known = Reader(NET, NET.begins_s(4)).has(*map(NET.hand_over, (1, 2, 3, 4))).greets(NET.final(4))
    reader = Reader(NET, NET.begins_s(5), {NETWORK: known.kept})
    forged = NET.hand_over(5, following=THIEF, signers=[*NET.committee(1)[:3]])
    reader.has(forged).greets(NET.final(6, THIEF[:3]))
    assert isinstance(reader.items[-1], RouterGone)
    assert LightBook(NET.genesis, known.kept).trust.epoch == 5


@pytest.mark.spec("TRUST-PERIOD.1")
def test_who_runs_beside_a_node_that_follows_has_no_period() -> None:
    now_s = FOUNDED_S + 60 * DAY_S
    reader = Reader(NET, now_s, live=True).has(*map(NET.hand_over, range(1, 61))).greets(NET.final(60))
    assert (reader.ready.untrusted, reader.ready.oracles) == ("", 4)


def test_what_nobody_asked_for_ends_the_stream() -> None:
    for message in (HandOversFound(()), HandOversFound((NET.hand_over(1),))):
        (closed,) = of(Reader(NET, NET.begins_s(1)).greets(NET.final(1)).says(message), Close)
        assert closed.channel
