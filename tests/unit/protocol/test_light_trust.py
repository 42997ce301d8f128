"""Roots of trust, and how long anybody is believed: trust strings, trust periods, skipping, stolen keys."""

import re
from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.certificates import CommitteeError
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, NetworkId
from protocol.light.headers import POINTS_MAX, TrustExpired, UnknownEpoch, Untrusted
from protocol.light.trust import PREFIX, MalformedTrust, TrustPoint, parse_trust, show_trust
from protocol.messages.committee import CertificateKind
from tests.unit.protocol.trust_at_hand import DAY_S, FOUNDED_S, PERIOD_S, THIEF, Net, evm_block

NET = Net()
POINT = NET.point(40)

# Trust strings

numbers = st.integers(0, 2**63 - 1)
points = st.builds(
    TrustPoint,
    st.binary(min_size=32, max_size=32).map(NetworkId),
    numbers,
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32).map(Digest),
    numbers,
)


@pytest.mark.spec("TRUST-STRING.1")
@given(points, st.text(" \t\n", max_size=3), st.booleans())
def test_a_trust_string_is_read_as_it_was_shown(point: TrustPoint, blank: str, small: bool) -> None:
    shown = show_trust(point)
    assert re.fullmatch(r"[0-9A-Z:-]+", shown), "a QR code holds it as alphanumeric"
    assert len(shown) <= 170
    assert parse_trust(blank + (shown.lower() if small else shown) + blank) == point


@pytest.mark.spec("TRUST-STRING.1")
def test_a_character_that_is_lost_or_mistaken_shows() -> None:
    shown = show_trust(POINT)
    for place in range(len(shown)):
        for other in ("A", "7", "", "0", "é"):
            if shown[place] != other:
                with pytest.raises(MalformedTrust):
                    parse_trust(shown[:place] + other + shown[place + 1 :])


@pytest.mark.spec("TRUST-STRING.1")
@given(st.text(max_size=200) | st.text(max_size=200).map(PREFIX.__add__) | st.just(PREFIX + "A" * 600))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(MalformedTrust):
        parse_trust(text)


@pytest.mark.spec("TRUST-STRING.1")
@pytest.mark.parametrize("wrong", [{"epoch": 0}, {"epoch": 1 << 63}, {"time_s": 1 << 63}, {"chain_id": 1 << 63}])
def test_a_trust_string_of_no_epoch_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MalformedTrust):
        parse_trust(show_trust(replace(POINT, **wrong)))  # type: ignore[arg-type]


# Roots of trust


@pytest.mark.spec("TRUST-ROOTS.1", "TRUST-POINT.1")
def test_a_trust_point_is_believed_as_soon_as_its_members_are_known() -> None:
    trust = NET.trust(POINT, at_s=NET.begins_s(41))
    assert (trust.epoch, trust.wanted) == (1, 39)
    with pytest.raises(UnknownEpoch):
        trust.check(NET.final(40))
    assert trust.take(NET.hand_over(39, signers=THIEF)), "who signed it does not matter: its members have the root"
    assert (trust.epoch, trust.wanted) == (40, 40)
    assert trust.check(NET.final(40))
    assert trust.take(NET.hand_over(40))
    assert trust.handed_over_by(41) == 40
    assert trust.handed_over_by(40) == 0


@pytest.mark.spec("TRUST-ROOTS.1")
def test_its_members_may_come_by_themselves() -> None:
    trust = NET.trust(POINT)
    members = [member.node for member in NET.committee(40)]
    for wrong in (members[::-1], members[:3], [*members, members[0]], [member.node for member in THIEF]):
        with pytest.raises(CommitteeError, match="not the members"):
            trust.learn(40, wrong)
    with pytest.raises(Untrusted, match="nothing that is believed"):
        trust.learn(41, members)
    assert trust.learn(40, members)
    assert not trust.learn(40, members)
    with pytest.raises(CommitteeError, match="another committee"):
        trust.learn(40, members[::-1])
    assert trust.check(NET.final(40))
    with pytest.raises(CommitteeError, match="not the members"):
        NET.trust(POINT).take(NET.hand_over(39, following=THIEF))


@pytest.mark.spec("TRUST-ROOTS.1")
def test_a_trust_point_of_another_network_is_refused() -> None:
    with pytest.raises(CommitteeError, match="of network"):
        NET.trust(NET.renamed("other").point(40))
    with pytest.raises(CommitteeError, match="of network"):
        NET.trust(replace(POINT, chain_id=1))


@pytest.mark.spec("TRUST-ROOTS.1")
def test_two_trust_points_agree_and_the_younger_one_counts() -> None:
    with pytest.raises(CommitteeError, match="two committees of epoch 40"):
        NET.trust(POINT, NET.point(40, members=THIEF))
    with pytest.raises(CommitteeError):
        NET.trust(NET.point(1, members=THIEF))
    for order in (1, -1):
        shown = [POINT, replace(POINT, time_s=POINT.time_s + 5)][::order]
        trust = NET.trust(*shown)
        trust.learn(40, [member.node for member in NET.committee(40)])
        assert trust.since_s(40) == POINT.time_s + 5
    with pytest.raises(CommitteeError, match="at most"):
        NET.trust(*[NET.point(epoch) for epoch in range(40, 41 + POINTS_MAX)])


@pytest.mark.spec("TRUST-ROOTS.1")
def test_a_first_committee_without_an_age_does_not_outweigh_a_point_that_has_one() -> None:
    ageless = Net(founded_s=0)
    assert ageless.trust().epoch == 1
    assert ageless.trust(ageless.point(40)).epoch == 0
    assert Net(founded_s=0, settles=False).trust(Net(founded_s=0, settles=False).point(40)).epoch == 1
    young = ageless.trust(ageless.point(1, time_s=FOUNDED_S))
    assert (young.epoch, young.since_s(1)) == (1, FOUNDED_S), "a point of the first epoch gives it its age"


@pytest.mark.spec("TRUST-POINT.1")
def test_what_a_reader_shows_to_others_is_no_younger_than_what_it_knows() -> None:
    trust = NET.trust(at_s=NET.begins_s(3))
    trust.take(NET.hand_over(1))
    trust.take(NET.hand_over(2))
    assert trust.point() == NET.point(3, time_s=NET.begins_s(2))
    assert trust.point(1) == NET.point(1)
    assert trust.point(7) is None


# Trust periods


@pytest.mark.spec("TRUST-PERIOD.1")
def test_a_committee_is_believed_for_a_period_and_no_longer() -> None:
    end_s = FOUNDED_S + PERIOD_S
    trust, final = NET.trust(at_s=end_s - 1), NET.final(1)
    assert (trust.since_s(1), trust.until_s(1)) == (FOUNDED_S, end_s)
    assert trust.check(final)
    assert trust.believes(1)
    trust.at(end_s * 1_000)
    assert not trust.believes(1)
    for refused in (lambda: trust.check(final), lambda: trust.take(NET.hand_over(1)), lambda: trust.committee(1)):
        with pytest.raises(TrustExpired, match="7 days ago") as caught:
            refused()
        assert "trust string" in str(caught.value.hint)
    trust.at(None)
    assert trust.check(final), "who follows live asks for no age"


@pytest.mark.spec("TRUST-PERIOD.1")
def test_without_stake_or_without_an_age_there_is_no_period() -> None:
    for net in (Net(settles=False), Net(founded_s=0)):
        trust = net.trust(at_s=FOUNDED_S + 1_000 * PERIOD_S)
        assert trust.until_s(1) is None
        assert trust.check(net.final(1))


@pytest.mark.spec("TRUST-SINCE.1", "TRUST-PERIOD.1")
def test_the_age_of_a_committee_counts_from_when_it_was_named() -> None:
    now_s = NET.begins_s(6)
    trust = NET.trust(at_s=now_s)
    for epoch in range(1, 6):
        trust.take(NET.hand_over(epoch))
        assert trust.since_s(epoch + 1) == NET.begins_s(epoch)
    trust.at((NET.begins_s(5) + PERIOD_S - 1) * 1_000)
    assert [trust.believes(epoch) for epoch in range(1, 7)] == [False] * 4 + [False, True]
    trust.take(NET.hand_over(6))
    assert trust.check(NET.final(7))


@pytest.mark.spec("TRUST-SINCE.1")
def test_without_its_block_a_hand_over_makes_nobody_younger() -> None:
    trust = NET.trust(at_s=NET.begins_s(3))
    trust.take(NET.hand_over(1, bare=True))
    assert trust.since_s(2) == FOUNDED_S
    trust.take(NET.hand_over(2))
    assert trust.since_s(3) == NET.begins_s(2)


@pytest.mark.spec("TRUST-SINCE.1")
def test_a_time_to_come_is_taken_for_now_and_one_long_ago_for_the_last() -> None:
    for told_s, since_s in ((NET.begins_s(9), NET.begins_s(3)), (5, FOUNDED_S)):
        trust = NET.trust(at_s=NET.begins_s(3))
        trust.take(NET.hand_over(1, time_s=told_s))
        assert trust.since_s(2) == since_s
    trust = NET.trust(replace(POINT, time_s=FOUNDED_S + 100 * DAY_S), at_s=FOUNDED_S + 50 * DAY_S)
    trust.learn(40, [member.node for member in NET.committee(40)])
    assert trust.since_s(40) == FOUNDED_S + 50 * DAY_S


@pytest.mark.spec("TRUST-SINCE.1")
@pytest.mark.parametrize(
    "anchor", [evm_block(1, FOUNDED_S + 1), evm_block(2, FOUNDED_S), b"\xc0", b"junk", evm_block(1, FOUNDED_S) + b"\0"]
)
def test_a_block_that_the_header_does_not_anchor_is_a_lie(anchor: bytes) -> None:
    trust = NET.trust(at_s=NET.begins_s(2))
    with pytest.raises(RemoteProtocolError, match="block"):
        trust.take(msgspec.structs.replace(NET.hand_over(1), anchor=anchor))
    assert trust.epoch == 1


# Skipping


@pytest.mark.spec("TRUST-SKIP.1")
def test_members_that_still_sign_stand_for_the_committees_between() -> None:
    # Of each committee the next one has three members, the one after it two, then one, then none.
    for far, enough in ((1, True), (2, True), (3, False), (4, False)):
        trust, hand_over = NET.trust(at_s=NET.begins_s(2)), NET.hand_over(1 + far)
        if enough:
            assert trust.take(hand_over, skipping=True)
            assert (trust.epoch, trust.handed_over_by(2 + far)) == (2 + far, 1)
            assert trust.check(NET.final(2 + far))
            with pytest.raises(Untrusted):
                trust.check(NET.final(1 + far)), "who is in the committee that signed it nobody has shown"
        else:
            with pytest.raises(UnknownEpoch, match="would do"):
                trust.take(hand_over, skipping=True)


@pytest.mark.spec("TRUST-SKIP.1")
def test_who_follows_live_skips_nothing() -> None:
    with pytest.raises(UnknownEpoch):
        NET.trust().take(NET.hand_over(2))


@pytest.mark.spec("TRUST-SKIP.1")
@pytest.mark.parametrize(
    "signers",
    [
        lambda: [NET.committee(1)[0], *THIEF[:2]],
        lambda: [NET.committee(1)[0]] * 3,
        lambda: THIEF[:3],
    ],
    ids=["one", "one three times", "none"],
)
def test_fewer_than_one_more_than_may_lie_do_not(signers: object) -> None:
    trust = NET.trust(at_s=NET.begins_s(2))
    with pytest.raises(UnknownEpoch):
        trust.take(NET.hand_over(30, signers=signers()), skipping=True)  # type: ignore[operator]
    assert trust.epoch == 1


@pytest.mark.spec("TRUST-SKIP.1")
def test_only_what_was_finalized_skips_and_names_its_members() -> None:
    trust, following = NET.trust(), NET.committee(31)
    signers = NET.committee(1)[:3]
    header = NET.header(30, following)
    voted = NET.certify(header, signers, CertificateKind.NOTARIZATION)
    good = NET.hand_over(30, signers=signers)
    bad = [
        msgspec.structs.replace(good, certified=voted),
        msgspec.structs.replace(good, members=tuple(member.node for member in THIEF)),
        msgspec.structs.replace(good, certified=msgspec.structs.replace(good.certified, header=None)),
        msgspec.structs.replace(good, certified=msgspec.structs.replace(good.certified, header=NET.header(30, THIEF))),
    ]
    for hand_over in bad:
        with pytest.raises(RemoteProtocolError):
            trust.take(hand_over, skipping=True)
    assert trust.take(good, skipping=True)


@pytest.mark.spec("TRUST-SKIP.1", "TRUST-PERIOD.1")
def test_a_committee_that_is_too_old_stands_for_nobody() -> None:
    trust = NET.trust(at_s=FOUNDED_S + PERIOD_S)
    with pytest.raises(TrustExpired):
        trust.take(NET.hand_over(2), skipping=True)
    assert trust.epoch == 1


# Stolen keys


@pytest.mark.spec("TRUST-PERIOD.1", "TRUST-SKIP.1")
@pytest.mark.parametrize("away_s", [PERIOD_S, 30 * DAY_S, 3_650 * DAY_S])
def test_stolen_keys_of_a_retired_committee_make_a_client_past_its_period_believe_nothing(away_s: int) -> None:
    trust = NET.trust(at_s=FOUNDED_S + away_s)
    stolen, now_s = NET.committee(1), FOUNDED_S + away_s
    forged = [
        NET.hand_over(1, following=THIEF, signers=stolen[:3], time_s=now_s),
        NET.hand_over(1, following=THIEF, signers=stolen[:3], bare=True),
        NET.hand_over(1_000, following=THIEF, signers=stolen[:3], time_s=now_s),
        NET.hand_over(2, following=stolen, signers=stolen[:3], time_s=now_s),
    ]
    for hand_over in forged:
        for skipping in (False, True):
            with pytest.raises(Untrusted):
                trust.take(hand_over, skipping=skipping)
    for epoch in (1, 2, 1_000):
        with pytest.raises(Untrusted):
            trust.check(NET.final(epoch, stolen[:3]))
    assert (trust.epoch, trust.believes(1)) == (1, False)


@pytest.mark.spec("TRUST-PERIOD.1", "HANDOVER-TAKEN.1")
def test_within_the_period_the_honest_chain_stays() -> None:
    trust = NET.trust(at_s=NET.begins_s(4))
    for epoch in (1, 2, 3):
        trust.take(NET.hand_over(epoch))
    stolen = NET.committee(1)
    with pytest.raises(CommitteeError, match="another committee is known"):
        trust.take(NET.hand_over(1, following=THIEF, signers=stolen[:3]), skipping=True)
    with pytest.raises(CommitteeError):
        trust.check(NET.final(4, stolen[:3]))
    assert trust.check(NET.final(4))


@pytest.mark.spec("TRUST-PERIOD.1")
def test_a_fresh_trust_point_leads_on_where_the_genesis_is_too_old() -> None:
    now_s = NET.begins_s(41)
    trust = NET.trust(POINT, at_s=now_s)
    with pytest.raises(TrustExpired):
        trust.take(NET.hand_over(1))
    trust.take(NET.hand_over(39))
    trust.take(NET.hand_over(40))
    assert trust.check(NET.final(41))
    with pytest.raises(Untrusted):
        trust.take(NET.hand_over(70, following=THIEF, signers=NET.committee(1)[:3]), skipping=True)


steps = st.tuples(
    st.sampled_from(["true", "forged by f", "forged by all", "later"]),
    st.integers(0, 4),
    st.integers(0, 6),
    st.booleans(),
    st.booleans(),
)


@pytest.mark.spec("TRUST-PERIOD.1", "TRUST-SKIP.1", "TRUST-SINCE.1")
@settings(max_examples=150)
@given(st.lists(steps, max_size=14))
def test_whatever_is_shown_and_whenever_only_true_committees_are_known(
    walk: list[tuple[str, int, int, bool, bool]],
) -> None:
    """All keys of a committee are stolen a period after the next one was named, as soon as its stake may be free."""
    now_s = FOUNDED_S + DAY_S
    trust = NET.trust(at_s=now_s)
    for what, back, ahead, skipping, bare in walk:
        present = (now_s - FOUNDED_S) // NET.epoch_s + 1
        epoch = max(1, present - back)
        if what == "later":
            now_s += (back + ahead) * DAY_S // 2
            trust.at(now_s * 1_000)
            continue
        if what == "true":
            hand_over = NET.hand_over(epoch, bare=bare)
        else:
            old = max(1, present - 8 - back)
            if what == "forged by all" and now_s < NET.begins_s(old) + PERIOD_S:
                continue
            thieves = NET.committee(epoch)[:1] if what == "forged by f" else NET.committee(old)
            signers = [*thieves, *THIEF][:3]
            at = old + ahead if what == "forged by all" else epoch + ahead
            hand_over = NET.hand_over(at, following=THIEF, signers=signers, time_s=now_s, bare=bare)
        with suppress(RemoteProtocolError):
            trust.take(hand_over, skipping=skipping)
    for epoch in range(1, trust.epoch + 1):
        members = trust.members_of(epoch)
        assert not members or members == tuple(member.node for member in NET.committee(epoch))
