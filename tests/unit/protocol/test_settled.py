"""Level settled, as a client shows it: an oracle's claim, and its own look at the chain."""

import msgspec
import pytest

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest
from protocol.light.levels import CLAIMS_MAX, Checkpoint, LaneLevels, Level
from protocol.messages.committee import CertificateKind, header_digest
from protocol.messages.results import Observation, SettledNews
from protocol.roles.client import CheckpointClaimed, HeaderAccepted
from protocol.roles.router.watched import Watched
from tests.unit.protocol.light_at_hand import EPOCH, certify, outcome_news, outcome_of
from tests.unit.protocol.machines import DOMAIN, MALLORY, ORACLES, of
from tests.unit.protocol.test_light_levels import LATE, OTHER, OWN, lane
from tests.unit.protocol.test_machine_client_levels import TASK, Asking


def settled_news(value: Observation, height: int = 41, **certified: object) -> SettledNews:
    """An outcome by a header that the contract may have accepted."""
    news = outcome_news(outcome_of(value), **certified)  # type: ignore[arg-type]
    assert news.certified.header is not None
    header = msgspec.structs.replace(news.certified.header, height=height)
    return SettledNews(news.outcome, news.proof, news.certified if height == 41 else certify(header))


def digest_of(news: SettledNews) -> Digest:
    """Of the header that it comes with."""
    assert news.certified.header is not None
    return header_digest(DOMAIN, news.certified.header)


@pytest.mark.spec("LEVEL-SETTLED.1", "LEVEL-RISES.1")
def test_what_an_oracle_claims_is_final_and_settled_once_the_client_saw_it_on_the_chain() -> None:
    levels, news = lane(), settled_news(OWN, height=64)
    digest = digest_of(news)
    assert not levels.accepted(digest), "nobody has shown that it holds the outcome"
    assert levels.outcome(news), "its header is final"
    assert (levels.level, levels.settled) == (Level.FINALIZED, None)
    assert not levels.accepted(Digest(bytes(32)))
    assert levels.accepted(digest)
    assert levels.level is Level.SETTLED
    assert levels.settled == Checkpoint(EPOCH, 64, digest)
    assert list(levels.proved) == [Level.FINALIZED, Level.SETTLED]
    assert not levels.accepted(digest)
    assert levels.against == ""


@pytest.mark.spec("LEVEL-SETTLED.1")
@pytest.mark.parametrize(
    "news",
    [
        settled_news(OTHER),
        settled_news(LATE),
        settled_news(OWN, signers=(ORACLES[0], ORACLES[1], MALLORY)),
        settled_news(OWN, kind=CertificateKind.NOTARIZATION),
        settled_news(msgspec.structs.replace(OWN, task=5)),
    ],
)
def test_of_what_does_not_hold_or_is_another_result_nothing_is_settled(news: SettledNews) -> None:
    levels = lane()
    _tell(levels, news)
    assert not levels.claims
    assert not levels.accepted(digest_of(news))
    assert levels.level is Level.STREAMED


def _tell(levels: LaneLevels, news: SettledNews) -> None:
    try:
        levels.outcome(news)
    except RemoteProtocolError:
        return


def test_the_headers_that_are_looked_for_are_bounded() -> None:
    levels = lane()
    for height in range(42, 42 + 2 * CLAIMS_MAX):
        levels.outcome(settled_news(OWN, height))
    assert len(levels.claims) == CLAIMS_MAX


@pytest.mark.spec("LEVEL-SETTLED.1")
def test_a_client_asks_its_program_once_and_shows_settled_when_that_saw_it() -> None:
    client = Asking()
    value = client.answered()
    news = settled_news(value, height=64)
    client.says(news, news, settled_news(value, height=65))
    claims = [item.digest for item in of(client.items[TASK], CheckpointClaimed)]
    assert claims == [digest_of(news), digest_of(settled_news(value, height=65))]
    assert [item.level for item in client.levels()] == [Level.FINALIZED]
    client.wait(2_000)
    client.tell(HeaderAccepted(Digest(bytes(32))))
    client.tell(HeaderAccepted(claims[0]))
    client.tell(HeaderAccepted(claims[1]))
    last = client.levels()[-1]
    assert [item.level for item in client.levels()] == [Level.FINALIZED, Level.SETTLED]
    assert (last.settled, last.after_ms) == (Checkpoint(EPOCH, 64, claims[0]), 2_000)


def test_a_claim_before_the_end_waits_for_it() -> None:
    client = Asking()
    client.ask(TASK + 1)
    value = client.answered()
    assert client.says(settled_news(msgspec.structs.replace(value, task=value.task - 1))) == []
    assert not of(client.items.get(TASK, []), CheckpointClaimed)


@pytest.mark.spec("LEVEL-SETTLED.2")
def test_a_router_passes_on_one_header_of_each_oracle_for_a_lane_and_each_header_once() -> None:
    watched = Watched(None, 0)
    first, second, third = (settled_news(OWN, height) for height in (41, 64, 65))
    liar, honest, other = (oracle.node for oracle in ORACLES[:3])
    assert watched.is_new(first, liar)
    assert not watched.is_new(second, liar)
    assert watched.is_new(second, honest)
    assert not watched.is_new(second, other)
    assert not watched.is_new(third, other)
    assert watched.is_new(settled_news(msgspec.structs.replace(OWN, task=5)), liar), "of another lane it may speak"
    assert watched.is_new(outcome_news(outcome_of(OWN)), liar)
