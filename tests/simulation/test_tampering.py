"""A man in the middle: a router that relays all but honestly, between real miners and the client as people use it."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from p2pnode.client import Answer, RequestFailed, Session, connect
from p2pnode.engine.fake import FakeConfig
from protocol.core.codec import Message
from protocol.core.machine import Machine, Send
from protocol.messages.tasks import FrameMessage, SegmentStart
from tests.simulation.fast_path import GENESIS, World, prepare
from tests.unit.protocol.tampering import FRAUDS, Alter, Fraud, Powers

ENGINE = FakeConfig(slots=2, first_token_s=0.1, token_s=0.2, answer_tokens=9)
TIMEOUT_MS = 8_000
NOT_HERE = {"end made up early", "a text without its id"}
"""The first needs to know the prompt's length to get as far as the signature."""


class TamperingRouter:
    """A router's machine whose frames to clients pass through other hands."""

    def __init__(self, machine: Machine, powers: Callable[[bytes], Powers]) -> None:
        self.machine, self.powers = machine, powers
        self.protocols, self.topics = machine.protocols, machine.topics
        self.next_deadline = machine.next_deadline
        self.recorded: list[Message] = []
        self.fraud: Fraud | None = None
        self._alter: Alter | None = None

    def handle(self, event: object, now_ms: int) -> list[object]:
        effects: list[object] = []
        for effect in self.machine.handle(event, now_ms):
            if isinstance(effect, Send) and isinstance(effect.message, SegmentStart | FrameMessage):
                effects += [Send(effect.channel, message, key=effect.key) for message in self.relay(effect.message)]
            else:
                effects.append(effect)
        return effects

    def relay(self, message: Message) -> list[Message]:
        """One message on its way to a client."""
        if self.fraud is None:
            self.recorded.append(message)
            return [message]
        if isinstance(message, SegmentStart):
            self._alter = self.fraud.make(self.powers(message.head.miner))
        assert self._alter is not None
        return self._alter(message)


class Meddling(World):
    """A world without faults but for its router."""

    def __init__(self, seed: int, fraud: Fraud) -> None:
        super().__init__(seed, faulty=False, engine=ENGINE)
        self.fraud = fraud
        self.middle: TamperingRouter | None = None
        self.wrap_router = self.meddle

    def meddle(self, machine: Machine) -> Machine:
        self.middle = TamperingRouter(machine, self.powers)
        return self.middle

    def powers(self, miner: bytes) -> Powers:
        """What the router has at hand against a miner's stream."""
        assert self.router is not None
        assert self.middle is not None
        signs = {node.key.node_id: node.key.sign for node in self.miners}
        return Powers(GENESIS.domain(), self.router.key.sign, signs[miner], self.middle.recorded)

    async def cheat(self) -> None:
        """An honest answer first, then one that is tampered with."""
        async with trio.open_nursery() as nodes:
            await nodes.start(self.run_router)
            for _ in range(2):
                await nodes.start(self.run_miner)
            await trio.sleep(3)
            key = self.key()
            assert self.address is not None
            async with (
                self.network.open(key) as transport,
                connect(self.address, key=key, transport=transport) as net,
            ):
                async with net.session() as session:
                    await self.honest_answer(session, 1)
                    if self.fraud.recorded == "task":
                        await self.cheated_answer(session, 2)
                if self.fraud.recorded == "session":
                    async with net.session() as session:
                        await self.cheated_answer(session, 1)
                # A router that cheats once is asked no more than any other: the next answer, relayed as it is, holds.
                assert self.middle is not None
                self.middle.fraud = None
                async with net.session() as session:
                    await self.honest_answer(session, 1)
            nodes.cancel_scope.cancel()

    async def honest_answer(self, session: Session, number: int) -> None:
        async with session.ask("Where does a bear live?", timeout_ms=TIMEOUT_MS) as answer:
            assert await answer.read()
            self.ledger.check(answer, session.id, number)

    async def cheated_answer(self, session: Session, number: int) -> None:
        assert self.middle is not None
        self.middle.fraud = self.fraud
        kept: list[Answer] = []
        with pytest.raises(RequestFailed) as failed:
            async with session.ask("Where does a fish live?", timeout_ms=TIMEOUT_MS) as answer:
                kept.append(answer)
                await answer.read()
        (answer,) = kept
        assert answer.finish is None
        self.ledger.check(answer, session.id, number)
        if self.fraud.aside:
            assert (failed.value.code, answer.token_ids) == ("deadline_exceeded", [])
        elif self.fraud.link == "end":
            assert failed.value.code == "deadline_exceeded"
            assert "end: the stream was cut after token" in str(failed.value)
        else:
            assert failed.value.code == "transcript_broken"
            assert str(failed.value).startswith(f"{self.fraud.link}: ")


@pytest.mark.spec("CHAIN-HEAD.1", "CHAIN-TOKEN.1", "CHAIN-ORDER.1", "CHAIN-END.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize(
    "fraud", [fraud for fraud in FRAUDS if fraud.name not in NOT_HERE], ids=lambda fraud: fraud.name
)
def test_a_router_that_tampers_is_caught_on_a_real_connection(fraud: Fraud, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Meddling(7, fraud)
    prepare(world, 7, monkeypatch)
    trio.run(world.cheat, clock=trio.testing.MockClock(autojump_threshold=0))
