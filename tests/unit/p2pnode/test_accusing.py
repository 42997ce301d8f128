"""Evidence handed to a running node: what convicts is gossiped, what does not goes nowhere, and why is said."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2pnode.accusing import EVIDENCE, Accusing
from p2pnode.control import QUESTION_BYTES_MAX
from p2pnode.identity import NodeKey
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.seam import Verdict
from protocol import gossip
from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.signing import keccak, typed_digest
from protocol.messages.committee import CONTENT_BYTES_MAX, Batch, SignedBatch, Statement, StatementKind
from protocol.messages.committee import statement_digest as digest_of
from protocol.messages.evidence import CommitteeNews, ConflictingStatements, ConflictingValues
from protocol.messages.results import Content, Observation
from protocol.messages.results import Verdict as Value
from protocol.results.convictions import pack_piece
from protocol.results.evidence import Evidence

ORACLES = tuple(NodeKey(bytes([number]) * 32) for number in range(1, 5))
ROUTER, LISTENER = NodeKey(b"\x21" * 32), NodeKey(b"\x22" * 32)
GENESIS = Genesis("accusing", committee=tuple(oracle.node_id for oracle in ORACLES))
DOMAIN = GENESIS.domain()
NOW_MS = 5


def vote(header: bytes, genesis: Genesis = GENESIS) -> Statement:
    """The first oracle's, in slot 3/9."""
    digest = digest_of(genesis.domain(), StatementKind.VOTE, 3, 9, header)
    return Statement(StatementKind.VOTE, 3, 9, header, ORACLES[0].sign(digest))


def two_votes(genesis: Genesis = GENESIS) -> Evidence:
    """What convicts the first oracle."""
    return ConflictingStatements(vote(b"\1" * 32, genesis), vote(b"\2" * 32, genesis))


def two_values() -> Evidence:
    """The same, in batches as large as can be."""

    def said(value: Value, number: int) -> SignedBatch:
        content = pack(Content(observations=(Observation(b"\1" * 32, 1, 0, value, bytes(32), 0),)))
        content += bytes(CONTENT_BYTES_MAX - len(content))
        batch = Batch(1, ORACLES[0].node_id, number, bytes(32), keccak(content))
        return SignedBatch(batch, ORACLES[0].sign(typed_digest(DOMAIN, batch)), content)

    return ConflictingValues(b"\1" * 32, 1, 0, said(Value.LATE, 1), said(Value.UNREVEALED, 2))


@asynccontextmanager
async def router(genesis: Genesis = GENESIS) -> AsyncIterator[tuple[Accusing, Any]]:
    """A router's, and what a listener beside it hears on the committee's topic."""
    network = MemoryNetwork()
    async with network.open(ROUTER) as mine, network.open(LISTENER) as theirs, trio.open_nursery() as nursery:
        await theirs.connect(mine.addresses[0])
        heard = await theirs.subscribe(genesis.topic("committee"), lambda *_: Verdict.ACCEPT)
        await trio.sleep(1)
        yield Accusing(genesis, ROUTER, mine, lambda: NOW_MS, nursery, None), heard


def asked(evidence: Evidence) -> str:
    """The question that hands it in."""
    question = f"{EVIDENCE}{pack_piece(evidence).hex()}"
    assert len(question) < QUESTION_BYTES_MAX
    return question


@pytest.mark.spec("EVIDENCE-HAND-IN.1")
async def test_a_router_gossips_what_convicts(autojump_clock: trio.abc.Clock) -> None:
    async with router() as (accusing, heard):
        answer = accusing.answer(asked(two_votes()))
        assert answer == {"convicted": f"0x{ORACLES[0].node_id.hex()}", "gossiped": True}
        item = await heard.receive()
        checked = gossip.check(DOMAIN, GENESIS.params, "committee", item.origin, item.data)
        news = checked.message
        assert isinstance(news, CommitteeNews)
        assert (news.author, news.issued_ms) == (ROUTER.node_id, NOW_MS)
        assert news.conflicting_statements == (two_votes(),)


@pytest.mark.spec("EVIDENCE-HAND-IN.1")
@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        (EVIDENCE, "control/malformed", "this is no evidence"),
        (f"{EVIDENCE}xyz", "control/malformed", "this is no evidence"),
        (f"{EVIDENCE}00ff", "control/malformed", "this is no evidence"),
        (asked(ConflictingStatements(vote(b"\1" * 32), vote(b"\1" * 32))), "remote/evidence", "conflict"),
        (asked(two_votes(Genesis("another"))), "remote/evidence", "signature"),
        (asked(two_values()), "control/too-large", "too large for gossip"),
    ],
)
async def test_what_is_refused_goes_nowhere(
    autojump_clock: trio.abc.Clock, question: str, code: str, said: str
) -> None:
    async with router() as (accusing, heard):
        with pytest.raises(P2PNodeError, match=said) as refused:
            accusing.answer(question)
        assert refused.value.code == code
        await trio.sleep(1)
        with pytest.raises(trio.WouldBlock):
            heard.receive_nowait()


async def test_where_nobody_judges_it_is_said(autojump_clock: trio.abc.Clock) -> None:
    alone = Genesis("alone")
    async with router(alone) as (accusing, _):
        with pytest.raises(P2PNodeError, match="nobody judges") as refused:
            accusing.answer(asked(two_votes(alone)))
        assert refused.value.hint
