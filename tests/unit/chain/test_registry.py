"""NodeRegistry: keys and the stake that owners bind to them, until it is paid back or lost."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chain.artifacts import load_artifact
from protocol.core.ids import NetworkId
from tests.unit.chain.contracts_at_hand import (
    ANYBODY,
    DEPLOYER,
    DOMAIN,
    EVIDENCE,
    MINER,
    ORACLE,
    OWNER,
    STRANGER,
    Rig,
    Settings,
    consent,
    members_of,
)
from tests.unit.chain.evm import Contract, Evm, Refused
from tests.unit.chain.modules_at_hand import token
from tests.unit.protocol.keys import key

NODE, NEXT, LAST = key(50), key(51), key(52)
REPORTER = b"\x4e" * 20
UNIT = 7


@pytest.fixture(scope="module")
def deployed() -> tuple[Rig, Any]:
    """Both contracts, and one registered oracle."""
    rig = Rig(Settings(unit=UNIT))
    rig.register(NODE)
    return rig, rig.evm.keep()


@pytest.fixture
def rig(deployed: tuple[Rig, Any]) -> Iterator[Rig]:
    """For one test: what it does is undone."""
    made, kept = deployed
    made.evm.take_back(kept)
    yield made


def refused(rig: Rig, reason: str, name: str, *arguments: Any, sender: bytes = OWNER, value: int = 0) -> None:
    """A call, to be refused for this reason."""
    with pytest.raises(Refused) as refusal:
        rig.registry.send(name, *arguments, sender=sender, value=value)
    assert refusal.value.reason == reason


def told(address: bytes) -> str:
    """An address as events name it."""
    return "0x" + address.hex()


def slash(rig: Rig, node: bytes, evidence: int = 1) -> Any:
    """Convict a node."""
    return rig.registry.send("slash", node, bytes([evidence]) * 32, REPORTER, sender=EVIDENCE)


def leave(rig: Rig, node: bytes = NODE.node) -> None:
    """Begin and wait."""
    rig.registry.send("begin_unbonding", node, sender=OWNER)
    rig.evm.advance(seconds=rig.settings.unbonding_s)


def record(rig: Rig, node: bytes = NODE.node) -> tuple[Any, ...]:
    """What the registry says of a key."""
    answer: tuple[Any, ...] = rig.registry.call("node", node)
    return answer


# Entering


@pytest.mark.spec("REGISTRY-KEY.1")
def test_an_owner_registers_a_node_that_agreed(rig: Rig) -> None:
    done = rig.register(NEXT, stake=300, roles=MINER, owner=ANYBODY)
    assert rig.registry.events(done) == [("NodeChanged", told(NEXT.node), told(ANYBODY), MINER, 300, False)]
    assert record(rig, NEXT.node) == (told(ANYBODY), MINER, 300, False, 0)
    assert rig.registry.call("keys", NEXT.node) == (told(NEXT.node), 0)
    assert rig.evm.balance(rig.registry.address) == (500 + 300) * UNIT


@pytest.mark.spec("REGISTRY-KEY.1")
@pytest.mark.parametrize(
    ("roles", "stake", "value", "reason"),
    [
        (0, 500, 500, "roles"),
        (8, 500, 500, "roles"),
        (ORACLE, 99, 99, "stake"),
        (ORACLE, 2**62 + 1, 500, "stake"),
        (ORACLE, 2**256 - 1, 500, "stake"),
        (ORACLE, 500, 499, "value"),
        (ORACLE, 500, 501, "value"),
        (ORACLE, 500, 0, "value"),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(
    rig: Rig, roles: int, stake: int, value: int, reason: str
) -> None:
    arguments = (NEXT.node, roles, stake, consent(NEXT, OWNER))
    refused(rig, reason, "register", *arguments, value=value * UNIT)


@pytest.mark.spec("REGISTRY-KEY.1", "REGISTRY-CONSENT.1")
def test_a_key_that_did_not_agree_is_not_registered(rig: Rig) -> None:
    elsewhere = replace(DOMAIN, network_id=NetworkId(b"\7" * 32))
    for given in (
        consent(STRANGER, OWNER),
        consent(NEXT, ANYBODY),
        consent(NEXT, OWNER, elsewhere),
        consent(NEXT, OWNER, replace(DOMAIN, chain_id=1)),
    ):
        refused(rig, "consent", "register", NEXT.node, ORACLE, 500, given, value=500 * UNIT)
    high = (consent(NEXT, OWNER)[0], b"\x7f" + b"\xff" * 31)
    refused(rig, "high s", "register", NEXT.node, ORACLE, 500, high, value=500 * UNIT)
    refused(rig, "signature", "register", bytes(20), ORACLE, 500, (bytes(32), bytes(32)), value=500 * UNIT)


@pytest.mark.spec("REGISTRY-KEY.1")
def test_a_key_is_registered_once_for_ever(rig: Rig) -> None:
    again = (NODE.node, ORACLE, 500, consent(NODE, OWNER))
    refused(rig, "known", "register", *again, value=500 * UNIT)
    leave(rig)
    rig.registry.send("finish_unbonding", NODE.node, sender=ANYBODY)
    refused(rig, "known", "register", *again, value=500 * UNIT)


def test_more_stake_comes_from_anybody(rig: Rig) -> None:
    done = rig.registry.send("add_stake", NODE.node, 400, sender=ANYBODY, value=400 * UNIT)
    assert rig.registry.events(done) == [("NodeChanged", told(NODE.node), told(OWNER), ORACLE, 900, False)]
    assert rig.registry.call("weight", NODE.node) == 900
    rig.registry.send("add_stake", NODE.node, 400, sender=ANYBODY, value=400 * UNIT)
    assert rig.registry.call("weight", NODE.node) == 1_000, "the cap"
    refused(rig, "value", "add_stake", NODE.node, 400, value=400)
    refused(rig, "amount", "add_stake", NODE.node, 0)
    refused(rig, "amount", "add_stake", NODE.node, 2**256 - 1)
    refused(rig, "stake", "add_stake", NODE.node, 2**62, value=2**62 * UNIT)
    refused(rig, "unknown", "add_stake", NEXT.node, 400, value=400 * UNIT)


def test_an_owner_hands_its_node_to_another(rig: Rig) -> None:
    refused(rig, "owner", "set_owner", NODE.node, ANYBODY, sender=ANYBODY)
    refused(rig, "owner", "set_owner", NODE.node, bytes(20))
    refused(rig, "owner", "set_owner", NEXT.node, ANYBODY)
    rig.registry.send("set_owner", NODE.node, ANYBODY, sender=OWNER)
    refused(rig, "owner", "begin_unbonding", NODE.node)
    rig.registry.send("begin_unbonding", NODE.node, sender=ANYBODY)


# Leaving


@pytest.mark.spec("REGISTRY-UNBOND.1")
def test_the_stake_is_paid_back_to_the_owner_after_a_time(rig: Rig) -> None:
    refused(rig, "not unbonding", "finish_unbonding", NODE.node)
    refused(rig, "owner", "begin_unbonding", NODE.node, sender=NODE.node)
    refused(rig, "unknown", "begin_unbonding", NEXT.node)
    done = rig.registry.send("begin_unbonding", NODE.node, sender=OWNER)
    began = rig.evm.time_s
    assert rig.registry.events(done) == [("NodeChanged", told(NODE.node), told(OWNER), 0, 500, False)]
    assert record(rig)[4] == began
    assert rig.registry.call("weight", NODE.node) == 0
    refused(rig, "unbonding", "begin_unbonding", NODE.node)
    refused(rig, "unbonding", "add_stake", NODE.node, 1, value=UNIT)
    rig.evm.advance(seconds=rig.settings.unbonding_s - 1)
    refused(rig, "too soon", "finish_unbonding", NODE.node)
    rig.evm.advance(seconds=1)
    before = rig.evm.balance(OWNER)
    done = rig.registry.send("finish_unbonding", NODE.node, sender=ANYBODY)
    assert rig.registry.events(done) == [("NodeChanged", told(NODE.node), told(OWNER), 0, 0, False)]
    assert rig.evm.balance(OWNER) - before == 500 * UNIT
    assert rig.evm.balance(rig.registry.address) == 0
    refused(rig, "nothing", "finish_unbonding", NODE.node)


@pytest.mark.spec("REGISTRY-UNBOND.1")
def test_what_is_leaving_can_still_be_slashed(rig: Rig) -> None:
    leave(rig)
    slash(rig, NODE.node)
    before = rig.evm.balance(OWNER)
    rig.registry.send("finish_unbonding", NODE.node, sender=ANYBODY)
    assert rig.evm.balance(OWNER) - before == 250 * UNIT
    assert not rig.registry.call("liable", NODE.node)
    with pytest.raises(Refused, match="unknown"):
        slash(rig, NODE.node, 2)


def test_an_owner_that_takes_no_coin_stops_only_itself(rig: Rig) -> None:
    rig.registry.send("set_owner", NODE.node, rig.checkpoints.address, sender=OWNER)
    rig.evm.fund(rig.checkpoints.address, 10**30)
    rig.registry.send("begin_unbonding", NODE.node, sender=rig.checkpoints.address)
    rig.evm.advance(seconds=rig.settings.unbonding_s)
    refused(rig, "payee", "finish_unbonding", NODE.node)
    assert record(rig)[2] == 500
    rig.registry.send("set_owner", NODE.node, OWNER, sender=rig.checkpoints.address)
    rig.registry.send("finish_unbonding", NODE.node, sender=ANYBODY)


# Another key


@pytest.mark.spec("REGISTRY-ROTATE.1")
def test_another_key_takes_over_and_the_old_one_stays_liable(rig: Rig) -> None:
    refused(rig, "owner", "rotate", NODE.node, NEXT.node, consent(NEXT, OWNER), sender=NODE.node)
    refused(rig, "consent", "rotate", NODE.node, NEXT.node, consent(NODE, OWNER))
    refused(rig, "known", "rotate", NODE.node, NODE.node, consent(NODE, OWNER))
    done = rig.registry.send("rotate", NODE.node, NEXT.node, consent(NEXT, OWNER), sender=OWNER)
    assert rig.registry.events(done) == [
        ("NodeChanged", told(NODE.node), told(OWNER), 0, 0, False),
        ("NodeChanged", told(NEXT.node), told(OWNER), ORACLE, 500, False),
    ]
    assert record(rig) == (told(bytes(20)), 0, 0, False, 0)
    assert record(rig, NEXT.node)[2] == 500
    assert rig.registry.call("weight", NODE.node) == 0
    assert rig.registry.call("weight", NEXT.node) == 500
    for name, more in (("begin_unbonding", ()), ("rotate", (LAST.node, consent(LAST, OWNER)))):
        refused(rig, "unknown", name, NODE.node, *more)
    done = slash(rig, NODE.node)
    assert rig.registry.events(done) == [
        ("Slashed", told(NODE.node), b"\1" * 32, told(REPORTER), 250),
        ("NodeChanged", told(NEXT.node), told(OWNER), ORACLE, 250, True),
    ]
    assert rig.registry.call("weight", NEXT.node) == rig.registry.call("candidate_count") == 0
    refused(rig, "jailed", "rotate", NEXT.node, LAST.node, consent(LAST, OWNER))


@pytest.mark.spec("REGISTRY-ROTATE.1")
def test_an_old_key_is_liable_for_as_long_as_unbonding_takes_whatever_follows(rig: Rig) -> None:
    rig.registry.send("rotate", NODE.node, NEXT.node, consent(NEXT, OWNER), sender=OWNER)
    rig.registry.send("rotate", NEXT.node, LAST.node, consent(LAST, OWNER), sender=OWNER)
    rig.registry.send("begin_unbonding", LAST.node, sender=OWNER)
    rig.evm.advance(seconds=rig.settings.unbonding_s - 1)
    kept = rig.evm.keep()
    slash(rig, NODE.node)
    slash(rig, NEXT.node, 2)
    assert rig.registry.call("bonds", NODE.node)[3] == 125
    rig.evm.take_back(kept)
    rig.evm.advance(seconds=1)
    assert not rig.registry.call("liable", NODE.node)
    with pytest.raises(Refused, match="unknown"):
        slash(rig, NODE.node)
    slash(rig, LAST.node)


# Slashing


@pytest.mark.spec("REGISTRY-SLASH.1")
def test_a_slash_takes_a_share_and_jails_for_ever(rig: Rig) -> None:
    with pytest.raises(Refused, match="evidence"):
        rig.registry.send("slash", NODE.node, b"\1" * 32, REPORTER, sender=OWNER)
    with pytest.raises(Refused, match="unknown"):
        slash(rig, NEXT.node)
    slash(rig, NODE.node)
    assert rig.registry.call("slashed", b"\1" * 32)
    assert record(rig) == (told(OWNER), ORACLE, 250, True, 0)
    assert rig.registry.call("weight", NODE.node) == 0
    assert rig.registry.call("candidate_count") == 0
    with pytest.raises(Refused, match="slashed"):
        slash(rig, NODE.node)
    slash(rig, NODE.node, 2)
    assert record(rig)[2] == 125
    refused(rig, "jailed", "add_stake", NODE.node, 500, value=500 * UNIT)
    refused(rig, "jailed", "stand", NODE.node, bytes(20))


@pytest.mark.spec("REGISTRY-SLASH.1")
def test_a_reporter_is_paid_its_share_once(rig: Rig) -> None:
    slash(rig, NODE.node)
    assert rig.registry.call("rewards", REPORTER) == 25
    rig.registry.send("claim", REPORTER, sender=ANYBODY)
    assert rig.evm.balance(REPORTER) == 25 * UNIT
    refused(rig, "nothing", "claim", REPORTER)
    assert rig.evm.balance(rig.registry.address) == 475 * UNIT


def test_stake_that_is_slashed_to_nothing_is_no_stake() -> None:
    rig = Rig(Settings(slash_bp=10_000, reward_bp=0))
    rig.register(NODE)
    slash(rig, NODE.node)
    assert record(rig)[2:4] == (0, True)
    assert not rig.registry.call("liable", NODE.node)
    leave(rig)
    refused(rig, "nothing", "finish_unbonding", NODE.node)


# The money of a token


def with_token(manner: str) -> tuple[Rig, Contract]:
    """A registry whose stake is of a token, of which the owner has some."""
    evm = Evm()
    coin = evm.deploy(token(manner), sender=DEPLOYER)
    rig = Rig(Settings(token=coin.address, unit=UNIT), evm)
    coin.send("mint", OWNER, 10_000, sender=DEPLOYER)
    coin.send("approve", rig.registry.address, 500 * UNIT, sender=OWNER)
    return rig, coin


@pytest.mark.spec("CONTRACT-MONEY.1")
@pytest.mark.parametrize("manner", ["plain", "says nothing"])
def test_stake_may_be_of_a_token(manner: str) -> None:
    rig, coin = with_token(manner)
    arguments = (NODE.node, ORACLE, 500, consent(NODE, OWNER))
    refused(rig, "value", "register", *arguments, value=1)
    rig.registry.send("register", *arguments, sender=OWNER)
    assert coin.call("balanceOf", rig.registry.address) == 500 * UNIT
    leave(rig)
    rig.registry.send("finish_unbonding", NODE.node, sender=ANYBODY)
    assert coin.call("balanceOf", OWNER) == 10_000


@pytest.mark.spec("CONTRACT-MONEY.1")
@pytest.mark.parametrize(("manner", "reason"), [("says no", "transfer"), ("takes a fee", "transfer fee")])
def test_a_token_that_does_not_deliver_is_refused(manner: str, reason: str) -> None:
    rig, coin = with_token(manner)
    refused(rig, reason, "register", NODE.node, ORACLE, 500, consent(NODE, OWNER))
    assert coin.call("balanceOf", OWNER) == 10_000
    assert not rig.registry.call("liable", NODE.node)


# Being deployed


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Settings(size=5), "size"),
        (Settings(size=3), "size"),
        (Settings(size_max=5), "size"),
        (Settings(size_max=34), "size"),
        (Settings(stake_min=0), "stake"),
        (Settings(stake_min=1_001), "stake"),
        (Settings(stake_cap=2**62 + 1), "stake"),
        (Settings(unbonding_s=0), "settings"),
        (Settings(slash_bp=0), "settings"),
        (Settings(slash_bp=10_001), "settings"),
        (Settings(reward_bp=10_001), "settings"),
        (Settings(unit=0), "unit"),
        (Settings(unit=2**128 + 1), "unit"),
        (Settings(token=OWNER), "token"),
    ],
)
def test_a_registry_that_could_not_work_is_not_deployed(wrong: Settings, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        Rig(wrong)
    assert refusal.value.reason == reason


def test_a_genesis_names_each_member_once() -> None:
    members = members_of((*Rig().keys[:3], Rig().keys[0]))
    for wrong in (members, (*members[:3], bytes(20))):
        with pytest.raises(Refused, match="twice"):
            Evm().deploy(
                load_artifact("NodeRegistry"),
                *(DOMAIN.network_id, DOMAIN.chain_id, EVIDENCE, ANYBODY, bytes(20), 1, wrong, 31, 1, 1, 1, 1, 1),
                sender=DEPLOYER,
            )
