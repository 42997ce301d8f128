"""An oracle's transactions: once each, the newest header only, and none lost to an outage."""

from dataclasses import dataclass, field

import pytest
import trio

from chain.api import AcceptedHeader, Chain, DrawDue, TxId, TxState, TxStatus
from chain.errors import ChainUnreachable, Reverted
from p2pnode.chain_sender import EVIDENCE_MAX, ChainSender
from protocol.core.ids import Digest, NodeId
from protocol.messages.committee import Certified
from protocol.messages.evidence import ConflictingStatements
from protocol.settlement.duty import RecordDraw, ReportEvidence, SubmitHeader
from tests.unit.protocol.light_at_hand import certify, header_of

ME = NodeId(b"\x07" * 20)
MEMBERS = (ME,)
DIGEST = Digest(bytes(32))


@dataclass
class Scripted:
    """A chain that does what a test says."""

    down: bool = False
    refuses: str = ""
    last: AcceptedHeader | None = None
    due: DrawDue | None = None
    state: TxState = TxState.PENDING
    sent: list[object] = field(default_factory=list)

    def _asked(self) -> None:
        if self.down:
            raise ChainUnreachable("no endpoint answers")

    def latest_checkpoint(self) -> AcceptedHeader | None:
        self._asked()
        return self.last

    def undrawn(self) -> DrawDue | None:
        self._asked()
        return self.due

    def submit_checkpoint(self, certified: Certified, members: tuple[NodeId, ...]) -> TxId:
        return self._send((certified.certificate.epoch, certified.certificate.height, members))

    def draw(self, due: DrawDue) -> TxId:
        return self._send(due)

    def slash(self, evidence: object, reporter: NodeId) -> TxId:
        return self._send((evidence, reporter))

    def _send(self, what: object) -> TxId:
        self._asked()
        if self.refuses:
            raise Reverted("it", self.refuses)
        self.sent.append(what)
        return TxId(bytes(32))

    def maintain(self) -> int:
        self._asked()
        return len(self.sent)

    def status(self, tx: TxId) -> TxStatus:
        return TxStatus(self.state, Digest(tx), 12, 90_000, "late" if self.state is TxState.FAILED else "")


def sender_of(chain: Scripted, kept: list[Digest] | None = None) -> ChainSender:
    async def keep(digest: Digest) -> None:
        if kept is not None:
            kept.append(digest)
        await trio.lowlevel.checkpoint()

    return ChainSender(as_chain(chain), ME, keep)


def as_chain(chain: Scripted) -> Chain:
    return chain  # type: ignore[return-value]


def wants(sender: ChainSender, *effects: object) -> None:
    for effect in effects:
        sender.performers()[type(effect)](effect)


def header(height: int, epoch: int = 1) -> SubmitHeader:
    return SubmitHeader(certify(header_of(height, epoch)), MEMBERS)


def evidence(number: int) -> ReportEvidence:
    nobody: ConflictingStatements = number  # type: ignore[assignment]
    return ReportEvidence(NodeId(number.to_bytes(20, "big")), nobody)


async def test_of_headers_the_newest_is_sent_once_and_kept_before() -> None:
    chain, kept = Scripted(), list[Digest]()
    sender = sender_of(chain, kept)
    wants(sender, header(40), header(41))
    assert sender.wake.is_set()
    await sender.work()
    assert sender.under_way == 0
    await sender.work()
    assert chain.sent == [(1, 41, MEMBERS)]
    assert kept == [header(41).certified.certificate.header]
    assert (sender.last, sender.under_way) == ("checkpoint 1/41 sent", 1)
    chain.state = TxState.MINED
    await sender.work()
    assert sender.last == "checkpoint 1/41 in block 12"


async def test_what_the_contract_has_already_is_not_sent() -> None:
    chain = Scripted(last=AcceptedHeader(DIGEST, 1, 41, 0, 1), due=DrawDue(4, ()))
    sender = sender_of(chain)
    wants(sender, header(41), RecordDraw(3))
    await sender.work()
    assert (chain.sent, sender.last) == ([], "")


async def test_an_outage_keeps_everything_and_then_the_newest_header_goes_first() -> None:
    chain = Scripted(down=True, due=DrawDue(3, (ME,)))
    sender = sender_of(chain)
    wants(sender, header(40), RecordDraw(3), evidence(1))
    for height in (50, 60):
        with pytest.raises(ChainUnreachable):
            await sender.work()
        wants(sender, header(height))
    chain.down = False
    await sender.work()
    assert chain.sent == [(1, 60, MEMBERS), DrawDue(3, (ME,)), (1, ME)]


async def test_what_is_refused_or_fails_is_told_and_dropped() -> None:
    chain = Scripted(refuses="order")
    sender = sender_of(chain)
    wants(sender, header(40))
    await sender.work()
    assert sender.last == "not sent: it: the contract refuses: order"
    chain.refuses = ""
    await sender.work()
    assert chain.sent == []
    wants(sender, header(41))
    chain.state = TxState.FAILED
    await sender.work()
    assert sender.last == "checkpoint 1/41 failed: late"


async def test_evidence_waits_once_a_node_and_bounded() -> None:
    chain = Scripted(down=True)
    sender = sender_of(chain)
    wants(sender, *(evidence(number) for number in range(2 * EVIDENCE_MAX)), evidence(0))
    chain.down = False
    await sender.work()
    assert len(chain.sent) == EVIDENCE_MAX
