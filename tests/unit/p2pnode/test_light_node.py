"""What light clients are told by a node's roles: here of an oracle that has decided something."""

import pytest

from p2pnode.light_node import known_to, known_to_oracle
from protocol.committee.storage import FIRST_EPOCH
from protocol.light.handovers import HandOverBook
from protocol.light.headers import HeaderTrust
from protocol.light.news import check_outcome
from protocol.messages.chain import Accepted
from protocol.messages.committee import header_digest
from protocol.messages.results import OutcomeNews, SettledNews, Verdict, Watch
from tests.unit.protocol.committee_at_hand import keyed  # noqa: F401
from tests.unit.protocol.results_at_hand import ROUTER
from tests.unit.protocol.results_scene import ONE, Scene


@pytest.mark.spec("OUTCOME-ASKED.1", "LIGHT-SERVED.1")
def test_an_oracle_tells_every_outcome_and_by_what_it_is_settled() -> None:
    scene = Scene()
    genesis, machine = scene.room.genesis, scene.room.hosts[0].machine
    known = known_to(genesis, HandOverBook(genesis))
    assert known.head() is None
    known_to_oracle(known, machine)
    session, task = ONE.session, ONE.order.task
    assert known.outcomes(session, task) is None
    scene.room.puppet(ROUTER).say(Watch(session))
    scene.miner().say(ONE.commits())
    assert scene.decided() == [Verdict.OK]
    scene.room.run(200)
    told = known.outcomes(session, task)
    assert told is not None
    (news,) = told
    assert isinstance(news, OutcomeNews)
    trust = HeaderTrust(genesis)
    header = check_outcome(trust, news)
    head = known.head()
    assert head is not None and trust.check(head) == header, "by the newest header"
    assert known.outcomes(session, task + 1) is None
    chain = machine.results.chain
    chain.accepted(Accepted(header.epoch, header.height, header_digest(genesis.domain(), header)))
    chain.tell()
    told = known.outcomes(session, task)
    assert told is not None
    assert [type(each) for each in told] == [OutcomeNews, SettledNews]
    check_outcome(trust, told[1])
    assert known.hand_overs.page(FIRST_EPOCH).hand_overs, "and how its committee hands over"
