"""The streams to the oracles: one each, opened again later and later, sooner when the oracle can be reached."""

from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelNumbers, Close, Open, Send, SendAll
from protocol.messages.results import Follow
from protocol.results.links import PROTOCOL, RETRY_MS_MAX, RETRY_MS_MIN, OracleLinks

ONE, OTHER, THIRD = (NodeId(bytes([number]) * 20) for number in (1, 2, 3))
SAID = Follow(pool=False)


def opened(links: OracleLinks, now_ms: int) -> dict[NodeId, Channel]:
    """The links that are due now, opened."""
    found = {}
    for oracle in links.due(now_ms):
        (effect,) = links.open(oracle)
        assert isinstance(effect, Open)
        assert (effect.peer, effect.protocol) == (oracle, PROTOCOL)
        found[oracle] = effect.channel
    return found


def standing() -> tuple[OracleLinks, dict[NodeId, Channel]]:
    """Links to two oracles."""
    links = OracleLinks(ChannelNumbers())
    assert links.aim((ONE, OTHER, ONE), 100) == []
    assert links.next_deadline() == 100
    return links, opened(links, 100)


def test_each_oracle_has_one_link_and_all_hear_one_message() -> None:
    links, channels = standing()
    assert set(channels) == {ONE, OTHER}
    assert (links.next_deadline(), opened(links, 10_000)) == (None, {})
    assert links.send(ONE, SAID, b"key") == [Send(channels[ONE], SAID, key=b"key")]
    assert links.send_all(SAID, b"key") == [SendAll((channels[ONE], channels[OTHER]), SAID, b"key")]
    assert [links.oracle(channel) for channel in channels.values()] == [ONE, OTHER]
    assert links.oracle(Channel(77)) is None
    assert not links.closed(Channel(77), 100)


def test_a_link_that_breaks_again_and_again_is_opened_later_and_later() -> None:
    links, channels = standing()
    channel, now_ms = channels[ONE], 100
    waited = []
    for _ in range(8):
        assert links.closed(channel, now_ms)
        assert links.send(ONE, SAID) == []
        assert links.send_all(SAID) == [SendAll((channels[OTHER],), SAID, b"")]
        at = links.next_deadline()
        assert at is not None
        assert opened(links, at - 1) == {}
        waited.append(at - now_ms)
        now_ms, channel = at, opened(links, at)[ONE]
    assert waited == [min(RETRY_MS_MIN << times, RETRY_MS_MAX) for times in range(8)]
    links.heard(ONE)
    links.closed(channel, now_ms)
    assert links.next_deadline() == now_ms + RETRY_MS_MIN


def test_who_can_be_reached_is_not_waited_for() -> None:
    links, channels = standing()
    for _ in range(4):
        links.closed(channels[ONE], 100)
        channels |= opened(links, links.next_deadline() or 0)
    links.closed(channels[ONE], 5_000)
    links.hurry(ONE, 5_001)
    links.hurry(OTHER, 5_001)
    links.hurry(THIRD, 5_001)
    assert set(opened(links, 5_001)) == {ONE}, "the other's stands, and the third is no oracle"


def test_who_breaks_a_rule_is_left_alone_for_a_while() -> None:
    links, channels = standing()
    assert links.break_off(ONE, 100) == [Close(channels[ONE])]
    assert links.break_off(ONE, 100) == []
    assert links.oracle(channels[ONE]) is None
    assert links.next_deadline() == 100 + RETRY_MS_MAX


def test_links_go_where_they_are_aimed() -> None:
    links, channels = standing()
    links.closed(channels[OTHER], 100)
    assert links.aim((THIRD,), 200) == [Close(channels[ONE])]
    assert set(opened(links, 100_000)) == {THIRD}
    assert links.oracles == (THIRD,)
    assert len(links.aim((), 300)) == 1
    assert (links.next_deadline(), links.send_all(SAID)) == (None, [])
