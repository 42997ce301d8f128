"""A receipt is raised by what nodes tell, over a wire and a served machine; and files of receipts."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from p2pnode.cli import entry
from p2pnode.cli.chat_receipt import check_receipt_option
from p2pnode.config import ConfigError
from p2pnode.driver import open_driver
from p2pnode.light_asker import ANSWER_MS, LightAsker, NotTold, asking
from p2pnode.receipt_reading import ReceiptUnreadable
from p2pnode.receipts import ReceiptFileError, ReceiptTooLong, load_receipt, save_receipt
from p2pnode.refreshing import Refreshing
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.seam import Stream
from protocol.core.codec import encode, pack
from protocol.core.errors import P2PNodeError
from protocol.light.handovers import HandOverBook
from protocol.light.levels import Level
from protocol.light.receipt.redact import redact
from protocol.light.serving import Known, LightServer
from protocol.messages.greeting import ClientHello
from protocol.messages.receipts import LightRefused, Receipt
from protocol.messages.results import OutcomeNews, SettledNews
from tests.receipts_made import CLIENT, NOW_MS, ORACLES, Maker
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.test_light_shelf import MAKER, bare, book_of, news_of, shelf_of

STRANGER = key(77)


@asynccontextmanager
async def node(known: Known, who: Key = STRANGER) -> AsyncIterator[LightAsker]:
    """A stream to a node that has something to tell."""
    network = MemoryNetwork()
    async with (
        network.open(ORACLES[0].node) as served,
        network.open(who.node) as transport,
        open_driver(LightServer(known), served, lambda: NOW_MS),
        asking(transport, await transport.connect(served.addresses[0])) as asker,
    ):
        yield asker


@asynccontextmanager
async def saying(*frames: bytes) -> AsyncIterator[LightAsker]:
    """A stream to a node that says this, whatever it is asked, and then nothing."""
    network = MemoryNetwork()

    async def serve(stream: Stream) -> None:
        await stream.receive()
        for frame in frames:
            await stream.send(frame)
        await trio.sleep_forever()

    async with network.open(ORACLES[0].node) as served, network.open(STRANGER.node) as transport:
        served.handle("light", serve)
        async with asking(transport, await transport.connect(served.addresses[0])) as asker:
            yield asker


def known(*news: Any, kept: bool = True, **more: Any) -> Known:
    """What a router knows of the made answer after so much news."""
    shelf = shelf_of()
    if kept:
        shelf.keep(bare(), NOW_MS)
    for each in news:
        shelf.news(each)
    return Known(book_of().store, shelf, **more)


def refreshing(receipt: Receipt) -> Refreshing:
    told: list[str] = []
    return Refreshing(receipt, HandOverBook(MAKER.genesis), told.append)


async def test_a_router_raises_a_receipt_and_the_owner_keeps_the_text(autojump_clock: trio.abc.Clock) -> None:
    mine = refreshing(bare())
    assert mine.level == Level.STREAMED
    async with node(known(*news_of()[:4])) as asker:
        with pytest.raises(NotTold, match="not final"):
            await mine.take_from(asker)
    assert mine.level == Level.CERTIFIED
    async with node(known(*news_of(), head=lambda: MAKER.final().certified)) as asker:
        await mine.take_from(asker)
    assert (mine.level, mine.answered) == (Level.FINALIZED, 3)
    assert mine.receipt.tokens == bare().tokens
    assert mine.receipt.hand_overs == MAKER.receipt().hand_overs


async def test_an_oracle_that_keeps_no_receipts_raises_it_as_far(autojump_clock: trio.abc.Clock) -> None:
    final = MAKER.final()
    told = [OutcomeNews(final.outcome, final.proof, final.certified)]
    mine = refreshing(bare())
    async with node(known(kept=False, outcomes=lambda _session, _task: told)) as asker:
        await mine.take_from(asker)
    assert (mine.level, mine.answered) == (Level.FINALIZED, 1)
    assert mine.receipt.commit is None


async def test_what_a_liar_tells_changes_nothing(autojump_clock: trio.abc.Clock) -> None:
    final = MAKER.final()
    forged = MAKER.certify(MAKER.header(3), oracles=ORACLES[40:44])
    other = Maker(tokens=11, home=2, final_epoch=3, shift=1).final()
    for lie in (
        OutcomeNews(final.outcome, final.proof, forged),
        OutcomeNews(other.outcome, other.proof, other.certified),
    ):
        mine = refreshing(bare())
        async with node(known(kept=False, outcomes=lambda _session, _task, lie=lie: [lie])) as asker:
            await mine.take_from(asker)
        assert mine.receipt == bare()
        assert mine.level == Level.STREAMED


async def test_settlements_come_along_with_outcomes(autojump_clock: trio.abc.Clock) -> None:
    maker = Maker(level=Level.SETTLED, settling=True)
    final, settled = maker.final(), maker.settled()
    later = SettledNews(final.outcome, settled.proof, settled.certified)
    told = [OutcomeNews(final.outcome, final.proof, final.certified), later]
    for head in (None, final.certified):
        async with node(known(outcomes=lambda _session, _task: told, head=lambda head=head: head)) as asker:
            found = await asker.outcome(maker.session, 1)
        assert (found.settled, found.head) == (later, head)


async def test_the_client_is_shown_all_of_it(autojump_clock: trio.abc.Clock) -> None:
    async with node(known(), CLIENT) as asker:
        assert await asker.receipt(MAKER.session, 1) == bare()
        assert await asker.hand_overs(1, 2) == [MAKER.hand_over(1), MAKER.hand_over(2)]
        assert await asker.hand_overs(9, 12) == []
    async with node(known()) as asker:
        assert await asker.receipt(MAKER.session, 1) == redact(bare())


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "does not answer"),
        (b"\x00nonsense", "does not answer"),
        (encode(ClientHello()), "answers with ClientHello"),
        (encode(LightRefused("busy", "wait\x1b[2J")), "wait\N{REPLACEMENT CHARACTER}"),
    ],
    ids=["empty", "nonsense", "out of place", "control characters"],
)
async def test_who_answers_anything_else_is_told_of(autojump_clock: trio.abc.Clock, frame: bytes, why: str) -> None:
    async with saying(frame) as asker:
        with pytest.raises(NotTold, match=why) as refused:
            await asker.receipt(MAKER.session, 1)
        assert refused.value.hint
    async with saying(frame) as asker:
        with pytest.raises(NotTold):
            await asker.outcome(MAKER.session, 1)


async def test_who_says_nothing_is_left_in_time(autojump_clock: trio.abc.Clock) -> None:
    async with saying() as asker:
        before = trio.current_time()
        with pytest.raises(NotTold, match="in time"):
            await asker.head()
        assert trio.current_time() - before <= ANSWER_MS / 1_000 + 1


# Files


def test_a_file_is_replaced_at_once_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.receipt"
    for receipt in (bare(), MAKER.receipt()):
        save_receipt(path, receipt)
        assert load_receipt(path) == receipt
    assert path.read_bytes() == pack(MAKER.receipt())
    assert os.listdir(tmp_path) == ["a.receipt"]
    long = replace(MAKER.receipt(), genesis="x" * 65_536)
    tokens = long.tokens
    assert tokens is not None
    with pytest.raises(ReceiptTooLong):
        save_receipt(path, replace(long, tokens=replace(tokens, texts=tokens.texts + (bytes(1_024),) * 1_024)))
    assert load_receipt(path) == MAKER.receipt()


def test_what_cannot_be_read_or_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(ReceiptUnreadable, match="No such file"):
        load_receipt(tmp_path / "nothing")
    (tmp_path / "other").write_bytes(b"nothing of ours")
    with pytest.raises(ReceiptFileError, match="is no receipt"):
        load_receipt(tmp_path / "other")
    with pytest.raises(ReceiptFileError, match="cannot be written") as error:
        save_receipt(tmp_path / "no" / "folder", MAKER.receipt())
    assert isinstance(error.value, P2PNodeError) and error.value.hint


def test_show_and_redact_as_a_person_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    whole, other = tmp_path / "whole", tmp_path / "redacted"
    save_receipt(whole, Maker(failover=True, question="Where\x1b[31m?").receipt())
    assert entry.main(["receipt", "show", str(whole)]) == 0
    said = capsys.readouterr().out
    assert "finalized, as far as it claims" in said
    assert said.count("from token") == 2
    assert "In the woods" in said
    assert "\x1b" not in said, "nothing in a receipt is obeyed by a terminal"
    assert entry.main(["receipt", "redact", str(whole), "-o", str(other)]) == 0
    assert load_receipt(other) == redact(load_receipt(whole))
    capsys.readouterr()
    assert entry.main(["receipt", "show", str(other)]) == 0
    assert "neither prompt nor text" in capsys.readouterr().out
    assert entry.main(["receipt", "refresh", str(whole)]) == 1
    assert "--router" in capsys.readouterr().err
    assert entry.main(["receipt", "fetch", "zz", "--router", "x", "-o", str(other)]) == 1
    assert "64 hexadecimal digits" in capsys.readouterr().err


def test_a_receipt_that_could_not_be_written_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    check_receipt_option(None)
    check_receipt_option(tmp_path / "new")
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(ConfigError, match="cannot be written"):
            check_receipt_option(path)
