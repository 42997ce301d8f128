"""A miner's walk in a network with a committee: its oracles are strangers too."""

from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.machine import Open, PeerConnected, Persist
from protocol.messages.results import RevealAsked, RevealMessage
from protocol.roles.miner import MinerMachine, MinerSettings
from protocol.roles.miner.outstanding import RESULTS_MAX
from tests.unit.protocol.following_at_hand import session_news
from tests.unit.protocol.light_at_hand import news_of, outcome_news
from tests.unit.protocol.machines import DOMAIN, GENESIS, MINER, MODEL, OFFER, ORACLES, PARAMS, Hand, id_of
from tests.unit.protocol.miner_results_at_hand import SALT_KEY
from tests.unit.protocol.miner_walk import MinerWalk
from tests.unit.protocol.test_machine_miner_results import outcome_of
from tests.unit.protocol.walk import OPENINGS, openings, tasks

RESERVED = [session_news(opening) for opening in OPENINGS]


class ProvingMinerWalk(MinerWalk):
    """See the module. Tokens have a price, of which an order's cap pays enough."""

    def __init__(self) -> None:
        super().__init__()
        offer = type(OFFER)(OFFER.manifest, OFFER.slots, OFFER.context_tokens, 2)
        made = MinerSettings(MINER.node, {MODEL: offer}, b"\x44" * 16, genesis=GENESIS, salt_key=SALT_KEY)
        self.hand = Hand(MinerMachine(made, DOMAIN, PARAMS, MINER.sign))
        self.revealed: list[RevealMessage] = []
        self.records: set[bytes] = set()

    def local(self, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            super().local(data)
        else:
            self.did(self.hand.tell(PeerConnected(data.draw(st.sampled_from(ORACLES)).node)))

    def likely(self, data: st.DataObject) -> st.SearchStrategy[Message]:
        told: list[Message] = [RevealAsked(id_of(data.draw(openings)), data.draw(tasks)), news_of(), *RESERVED]
        told += [outcome_news(outcome_of(message)) for message in self.revealed[-2:]]
        return st.one_of(super().likely(data), st.sampled_from(told))

    def did(self, effects: list[object]) -> None:
        super().did(effects)
        links = self.hand.machine._proving._links._channels
        for effect in effects:
            match effect:
                case Open(protocol="results"):
                    assert effect.peer in GENESIS.committee
                case Persist():
                    for name, value in effect.records:
                        (self.records.discard if value is None else self.records.add)(name)
            message = getattr(effect, "message", None)
            if isinstance(message, RevealMessage):
                self.revealed.append(message)
        assert set(links) <= set(GENESIS.committee)

    def bounded(self) -> None:
        super().bounded()
        proving = self.hand.machine._proving
        held = proving.outstanding.held
        assert len(held) <= RESULTS_MAX
        kept = {name for name in self.records if name.startswith(b"result/")}
        assert kept == {name for name, result in held.items() if result.repeats is None}
        assert len(proving.credit.tabs) <= len(OPENINGS)

    def finish(self) -> None:
        self.hand.wait(200_000)
        machine = self.hand.machine
        assert machine.slots() == (2, 2)
        held = (machine._leases, machine._by_channel, machine._peers, machine._silent, machine._deadlines)
        assert [len(table) for table in held] == [0] * 5
        assert not [tab for tab in machine._proving.credit.tabs.values() if tab.running], "no lane runs any more"
