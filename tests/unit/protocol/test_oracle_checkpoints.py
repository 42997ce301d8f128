"""Level settled, as an oracle tells it: once a header is accepted, to whoever watches what it settles."""

import pytest

from protocol.core.machine import Send
from protocol.messages.chain import Accepted
from protocol.messages.committee import Certified, header_digest
from protocol.messages.results import SettledNews, Verdict, Watch
from tests.unit.protocol.committee_at_hand import keyed  # noqa: F401
from tests.unit.protocol.machines import of
from tests.unit.protocol.results_at_hand import MALLORY, ROUTER
from tests.unit.protocol.results_scene import ONE, Scene


def accepted(scene: Scene) -> tuple[Accepted, Certified]:
    """The last final header of the first oracle, as if the contract had taken it."""
    simplex = scene.room.hosts[0].machine.simplex
    final = simplex.tree.final
    assert final is not None
    certified = simplex.certified(final)
    assert certified.header is not None
    header = certified.header
    return Accepted(header.epoch, header.height, header_digest(scene.room.genesis.domain(), header)), certified


@pytest.mark.spec("LEVEL-SETTLED.2")
def test_an_oracle_tells_watchers_what_a_header_settled_and_later_ones_too() -> None:
    scene = Scene()
    watcher = scene.room.puppet(ROUTER).say(Watch(ONE.session))
    scene.miner().say(ONE.commits())
    assert scene.decided() == [Verdict.OK]
    host = scene.room.hosts[0]
    chain = host.machine.results.chain
    assert (chain.tell(), chain.count) == ([], 0)
    seen, certified = accepted(scene)
    scene.room.run(200)
    chain.accepted(seen)
    told = of(chain.tell(), Send)
    assert chain.count == certified.header.results_count == 1  # type: ignore[union-attr]
    assert [type(effect.message) for effect in told] == [SettledNews] * 2, "to each watcher"
    news = told[0].message
    assert isinstance(news, SettledNews)
    assert news.certified.header is not None
    assert header_digest(scene.room.genesis.domain(), news.certified.header) == seen.digest
    assert chain.tell() == [], "each outcome once"
    late = scene.room.puppet(MALLORY).say(Watch(ONE.session))
    scene.room.run(50)
    assert len(late.of(SettledNews)) == 1
    assert not watcher.of(SettledNews), "in this test its effects are not carried out"


@pytest.mark.spec("LEVEL-SETTLED.2")
def test_a_header_that_is_not_on_this_disk_or_not_directly_final_is_waited_for() -> None:
    scene = Scene()
    scene.room.puppet(ROUTER).say(Watch(ONE.session))
    scene.miner().say(ONE.commits())
    scene.decided()
    host = scene.room.hosts[0]
    chain = host.machine.results.chain
    seen, _ = accepted(scene)
    scene.room.run(200)
    load, chain._load = chain._load, lambda _: {}
    chain.accepted(Accepted(seen.epoch, seen.height - 1, b"\x09" * 32))
    chain.accepted(seen)
    assert (chain.tell(), chain.count) == ([], 0)
    chain._load = load
    assert len(of(chain.tell(), Send)) == 2
    assert chain.count == 1
    chain.accepted(Accepted(seen.epoch, seen.height - 1, b"\x09" * 32))
    assert (chain.tell(), chain.count) == ([], 1), "read again, it is nothing new"
