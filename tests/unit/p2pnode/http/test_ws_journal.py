"""What is kept of requests on WebSockets: how much, how long, and what has to go first."""

import json

import pytest
import trio
import trio.testing

from p2pnode.http.errors import ApiError
from p2pnode.http.ws_journal import Journal, Journals, KeepTerms

Autojump = trio.testing.MockClock


class ReaderAtHand:
    """A socket that counts what it is told."""

    def __init__(self) -> None:
        self.woken = 0
        self.lost: list[Journal] = []

    def wake(self) -> None:
        self.woken += 1

    def taken_over(self, journal: Journal) -> None:
        self.lost.append(journal)


def of(journals: Journals) -> list[str]:
    """What is kept, the oldest first."""
    return [journal.request_id for journal in journals]


async def test_messages_are_numbered_and_wake_their_reader() -> None:
    journal, reader = Journals(KeepTerms()).open("alice", "a"), ReaderAtHand()
    journal.add("accepted")
    journal.attach(reader)
    journal.add("token", text="ö")
    journal.end("done")
    journal.close()
    told = [json.loads(journal[number]) for number in range(journal.first, journal.next)]
    assert [each["seq"] for each in told] == [0, 1, 2]
    assert told[1] == {"type": "token", "request_id": "a", "seq": 1, "text": "ö"}
    assert reader.woken == 3
    with pytest.raises(AssertionError):
        journal.end("error")


async def test_another_reader_takes_it_over_and_the_first_can_not_let_it_go() -> None:
    journal, first, second = Journals(KeepTerms()).open("alice", "a"), ReaderAtHand(), ReaderAtHand()
    journal.attach(first)
    journal.attach(second)
    assert (first.lost, second.lost) == ([journal], [])
    journal.detach(first)
    assert journal.read
    journal.detach(second)
    assert not journal.read


async def test_ids_are_an_owners_own_and_are_free_again_once_answered() -> None:
    journals = Journals(KeepTerms())
    first = journals.open("alice", "a")
    assert journals.open("bob", "a") is not first
    with pytest.raises(ApiError, match="runs already"):
        journals.open("alice", "a")
    first.end("done")
    assert journals.open("alice", "a") is not first
    assert first.closed
    assert len(journals) == 2
    with pytest.raises(ApiError) as unknown:
        journals.find("carol", "a")
    assert (unknown.value.status, unknown.value.code) == (404, "unknown_request")


async def test_what_is_over_makes_room_before_what_nobody_reads_and_nothing_else_does() -> None:
    journals = Journals(KeepTerms(of_owner=3))
    read, unread, over = (journals.open("alice", name) for name in ("read", "unread", "over"))
    read.attach(ReaderAtHand())
    over.end("done")
    journals.open("alice", "4").attach(ReaderAtHand())
    assert of(journals) == ["read", "unread", "4"]
    journals.open("alice", "5").attach(ReaderAtHand())
    assert of(journals) == ["read", "4", "5"]
    assert unread.life.cancel_called, "what it stood for is cancelled"
    with pytest.raises(ApiError) as refused:
        journals.open("alice", "6")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    journals.open("bob", "1")


async def test_all_owners_together_are_bounded() -> None:
    journals = Journals(KeepTerms(journals=4))
    for number in range(10):
        journals.open(f"owner {number}", "a")
    assert [journal.owner for journal in journals] == [f"owner {number}" for number in range(6, 10)]


async def test_bytes_are_bounded_for_each_and_for_all() -> None:
    journals = Journals(KeepTerms(bytes_each=1_000, bytes_all=2_500))
    first, second, third = (journals.open("alice", name) for name in "abc")
    third.attach(ReaderAtHand())
    for journal in (first, second, third):
        for number in range(50):
            journal.add("token", text=f"{number:030}ö")
            assert journal.size <= 1_000
            assert journals.size == sum(each.size for each in journals) <= 2_500
        assert json.loads(journal[journal.next - 1])["seq"] == 49
        assert journal.first > 0
    assert of(journals) == ["b", "c"]
    # The last that is left forgets its own beginning.
    second.attach(ReaderAtHand())
    alone = Journals(KeepTerms(bytes_all=500))
    only = alone.open("alice", "a")
    for number in range(50):
        only.add("token", text=f"{number:030}")
    assert 0 < alone.size == only.size <= 500
    alone.forget(only)
    assert (alone.size, len(alone)) == (0, 0)
    only.add("token", text="late")
    assert alone.size == 0


async def test_a_journal_is_kept_for_its_time_after_its_end(autojump_clock: Autojump) -> None:
    journals, reader = Journals(KeepTerms(kept_s=60)), ReaderAtHand()
    journal = journals.open("alice", "a")
    journal.attach(reader)
    gone: list[float] = []

    async def work() -> None:
        await trio.sleep(1_000)
        journal.end("done")

    async def live() -> None:
        await journals.live(journal, work)
        gone.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await trio.sleep(1_059)
        assert len(journals) == 1, "a socket reads it, so it went on; and then it was kept"
    assert len(journals) == 0
    assert gone[0] - began == pytest.approx(1_060)


async def test_a_reader_that_comes_back_in_time_keeps_it_alive(autojump_clock: Autojump) -> None:
    journals = Journals(KeepTerms(kept_s=60))
    journal, reader = journals.open("alice", "a"), ReaderAtHand()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journals.live, journal, trio.sleep_forever)
        await trio.sleep(50)
        journal.attach(reader)
        await trio.sleep(500)
        journal.detach(reader)
        await trio.sleep(50)
        assert of(journals) == ["a"]
    assert of(journals) == []


async def test_a_fault_of_ours_ends_one_request_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    journals = Journals(KeepTerms())
    journal = journals.open("alice", "a")

    async def broken() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    await journals.live(journal, broken)
    assert len(journals) == 0
    assert journal.closed
    assert "ended by a bug" in caplog.text
