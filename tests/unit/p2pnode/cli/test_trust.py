"""``p2pnode trust``: strings that are shown, added and listed."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chain.api import NamedCommittee
from p2pnode.cli.entry import main
from p2pnode.hand_over_answers import QUESTION, shown_hand_overs
from p2pnode.trust_store import own_trust
from protocol.light.handovers import HandOverStore
from protocol.light.headers import ReadersTime
from protocol.light.trust import parse_trust, show_trust
from protocol.light.trust_book import LightBook
from tests.unit.protocol.trust_at_hand import DAY_S, PERIOD_S, THIEF, Net

pytestmark = pytest.mark.spec("TRUST-SHOWN.1")

NOW_S = int(time.time())


class At(Net):
    """The same with an epoch a day, of which the first began so many days ago."""

    def __init__(self, days: int) -> None:
        self.since_s = NOW_S - days * DAY_S
        super().__init__(founded_s=self.since_s)

    def begins_s(self, epoch: int) -> int:
        return self.since_s + (epoch - 1) * self.epoch_s


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        status = main(["trust", *map(str, args)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def genesis_file(net: Net, tmp_path: Path) -> Path:
    path = tmp_path / "genesis.json"
    path.write_text(net.genesis.to_json())
    return path


def follow(net: Net, epochs: int) -> None:
    """As a chat of today would have."""
    book = LightBook(net.genesis, time=ReadersTime(NOW_S))
    book.take([net.hand_over(epoch) for epoch in range(1, epochs)])
    own_trust().save(book.kept())


def test_what_is_shown_by_one_is_added_by_another(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = At(days=4)
    follow(net, 4)
    status, out, _ = run("show", "--json")
    shown = json.loads(out)
    assert (status, shown["epoch"]) == (0, 4)
    assert parse_trust(shown["string"]) == net.point(4, time_s=net.begins_s(3))
    assert run("show", net.genesis.network_id().hex()[:6])[1].splitlines()[0] == shown["string"]
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "other"))
    assert run("list")[1].startswith("No network is known")
    status, out, _ = run("add", shown["string"])
    assert (status, "members are not known" in out) == (0, True)
    assert json.loads(run("list", "--json")[1])[0]["epoch"] == 4
    status, _, err = run("show")
    assert (status, shown["string"] in err) == (1, True)
    status, out, _ = run("add", shown["string"], "--genesis", genesis_file(net, tmp_path), "--json")
    assert (status, json.loads(out)["name"]) == (0, "trust")
    listed = json.loads(run("list", "--json")[1])
    assert [(row["epoch"], row["state"]) for row in listed] == [(4, "believed")]


def test_a_network_that_was_left_alone_for_too_long_is_listed_as_that(run: Run, tmp_path: Path) -> None:
    net = At(days=8)
    status, out, _ = run("add", "--genesis", genesis_file(net, tmp_path))
    assert (status, "too old" in out) == (0, True)
    fresh = show_trust(net.point(8))
    assert run("add", fresh)[0] == 0
    (row,) = json.loads(run("list", "--json")[1])
    assert (row["epoch"], row["state"]) == (8, "believed")
    assert "too old" not in run("list")[1]


def test_what_cannot_be_believed_is_refused_with_what_to_do(run: Run, tmp_path: Path) -> None:
    net = At(days=4)
    follow(net, 4)
    string = show_trust(net.point(3))
    to_come = show_trust(net.point(4, time_s=NOW_S + PERIOD_S))
    for arguments, told in (
        (["add"], "nothing to add"),
        (["add", string[:-1]], "trust string"),
        (["add", string[:30] + "AB" + string[32:]], "checksum"),
        (["add", "hello"], "no trust string"),
        (["add", to_come], "time to come"),
        (["add", show_trust(net.point(3, members=THIEF))], "another committee"),
        (["add", show_trust(At(days=5).point(3)), "--genesis", genesis_file(net, tmp_path)], "another network"),
        (["add", "--genesis", tmp_path / "none.json"], "no genesis file"),
        (["show", "ffffffffffff"], "name one network"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (1, ""), arguments
        assert told in err
        assert "next:" in err
    assert run("add", show_trust(net.point(3, members=THIEF)), "--replace")[0] == 0


def test_the_first_committee_of_a_genesis_file_can_be_shown(run: Run, tmp_path: Path) -> None:
    net = At(days=1)
    _, out, _ = run("show", "--genesis", genesis_file(net, tmp_path), "--json")
    assert parse_trust(json.loads(out)["string"]) == net.point(1)
    alone = replace(net.genesis, committee=(), contracts=None)
    (tmp_path / "alone.json").write_text(alone.to_json())
    status, _, err = run("show", "--genesis", tmp_path / "alone.json")
    assert (status, "no committee" in err) == (1, True)


@pytest.mark.parametrize(
    ("roles", "age_ms", "time_s"),
    [
        (["oracle"], 4_000, NOW_S - 4),
        (["oracle"], None, None),
        (["router"], 4_000, None),
    ],
)
def test_a_node_shows_the_committee_that_it_follows(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, roles: list[str], age_ms: int | None, time_s: int | None
) -> None:
    net = At(days=30)
    store = HandOverStore()
    for epoch in range(1, 31):
        store.keep(net.hand_over(epoch))

    def ask(_: Path, what: str) -> dict[str, Any]:
        if what.startswith(QUESTION):
            return shown_hand_overs(store, what)
        answers: dict[str, dict[str, Any]] = {
            "genesis": {"genesis": net.genesis.to_json()},
            "status": {"roles": roles},
            "committee": {"epoch": 30, "final": {"age_ms": age_ms}},
        }
        return answers[what]

    monkeypatch.setattr("p2pnode.control.ask_control", ask)
    status, out, _ = run("show", "--state-dir", tmp_path, "--json")
    point = parse_trust(json.loads(out)["string"])
    assert status == 0
    if time_s is None:
        assert point == net.point(31, time_s=net.begins_s(30))
    else:
        assert point.epoch == 30
        assert abs(point.time_s - time_s) < 300


@pytest.mark.spec("TRUST-POINT.1")
def test_what_the_contract_names_is_believed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = At(days=30)
    point = net.point(30)

    class Contract:
        def committee(self) -> NamedCommittee:
            return NamedCommittee(30, point.committee_root, point.time_s)

    monkeypatch.setattr("p2pnode.chain_access.open_reading", lambda genesis, urls: Contract())
    status, _, err = run("add", "--rpc", "http://127.0.0.1:1")
    assert (status, "name one network" in err) == (1, True)
    assert run("add", "--rpc", "http://127.0.0.1:1", "--genesis", genesis_file(net, tmp_path))[0] == 0
    (row,) = json.loads(run("list", "--json")[1])
    assert (row["epoch"], row["state"]) == (30, "believed")
    assert run("add", "--rpc", "http://127.0.0.1:1")[0] == 0, "the network is known by now"
    alone = Net(settles=False)
    status, _, err = run("add", "--rpc", "http://127.0.0.1:1", "--genesis", genesis_file(alone, tmp_path))
    assert (status, "settles on no chain" in err) == (1, True)
