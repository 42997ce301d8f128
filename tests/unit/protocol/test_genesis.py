"""The genesis file: read back as written, refused by name, and never a crash whatever a router sends."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.errors import ParameterError
from protocol.core.genesis import Contracts, Genesis, parse_genesis
from protocol.core.ids import NodeId
from protocol.core.params import COMMITTEE_SIZES, Params

GENESIS = Genesis("test")
MEMBERS = tuple(NodeId(bytes([200 - place]) * 20) for place in range(32))
NAMES = [f"0x{member.hex()}" for member in MEMBERS]


def changed(**content: Any) -> str:
    """The genesis file with some of its keys replaced."""
    return json.dumps(json.loads(GENESIS.to_json()) | content)


@given(
    st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=64).filter(str.isprintable),
    st.integers(0, 2**63 - 1),
    st.sampled_from((0, *COMMITTEE_SIZES)),
)
def test_a_genesis_survives_its_file(name: str, chain_id: int, size: int) -> None:
    genesis = Genesis(name, chain_id, replace(Params(), bid_target=5), MEMBERS[:size])
    again = parse_genesis(genesis.to_json())
    assert again == genesis
    assert again.network_id() == genesis.network_id()


def test_the_id_does_not_hang_on_how_the_file_is_written() -> None:
    assert parse_genesis(json.dumps(json.loads(GENESIS.to_json()))).network_id() == GENESIS.network_id()


@pytest.mark.spec("SIGN-DOMAIN.1")
def test_what_is_asked_for_with_every_frame_is_made_once() -> None:
    genesis = Genesis("a")
    assert genesis.to_json() is genesis.to_json()
    assert genesis.domain() is genesis.domain()
    assert genesis.network_id() is genesis.network_id()


def test_networks_that_differ_in_anything_differ_in_id_and_topic() -> None:
    others = [Genesis("other"), Genesis("test", 1)]
    others += [Genesis("test", committee=members) for members in (MEMBERS[:4], MEMBERS[3::-1], MEMBERS[:7])]
    for item in fields(Params):
        value, high = getattr(Params(), item.name), item.metadata["high"]
        step = 1 if value < high else -1
        others.append(Genesis("test", 0, replace(Params(), **{item.name: value + step})))
    ids = {genesis.network_id() for genesis in [GENESIS, *others]}
    topics = {genesis.topic("nodes") for genesis in [GENESIS, *others]}
    assert len(ids) == len(topics) == len(others) + 1


def test_a_topic_carries_the_network() -> None:
    assert GENESIS.topic("nodes") == f"/p2pnode/{GENESIS.network_id().hex()[:8]}/nodes/1"


@pytest.mark.spec("GENESIS-COMMITTEE.1")
@pytest.mark.parametrize(
    ("complaint", "text"),
    [
        ("no genesis file", "{"),
        ("no genesis file", "[" * 65_536),
        ("no genesis file", '{"params":' * 65_536),
        ("no genesis file", '{"more": ' + "[" * 65_536),
        ("no genesis file", '{"format": ' + "1" * 10_000 + "}"),
        ("at most", " " * (1 << 20) + "{}"),
        ("no genesis file", "[]"),
        ("missing required field `format`", "{}"),
        ("unknown field `more`", changed(more=1)),
        ("this build reads", changed(format=2)),
        ("1 to 64 printable characters", changed(name="")),
        ("1 to 64 printable characters", changed(name="x" * 65)),
        ("1 to 64 printable characters", changed(name="\x1b[2J")),
        ("no genesis file", changed(name=5)),
        ("no genesis file", changed(name="\ud800")),
        ("has 3 members", changed(committee=NAMES[:3])),
        ("has 5 members", changed(committee=NAMES[:5])),
        ("has 32 members", changed(committee=NAMES)),
        ("each member once", changed(committee=[*NAMES[:3], NAMES[0]])),
        ("40 lower-case", changed(committee=[*NAMES[:3], NAMES[3].upper()])),
        ("40 lower-case", changed(committee=[*NAMES[:3], NAMES[3][2:]])),
        ("40 lower-case", changed(committee=[*NAMES[:3], NAMES[3] + "00"])),
        ("40 lower-case", changed(committee=[*NAMES[:3], NAMES[3] + "\n"])),
        ("no genesis file", changed(committee=[1, 2, 3, 4])),
        ("no genesis file", changed(committee=None)),
        ("chain_id", changed(chain_id=-1)),
        ("chain_id", changed(chain_id=2**63)),
        ("no genesis file", changed(chain_id=1.5)),
        ("no genesis file", changed(chain_id=True)),
        ("no genesis file", changed(params=[])),
        ("name every parameter once", changed(params={"bid_target": 8})),
        ("bid_target", changed(params=json.loads(GENESIS.to_json())["params"] | {"bid_target": 0})),
        ("no genesis file", changed(params=json.loads(GENESIS.to_json())["params"] | {"bid_target": [8]})),
    ],
)
def test_a_wrong_genesis_is_refused_by_name(complaint: str, text: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        parse_genesis(text)


@pytest.mark.spec("GENESIS-COMMITTEE.1")
@pytest.mark.parametrize("size", range(1, 33))
def test_a_committee_is_of_three_f_and_one(size: int) -> None:
    if size in COMMITTEE_SIZES:
        assert parse_genesis(Genesis("test", committee=MEMBERS[:size]).to_json()).committee == MEMBERS[:size]
    else:
        with pytest.raises(ParameterError, match=f"has {size} members"):
            Genesis("test", committee=MEMBERS[:size])


@pytest.mark.spec("GENESIS-COMMITTEE.1")
@pytest.mark.parametrize("last", [MEMBERS[0], NodeId(b"short")])
def test_a_committee_names_each_member_once(last: NodeId) -> None:
    with pytest.raises(ParameterError, match="each member once"):
        Genesis("test", committee=(*MEMBERS[:3], last))


@given(st.text(max_size=100))
def test_any_text_parses_or_fails_cleanly(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_genesis(text)


CONTRACTS = Contracts(7, *(NodeId(bytes([place]) * 20) for place in range(1, 7)))
SETTLING = Genesis("test", 31_337, committee=MEMBERS[:4], contracts=CONTRACTS)


@pytest.mark.spec("GENESIS-CONTRACTS.1")
def test_a_genesis_names_the_contracts_that_it_settles_on() -> None:
    assert parse_genesis(SETTLING.to_json()) == SETTLING
    assert list(CONTRACTS.addresses()) == ["registry", "evidence", "checkpoints", "escrow", "inbox", "models"]


@pytest.mark.spec("GENESIS-CONTRACTS.1")
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"chain_id": 0}, "chain_id of their chain"),
        ({"committee": ()}, "there is a committee"),
        ({"allocation": ((MEMBERS[0], 1),)}, "no allocation"),
        ({"contracts": replace(CONTRACTS, escrow=CONTRACTS.inbox)}, "no two at one"),
        ({"contracts": replace(CONTRACTS, start_block=-1)}, "counts from 0"),
    ],
)
def test_contracts_that_could_not_settle_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        replace(SETTLING, **wrong)


@pytest.mark.spec("GENESIS-CONTRACTS.1", "TRUST-SINCE.1")
def test_a_genesis_may_say_since_when_its_committee_is_one() -> None:
    founded = replace(SETTLING, founded_s=1_800_000_000)
    assert parse_genesis(founded.to_json()) == founded
    assert founded.network_id() != SETTLING.network_id()
    for wrong in (-1, 2**40):
        with pytest.raises(ParameterError, match="founded_s"):
            replace(SETTLING, founded_s=wrong)
    with pytest.raises(ParameterError, match="no genesis file"):
        parse_genesis(changed(founded_s="yesterday"))
