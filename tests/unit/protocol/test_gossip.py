"""Gossip: what is accepted is signed by who published it; everything else ends in a decision, never a crash."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message, encode
from protocol.core.ids import NetworkId, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.gossip import TOPICS, Decision, check
from protocol.messages.adverts import Advert
from protocol.messages.envelope import Envelope, seal
from protocol.messages.evidence import CommitteeNews
from protocol.messages.results import Commit, Commits, SignedCommit
from protocol.messages.sessions import Announcement
from protocol.messages.tasks import CancelTask
from tests.unit.protocol.keys import key
from tests.unit.protocol.strategies import build, every_message

DOMAIN = Domain(NetworkId(bytes(32)))
PARAMS = Params()
ALICE, BOB = key(1), key(2)
ADVERT = Advert(ALICE.node, 1, ("router",), (), (), "")
ANNOUNCEMENT = Announcement(bytes(32), ALICE.node, (), bytes(32), 1, 0, 0, 0, 1)
COMMIT = SignedCommit(Commit(bytes(32), 1, 0, bytes(24), ALICE.node, bytes(32)), bytes(65))
GOOD: dict[str, Message] = {
    "nodes": ADVERT,
    "sessions": ANNOUNCEMENT,
    "committee": CommitteeNews(ALICE.node, 1),
    "results": Commits(ALICE.node, 1, (COMMIT,)),
}

topics = st.sampled_from(sorted(TOPICS))


def test_every_topic_with_a_rule_has_a_budget() -> None:
    assert set(TOPICS) <= set(PARAMS.gossip_budget())
    assert set(TOPICS) == set(GOOD)


@pytest.mark.spec("GOSSIP-TOTAL.1")
@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_a_good_message_is_accepted(topic: str) -> None:
    envelope = seal(DOMAIN, ALICE.sign, GOOD[topic])
    checked = check(DOMAIN, PARAMS, topic, ALICE.node, encode(envelope))
    assert checked.decision is Decision.ACCEPT
    assert checked.message == GOOD[topic]
    assert checked.envelope == envelope


@pytest.mark.spec("GOSSIP-TOTAL.1")
def test_a_topic_that_is_not_known_is_ignored() -> None:
    assert check(DOMAIN, PARAMS, "weather", ALICE.node, b"").decision is Decision.IGNORE


@pytest.mark.spec("GOSSIP-TOTAL.1")
@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("not MessagePack|not an array", b""),
        ("outside an envelope", encode(ADVERT)),
        ("Announcement in topic nodes", encode(seal(DOMAIN, ALICE.sign, ANNOUNCEMENT))),
        ("CancelTask in topic nodes", encode(seal(DOMAIN, ALICE.sign, CancelTask(bytes(32), 1)))),
        ("Envelope in topic nodes", encode(seal(DOMAIN, ALICE.sign, seal(DOMAIN, ALICE.sign, ADVERT)))),
        ("canonical", encode(Envelope(encode(ADVERT).replace(b"\x01\x91", b"\xcc\x01\x91"), bytes(65)))),
        ("written by", encode(seal(DOMAIN, BOB.sign, Advert(BOB.node, 1, ("router",), (), (), "")))),
        ("is signed by", encode(seal(DOMAIN, BOB.sign, ADVERT))),
        ("is signed by", encode(seal(Domain(NetworkId(b"\1" * 32)), ALICE.sign, ADVERT))),
        ("lower half|recovers to no key", encode(Envelope(encode(ADVERT), b"\xff" * 64 + b"\x1b"))),
        ("27 or 28", encode(Envelope(encode(ADVERT), bytes(65)))),
    ],
)
def test_what_its_author_cannot_have_meant_is_rejected(why: str, data: bytes) -> None:
    checked = check(DOMAIN, PARAMS, "nodes", ALICE.node, data)
    assert checked.decision is Decision.REJECT
    assert checked.message is checked.envelope is None
    assert any(part in checked.reason for part in why.split("|")), checked.reason


@pytest.mark.spec("GOSSIP-TOTAL.1")
def test_size_is_looked_at_first() -> None:
    data = encode(seal(DOMAIN, ALICE.sign, ADVERT))
    small = replace(PARAMS, gossip_message_bytes_max=len(data) - 1)
    assert "limit" in check(DOMAIN, small, "nodes", ALICE.node, data).reason
    exact = replace(PARAMS, gossip_message_bytes_max=len(data))
    assert check(DOMAIN, exact, "nodes", ALICE.node, data).decision is Decision.ACCEPT


@pytest.mark.spec("GOSSIP-TOTAL.1")
@given(topics, st.binary(max_size=300), st.binary(max_size=40))
def test_any_bytes_end_in_a_decision(topic: str, data: bytes, origin: bytes) -> None:
    assert check(DOMAIN, PARAMS, topic, NodeId(origin), data).decision is Decision.REJECT


@pytest.mark.spec("GOSSIP-TOTAL.1")
@given(topics, st.one_of([build(cls) for cls in every_message()]), st.binary(min_size=65, max_size=65))
def test_any_message_under_any_signature_ends_in_a_decision(topic: str, inner: Message, signature: bytes) -> None:
    data = encode(Envelope(encode(inner), signature))
    assert check(DOMAIN, PARAMS, topic, ALICE.node, data).decision is Decision.REJECT


@pytest.mark.spec("GOSSIP-TOTAL.1")
@given(topics, st.data())
def test_a_damaged_message_is_never_accepted(topic: str, data: st.DataObject) -> None:
    good = encode(seal(DOMAIN, ALICE.sign, GOOD[topic]))
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    damaged = good[:place] + bytes([byte]) + good[place + 1 :]
    assert check(DOMAIN, PARAMS, topic, ALICE.node, damaged).decision is Decision.REJECT
