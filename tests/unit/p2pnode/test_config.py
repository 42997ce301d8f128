"""Configuration: where values come from, which are refused, and how exactly a complaint names its place."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from p2pnode.config import ConfigError, NodeConfig, load_config
from p2pnode.identity import NodeKey
from p2pnode.located_toml import LocatedToml
from p2pnode.transport.libp2p import Libp2pConfig
from protocol.core.genesis import Genesis
from protocol.core.params import Params

CONFIGS = Path(__file__).parents[3] / "configs"
FITTING = {
    "standalone": {"node", "network", "keys", "miner", "router", "http", "telemetry"},
    "testnet": {"node", "network", "keys", "miner", "router", "oracle", "chain", "testnet", "http", "telemetry"},
    "router": {"node", "network", "keys", "router", "chain", "http", "telemetry"},
    "miner": {"node", "network", "keys", "miner", "http", "telemetry"},
    "oracle": {"node", "network", "keys", "oracle", "chain", "http", "telemetry"},
    "light": {"node", "network", "keys", "chain", "http", "telemetry"},
}
NODE = f"/ip4/203.0.113.7/tcp/4001/p2p/{NodeKey(bytes(range(1, 33))).peer_id}"


def load(tmp_path: Path, text: str = "", overrides: dict[str, object] | None = None, **env: str) -> NodeConfig:
    path = tmp_path / "node.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides=overrides, env={"P2PNODE_HOME": str(tmp_path / "home"), **env})


def refusal(tmp_path: Path, text: str = "", overrides: dict[str, object] | None = None, **env: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, overrides, **env)
    assert caught.value.hint
    return caught.value


def keys_of(cls: Any) -> list[str]:
    return [item.name for item in fields(cls)]


SECTIONS: dict[str, Any] = {item.name: item.default_factory for item in fields(NodeConfig)}


def test_every_shipped_file_is_known() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == set(FITTING)


@pytest.mark.parametrize("name", FITTING)
def test_every_shipped_file_loads_and_has_every_key_with_a_comment(name: str, tmp_path: Path) -> None:
    path = CONFIGS / f"{name}.toml"
    load_config(path, env={"P2PNODE_HOME": str(tmp_path)})
    found: dict[str, list[str]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("["):
            found[line.strip("[]")] = section = []
        elif line and not line.startswith("#"):
            assert before.startswith("#"), f"{line} has no comment"
            section.append(line.partition(" =")[0])
    assert found == {section: keys_of(SECTIONS[section]) for section in FITTING[name]}


def test_the_standalone_file_is_what_no_file_gives(tmp_path: Path) -> None:
    env = {"P2PNODE_HOME": str(tmp_path)}
    assert load_config(CONFIGS / "standalone.toml", env=env) == load_config(env=env)


def test_files_differ_from_the_defaults_only_where_their_comments_say_so(tmp_path: Path) -> None:
    env = {"P2PNODE_HOME": str(tmp_path)}
    default = load_config(env=env)
    for name in FITTING:
        text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
        config = load_config(CONFIGS / f"{name}.toml", env=env)
        for section in FITTING[name]:
            for key in keys_of(SECTIONS[section]):
                at = text.index(f"\n{key} =", text.index(f"\n[{section}]\n"))
                comment = text[:at].rpartition("\n\n")[2].rpartition(" = ")[2]
                same = getattr(getattr(config, section), key) == getattr(getattr(default, section), key)
                assert same != ("Default:" in comment), f"{name}: {section}.{key}"


def test_an_oracle_runs_only_in_a_network_with_a_committee(tmp_path: Path) -> None:
    oracle = load_config(CONFIGS / "oracle.toml", env={"P2PNODE_HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="the genesis devnet names none") as caught:
        oracle.require_runnable()
    assert caught.value.code == "config/no-committee"
    load_config(env={}).require_runnable()
    committee = tuple(NodeKey(bytes([number]) * 32).node_id for number in range(1, 5))
    (tmp_path / "genesis.json").write_text(Genesis("own", committee=committee).to_json(), encoding="utf-8")
    load(tmp_path, "[node]\nroles = ['oracle']\n[network]\ngenesis = 'genesis.json'").require_runnable()


def test_paths_follow_from_home_and_state_dir(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.node.state_dir == tmp_path / "home" / "node"
    assert config.node.models_dir == tmp_path / "home" / "models"
    assert config.keys.keystore == tmp_path / "home" / "node" / "node-key.json"
    moved = load(tmp_path, '[node]\nstate_dir = "mine"\n[miner]\nmodel = "x.gguf"')
    assert moved.keys.keystore == tmp_path / "mine" / "node-key.json"  # relative to the file
    assert moved.miner.model == str(tmp_path / "x.gguf")


def test_home_by_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_config(env={}).node.state_dir == Path("/home/somebody/.local/share/p2pnode/node")
    assert load_config(env={"XDG_DATA_HOME": "/data"}).node.state_dir == Path("/data/p2pnode/node")
    assert load_config(env={"XDG_DATA_HOME": "not/absolute"}).node.state_dir.is_relative_to("/home/somebody")


def test_command_line_before_environment_before_file_before_default(tmp_path: Path) -> None:
    text = "[miner]\nslots = 5\nthreads = 5\ngpu_layers = 5"
    config = load(tmp_path, text, {"miner.slots": 7}, P2PNODE_MINER_SLOTS="6", P2PNODE_MINER_THREADS="6")
    assert (config.miner.slots, config.miner.threads, config.miner.gpu_layers) == (7, 6, 5)
    assert config.miner.price_wei == 0


def test_the_environment_gives_every_type(tmp_path: Path) -> None:
    listen = "/ip4/127.0.0.1/tcp/1, /ip6/::1/tcp/2"
    config = load(tmp_path, P2PNODE_NETWORK_LISTEN=listen, P2PNODE_NETWORK_MDNS="true", P2PNODE_NODE_NAME="it")
    assert config.network.listen == ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2")
    assert (config.network.mdns, config.node.name) == (True, "it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node]\n\nlog_levle = 'info'", "node.toml:3: unknown key log_levle in [node]; did you mean log_level?"),
        ("[network]\n[noed]\n", "node.toml:2: unknown section [noed]; did you mean node?"),
        ("[node]\nslots = 2", "node.toml:2: unknown key slots in [node]; it belongs into [miner]"),
        ("slots = 2\n", "node.toml:1: slots stands outside of a section"),
        ("[miner]\n# comment\nslots = 0", "node.toml:3: miner.slots = 0: must be a whole number from 1 to 256"),
        ("[testnet]\noracles = 5", "node.toml:2: testnet.oracles = 5: must be one of 0, 4, 7, 10, 13"),
        ("[testnet]\noracles = true", "node.toml:2: testnet.oracles = True: must be one of 0, 4, 7, 10, 13"),
        ("[miner]\nslots = '4'", "node.toml:2: miner.slots = '4': must be a whole number"),
        ("[miner]\nslots = true", "node.toml:2: miner.slots = True: must be a whole number"),
        (
            "[node]\nroles = ['minor']",
            "node.toml:2: node.roles = ['minor']: must be one of router, miner, oracle; did you",
        ),
        ("[node]\nroles = 'miner'", "node.toml:2: node.roles = 'miner': must be a list of roles"),
        ("[node]\nroles = ['miner', 'miner']", "names one of its roles twice"),
        ("[node]\nname = ''", "node.toml:2: node.name = '': must be text of 1 to 64"),
        (
            "[node]\nlog_level = 'warn'",
            "node.toml:2: node.log_level = 'warn': must be one of debug, info, warning, error",
        ),
        ("[network]\nmdns = 'yes'", "node.toml:2: network.mdns = 'yes': must be true or false"),
        (
            "[network]\nlisten = ['127.0.0.1:80']",
            "node.toml:2: network.listen = ['127.0.0.1:80']: the address 127.0.0.1:80",
        ),
        ("[network]\nannounce = ['/ip4/1.2.3.4/tcp/0']", "node.toml:2: network.announce"),
        ("[network]\nbootstrap = ['/ip4/1.2.3.4/tcp/1']", "must end in /p2p/"),
        ("[keys]\nkeystore = 1", "node.toml:2: keys.keystore = 1: must be a path"),
        ("[node]\nname = 'a'\nname = 'b'", "node.toml:3: Cannot overwrite a value"),
        ("[node]\nname = unquoted", "node.toml:2: Invalid value"),
        ("[node]\nx = '''\n[miner]\nslots = 1\n'''\n[miner]\nslots = 0", "node.toml:2: unknown key x"),
        ("[network]\nlisten = [\n'''\n[miner]\nslots = 1''',\n]\n[miner]\nslots = 0", "node.toml:2: network.listen"),
    ],
)
def test_a_complaint_names_file_line_and_cure(tmp_path: Path, text: str, said: str) -> None:
    assert said in str(refusal(tmp_path, text))


def test_lines_are_counted_past_what_only_looks_like_sections_and_keys(tmp_path: Path) -> None:
    text = '[node]\nname = "a"  # [miner]\n[network]\nannounce = [\n"""\n[miner]\nslots = 9\n"""]\n[miner]\nslots = 0'
    file = LocatedToml(Path("f"), text, {})
    assert [file.place("node", "name"), file.place("miner"), file.place("miner", "slots")] == ["f:2", "f:9", "f:10"]
    assert file.place("miner", "threads") == "f"


def test_complaints_about_environment_and_command_line(tmp_path: Path) -> None:
    assert "environment variable P2PNODE_MINER_SLOTS: miner.slots = 'x'" in str(
        refusal(tmp_path, P2PNODE_MINER_SLOTS="x")
    )
    assert "did you mean P2PNODE_MINER_SLOTS?" in str(refusal(tmp_path, P2PNODE_MINER_SLOT="4"))
    assert str(refusal(tmp_path, overrides={"node.roles": ["cook"]})).startswith("command line: node.roles")


@pytest.mark.parametrize("content", [b"[node]\nname = '\xff'", b"x" * 70_000])
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_config(path, env={})
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            load_config(missing, env={})


def test_genesis_built_in_and_from_a_file(tmp_path: Path) -> None:
    assert load(tmp_path).genesis() == Genesis("devnet")
    own = Genesis("own", 7, Params(bid_target=4))
    (tmp_path / "own.json").write_text(own.to_json(), encoding="utf-8")
    assert load(tmp_path, "[network]\ngenesis = 'own.json'").genesis() == own
    with pytest.raises(ConfigError, match=r"none\.json"):
        load(tmp_path, "[network]\ngenesis = 'none.json'").genesis()
    (tmp_path / "own.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot use the genesis .*own\.json: "):
        load(tmp_path, "[network]\ngenesis = 'own.json'").genesis()


def test_a_bootstrap_of_another_network_is_refused(tmp_path: Path) -> None:
    mine = Genesis("devnet").network_id().hex()
    assert (
        load(tmp_path, f"[network]\nbootstrap = ['{NODE}', '{NODE}?network={mine}']").network.bootstrap[0].network
        is None
    )
    assert "another network" in str(refusal(tmp_path, f"[network]\nbootstrap = ['{NODE}?network={'00' * 32}']"))


def test_the_password_comes_from_environment_or_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("first line\nsecond\n", encoding="utf-8")
    config = load(tmp_path, "[keys]\npassword_file = 'secret'")
    assert config.password({}) == "first line"
    assert config.password({"P2PNODE_PASSWORD": "env"}) == "env"
    assert load(tmp_path).password({}) == ""
    with pytest.raises(ConfigError, match="password file"):
        load(tmp_path, "[keys]\npassword_file = 'none'").password({})


def test_as_many_connections_may_be_asked_for_as_the_transport_can_hold() -> None:
    most = load_config(overrides={"network.connections_max": 800}, env={}).network.connections_max
    assert Libp2pConfig(connections=most).connections == 800
    with pytest.raises(ConfigError, match="connections_max = 801"):
        load_config(overrides={"network.connections_max": 801}, env={})
