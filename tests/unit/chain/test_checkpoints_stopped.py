"""Checkpoints: since when a header is usable, and what stops them: a contradiction, a long silence, the guardian."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from protocol.committee.election import committee_root
from protocol.messages.committee import header_digest
from tests.unit.chain.contracts_at_hand import (
    ANYBODY,
    DOMAIN,
    GUARDIAN,
    STRANGER,
    Certificate,
    Rig,
    certificate,
    members_of,
)
from tests.unit.chain.evm import Refused
from tests.unit.protocol.keys import key

NONE = bytes(32)


@pytest.fixture(scope="module")
def deployed() -> tuple[Rig, Any]:
    """Both contracts, with two checkpoints of the first epoch, a while apart."""
    rig = Rig()
    rig.submit(rig.header(1, 5))
    rig.evm.advance(seconds=rig.settings.window_s, blocks=50)
    rig.submit(rig.header(1, 9))
    return rig, rig.evm.keep()


@pytest.fixture
def rig(deployed: tuple[Rig, Any]) -> Iterator[Rig]:
    """For one test: what it does is undone."""
    made, kept = deployed
    made.evm.take_back(kept)
    yield made


def names(rig: Rig) -> tuple[bytes, bytes]:
    """The two headers that are accepted."""
    return header_digest(DOMAIN, rig.header(1, 5)), header_digest(DOMAIN, rig.header(1, 9))


def usable(rig: Rig, digest: bytes) -> bool:
    """Whether withdrawals can stand on it."""
    answer: bool = rig.checkpoints.call("usable", digest)
    return answer


def challenge(rig: Rig, first: Certificate, second: Certificate) -> None:
    """Show two certified headers."""
    rig.checkpoints.send("challenge", tuple(first.parts()), tuple(second.parts()), sender=ANYBODY)


def refused(rig: Rig, reason: str, first: Certificate, second: Certificate) -> None:
    """Show them, to be refused for this reason."""
    with pytest.raises(Refused) as refusal:
        challenge(rig, first, second)
    assert refusal.value.reason == reason
    assert rig.checkpoints.call("frozen_at") == 0


def certified(rig: Rig, epoch: int, height: int, **changes: Any) -> Certificate:
    """A header that the genesis's committee finalized."""
    return certificate(rig.header(epoch, height, **changes), rig.keys)


# The window


@pytest.mark.spec("CHECKPOINT-WINDOW.1")
def test_a_header_is_usable_once_it_is_older_than_the_window(rig: Rig) -> None:
    old, new = names(rig)
    assert usable(rig, old)
    assert not usable(rig, new)
    rig.evm.advance(seconds=rig.settings.window_s - 1)
    assert not usable(rig, new)
    rig.evm.advance(seconds=1)
    assert usable(rig, new)
    assert not usable(rig, NONE)
    assert not usable(rig, b"\1" * 32)


@pytest.mark.spec("CHECKPOINT-WINDOW.1")
def test_the_last_usable_header_is_known_by_the_one_after_it(rig: Rig) -> None:
    old, new = names(rig)
    last = rig.checkpoints.call
    assert last("last_usable", old, new)
    assert not last("last_usable", old, NONE)
    assert not last("last_usable", new, NONE)
    assert not last("last_usable", NONE, old)
    assert not last("last_usable", NONE, new)
    assert not last("last_usable", NONE, NONE)
    assert not last("last_usable", old, old)
    rig.evm.advance(seconds=rig.settings.window_s)
    assert last("last_usable", new, NONE)
    assert not last("last_usable", old, new)


@pytest.mark.spec("CHECKPOINT-WINDOW.1")
def test_before_the_first_usable_header_the_state_before_all_is_the_last_one() -> None:
    rig = Rig()
    first = header_digest(DOMAIN, rig.header(1, 5))
    assert rig.checkpoints.call("last_usable", NONE, NONE)
    assert not rig.checkpoints.call("last_usable", NONE, first)
    rig.submit(rig.header(1, 5))
    assert rig.checkpoints.call("last_usable", NONE, first)
    assert not rig.checkpoints.call("last_usable", NONE, NONE)


# A contradiction


CONTRADICTIONS: dict[str, tuple[tuple[int, int, dict[str, Any]], tuple[int, int, dict[str, Any]]]] = {
    "two headers of one slot": ((1, 12, {}), (1, 12, {"body": NONE})),
    "an accepted one of two": ((1, 9, {}), (1, 9, {"ledger_root": NONE})),
    "another next committee in one epoch": ((1, 9, {}), (1, 20, {"next_committee": b"\7" * 32})),
    "other parameters in one epoch": ((1, 9, {}), (1, 20, {"params_digest": NONE})),
    "the next height does not follow": ((1, 9, {}), (1, 10, {"parent": b"\7" * 32})),
    "fewer results": ((1, 9, {}), (1, 20, {"results_count": 70_000})),
    "fewer deposits": ((1, 9, {}), (1, 20, {"deposits": 11})),
    "an earlier anchor": ((1, 9, {}), (1, 20, {"anchor_number": 19_000_000})),
    "fewer deposits in the next epoch": ((1, 9, {}), (2, 1, {"deposits": 11})),
    "fewer results in the next epoch": ((1, 9, {}), (2, 1, {"results_count": 70_000})),
}


@pytest.mark.spec("CHECKPOINT-FREEZE.1")
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_two_certified_headers_that_cannot_both_be_freeze_it(rig: Rig, name: str) -> None:
    one, other = (certified(rig, epoch, height, **changes) for epoch, height, changes in CONTRADICTIONS[name])
    old, new = names(rig)
    rig.evm.advance(seconds=100)
    challenge(rig, one, other)
    assert rig.checkpoints.call("frozen_at") == rig.evm.time_s
    with pytest.raises(Refused, match="halted"):
        rig.submit(rig.header(1, 30))
    rig.evm.advance(seconds=rig.settings.window_s)
    assert usable(rig, old)
    assert not usable(rig, new)
    assert rig.checkpoints.call("last_usable", old, new)
    with pytest.raises(Refused, match="frozen"):
        challenge(rig, one, other)


@pytest.mark.spec("CHECKPOINT-FREEZE.1")
def test_what_honest_committees_finalize_freezes_nothing(rig: Rig) -> None:
    low = certified(rig, 1, 9)
    digest = low.digest
    for high in (
        certified(rig, 1, 10, parent=digest),
        certified(rig, 1, 11),
        certified(rig, 1, 20, results_count=70_002, deposits=13, anchor_number=19_000_002),
        certified(rig, 2, 1, next_committee=b"\7" * 32, params_digest=NONE),
    ):
        refused(rig, "no contradiction", low, high)
    refused(rig, "same", low, low)
    refused(rig, "same", low, replace(low, places=(1, 2, 3)))


@pytest.mark.spec("CHECKPOINT-FREEZE.1")
def test_a_challenge_shows_the_earlier_header_first(rig: Rig) -> None:
    refused(rig, "order", certified(rig, 1, 20, deposits=11), certified(rig, 1, 9))
    refused(rig, "order", certified(rig, 2, 1, deposits=11), certified(rig, 1, 9))


@pytest.mark.spec("CHECKPOINT-FREEZE.1")
def test_a_challenge_needs_two_certificates_of_the_committees_in_force(rig: Rig) -> None:
    good = certified(rig, 1, 12)
    other = rig.header(1, 12, body=NONE)
    refused(rig, "quorum", good, certificate(other, rig.keys, (0, 1)))
    refused(rig, "committee", good, certificate(other, (*rig.keys[:3], STRANGER)))
    foreign = certificate(other, (STRANGER, *rig.keys[1:]))
    parts = foreign.parts()
    parts[1] = members_of(rig.keys)
    with pytest.raises(Refused, match="signature"):
        rig.checkpoints.send("challenge", tuple(good.parts()), tuple(parts), sender=ANYBODY)
    refused(rig, "committee", certified(rig, 3, 1), certified(rig, 3, 1, body=NONE))
    challenge(rig, good, certificate(other, rig.keys, (1, 2, 3)))


@pytest.mark.spec("CHECKPOINT-FREEZE.1")
def test_a_committee_can_freeze_nothing_once_its_successors_first_header_is_usable(rig: Rig) -> None:
    one, other = certified(rig, 1, 30), certified(rig, 1, 30, body=NONE)
    rig.submit(rig.header(2, 1))
    rig.evm.advance(seconds=rig.settings.window_s - 1)
    kept = rig.evm.keep()
    challenge(rig, one, other)
    rig.evm.take_back(kept)
    rig.evm.advance(seconds=1)
    refused(rig, "past", one, other)
    refused(rig, "past", one, certified(rig, 2, 7, deposits=11))


@pytest.mark.spec("CHECKPOINT-FREEZE.1")
def test_the_next_committee_can_contradict_itself_before_its_first_header_is_accepted(rig: Rig) -> None:
    keys = [key(100 + number) for number in range(4)]
    for node in keys:
        rig.register(node)
    rig.submit(rig.header(2, 1))
    [(_, _, members)] = rig.registry.events(rig.draw(4))
    named = [next(node for node in keys if node.node == bytes.fromhex(member[2:])) for member in members]
    root = committee_root(members_of(named))
    rig.submit(rig.header(3, 1, next_committee=root))
    one, other = rig.header(4, 1, next_committee=root), rig.header(4, 1, next_committee=NONE)
    challenge(rig, certificate(one, named), certificate(other, named))


# A long silence


@pytest.mark.spec("CHECKPOINT-DEAD.1")
def test_the_exit_opens_after_a_long_silence_and_for_ever(rig: Rig) -> None:
    rig.evm.advance(seconds=rig.settings.dead_s)
    assert not rig.checkpoints.call("dead")
    with pytest.raises(Refused, match="alive"):
        rig.checkpoints.send("declare_dead", sender=ANYBODY)
    rig.evm.advance(seconds=1)
    assert rig.checkpoints.call("dead")
    assert rig.checkpoints.call("dead_at") == 0
    done = rig.checkpoints.send("declare_dead", sender=ANYBODY)
    at = rig.evm.time_s
    assert rig.checkpoints.events(done) == [("Halted", at, True)]
    rig.evm.advance(seconds=5)
    assert rig.checkpoints.events(rig.checkpoints.send("declare_dead", sender=ANYBODY)) == []
    assert rig.checkpoints.call("dead_at") == at
    assert rig.checkpoints.call("frozen_at") == 0
    with pytest.raises(Refused, match="halted"):
        rig.submit(rig.header(1, 30))
    assert usable(rig, names(rig)[1])


@pytest.mark.spec("CHECKPOINT-DEAD.1")
def test_a_header_that_comes_before_anybody_declared_it_ends_the_silence(rig: Rig) -> None:
    rig.evm.advance(seconds=rig.settings.dead_s + 1)
    rig.submit(rig.header(1, 30))
    assert not rig.checkpoints.call("dead")
    with pytest.raises(Refused, match="alive"):
        rig.checkpoints.send("declare_dead", sender=ANYBODY)


@pytest.mark.spec("CHECKPOINT-DEAD.1")
def test_without_any_header_the_silence_counts_from_the_deployment() -> None:
    rig = Rig()
    rig.evm.advance(seconds=rig.settings.dead_s)
    assert not rig.checkpoints.call("dead")
    rig.evm.advance(seconds=1)
    assert rig.checkpoints.call("dead")


@pytest.mark.spec("CHECKPOINT-DEAD.1", "CHECKPOINT-FREEZE.1")
def test_what_is_frozen_dies(rig: Rig) -> None:
    challenge(rig, certified(rig, 1, 12), certified(rig, 1, 12, body=NONE))
    frozen_at = rig.evm.time_s
    rig.evm.advance(seconds=rig.settings.dead_s + 1)
    rig.checkpoints.send("declare_dead", sender=ANYBODY)
    assert rig.checkpoints.call("dead_at") == rig.evm.time_s
    assert rig.checkpoints.call("frozen_at") == frozen_at
    old, new = names(rig)
    assert rig.checkpoints.call("last_usable", old, new)
    with pytest.raises(Refused, match="frozen"):
        challenge(rig, certified(rig, 1, 12), certified(rig, 1, 12, body=NONE))


# The guardian


def pause(rig: Rig, seconds: int, sender: bytes = GUARDIAN) -> None:
    """Stop withdrawals."""
    rig.checkpoints.send("pause", seconds, sender=sender)


@pytest.mark.spec("CHECKPOINT-PAUSE.1")
def test_the_guardian_pauses_for_a_bounded_time_and_not_again_at_once(rig: Rig) -> None:
    longest = rig.settings.pause_max_s
    for seconds in (0, longest + 1, 2**256 - 1):
        with pytest.raises(Refused, match="seconds"):
            pause(rig, seconds)
    with pytest.raises(Refused, match="guardian"):
        pause(rig, 1, ANYBODY)
    assert not rig.checkpoints.call("paused")
    pause(rig, longest)
    assert rig.checkpoints.call("paused")
    rig.submit(rig.header(1, 30))
    rig.evm.advance(seconds=longest - 1)
    assert rig.checkpoints.call("paused")
    rig.evm.advance(seconds=1)
    assert not rig.checkpoints.call("paused")
    with pytest.raises(Refused, match="too soon"):
        pause(rig, 1)
    rig.evm.advance(seconds=longest)
    pause(rig, 1)


@pytest.mark.spec("CHECKPOINT-PAUSE.1")
def test_of_any_time_at_most_half_is_paused(rig: Rig) -> None:
    for seconds in (300, 1, 17, 299, 2, 300, 300):
        pause(rig, seconds)
        rig.evm.advance(seconds=2 * seconds - 1)
        assert not rig.checkpoints.call("paused")
        with pytest.raises(Refused, match="too soon"):
            pause(rig, 1)
        rig.evm.advance(seconds=1)
