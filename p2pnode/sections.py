"""The sections of a configuration: every value that an operator may set, its default and its check."""

from dataclasses import dataclass, field
from pathlib import Path

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.setting import (
    UNSET,
    account,
    announced_address,
    each,
    each_as,
    endpoint,
    endpoint_if_any,
    flag,
    http_listen,
    listen_address,
    name_or_path,
    number,
    number_of,
    one_of,
    path,
    setting,
    text,
    web_origin,
)
from protocol.core.ids import NodeId

DEVNET = "devnet"
"""The name of the built-in network: default parameters, no chain."""

ROLES = ("router", "miner", "oracle")
LOCAL_CHAINS = ("auto", "anvil", "embedded", "none")
KEY_RULES = ("auto", "required", "none")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "human", "json")

_GENESIS = name_or_path(is_path=lambda name: name != DEVNET)
_MODEL = name_or_path(is_path=lambda name: name.startswith((".", "/", "~")) or name.endswith(".gguf"))


@dataclass(frozen=True, slots=True)
class NodeSection:
    """``[node]``: what this process is."""

    roles: tuple[str, ...] = field(
        default=("router", "miner"),
        metadata=setting(
            each(one_of(ROLES), "roles"), "What the node does: router, miner, oracle. An empty list is a light client."
        ),
    )
    state_dir: Path = field(
        default=UNSET,
        metadata=setting(path, "The node's own folder: key, database, control socket. Empty: node/ in $P2PNODE_HOME."),
    )
    models_dir: Path = field(
        default=UNSET,
        metadata=setting(path, "Model files, shared by all nodes of a user. Empty: models/ in $P2PNODE_HOME."),
    )
    name: str = field(
        default="p2pnode",
        metadata=setting(text(64), "What the node is called in its own logs and tables; never sent anywhere."),
    )
    stop_s: int = field(
        default=30,
        metadata=setting(
            number(0, 3_600),
            "Seconds that a stop waits for running answers and for the outcomes of a miner's results. 0: it does not.",
        ),
    )
    log_level: str = field(default="info", metadata=setting(one_of(LOG_LEVELS), "debug, info, warning or error."))


@dataclass(frozen=True, slots=True)
class NetworkSection:
    """``[network]``: which network, and how it is reached."""

    genesis: str = field(
        default=DEVNET,
        metadata=setting(_GENESIS, "The network's genesis file, or devnet, the built-in one for trying out."),
    )
    listen: tuple[str, ...] = field(
        default=("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"),
        metadata=setting(
            each(listen_address, "addresses"),
            "Addresses to listen on. Port 0 takes a free one; 0.0.0.0 lets other machines in; /ws is for browsers.",
        ),
    )
    announce: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each(announced_address, "addresses"),
            "Addresses to tell others instead, when they reach this node by another way.",
        ),
    )
    bootstrap: tuple[RouterAddress, ...] = field(
        default=(),
        metadata=setting(
            each(parse_router_address, "addresses"),
            "Addresses of nodes to join the network by. Empty: this node is the first.",
        ),
    )
    mdns: bool = field(
        default=False,
        metadata=setting(flag, "Find nodes on the local network without bootstrap; needs pip install 'p2pnode[mdns]'."),
    )
    connections_max: int = field(
        default=128, metadata=setting(number(4, 800), "Connections held at most; three file descriptors each.")
    )


@dataclass(frozen=True, slots=True)
class KeysSection:
    """``[keys]``: the node key."""

    keystore: Path = field(
        default=UNSET,
        metadata=setting(path, "The node key's file (Web3 keystore v3). Empty: node-key.json in state_dir."),
    )
    password_file: Path | None = field(
        default=None,
        metadata=setting(
            path, "A file whose first line is the keystore's password. Empty: $P2PNODE_PASSWORD, else no password."
        ),
    )


@dataclass(frozen=True, slots=True)
class MinerSection:
    """``[miner]``: what is served and on what terms."""

    model: str = field(
        default="tiny",
        metadata=setting(_MODEL, "Name, digest or path of the model served; `p2pnode model list` shows them."),
    )
    slots: int = field(
        default=4,
        metadata=setting(
            number(1, 256),
            "Answers generated at the same time; where there are oracles one more is kept for their tests.",
        ),
    )
    threads: int = field(
        default=0, metadata=setting(number(0, 1024), "CPU threads of the engine. 0: half of the cores, at least one.")
    )
    context_tokens: int = field(
        default=0,
        metadata=setting(
            number(0, 1 << 20),
            "Prompt and answer of one slot together, at most. 0: what the model was trained for, up to 4096.",
        ),
    )
    price_wei: int = field(
        default=0,
        metadata=setting(
            number(0, 2**63 - 1),
            "Asked per token of an answer, in the ledger's units; 0 is 1 on a testnet with oracles.",
        ),
    )
    gpu_layers: int = field(
        default=0, metadata=setting(number(0, 1024), "Layers of the model kept on the GPU; 0: none.")
    )
    owner: NodeId | None = field(
        default=None,
        metadata=setting(
            account,
            "The account that is paid for answers, as 0x...; of a registered node it is the registered owner. "
            "Empty: this node's own.",
        ),
    )
    tokens_per_second: int = field(
        default=0,
        metadata=setting(
            number(0, 1_000_000), "Claimed for one stream; who is tested much slower is not let in. 0: nothing."
        ),
    )


@dataclass(frozen=True, slots=True)
class RouterSection:
    """``[router]``: how much this machine takes on; never more than the network's parameters allow."""

    sessions_max: int = field(
        default=0, metadata=setting(number(0, 65_536), "Sessions held at once. 0: as many as the network allows.")
    )
    queue_requests_max: int = field(
        default=0, metadata=setting(number(0, 65_536), "Requests that wait at once. 0: as many as the network allows.")
    )
    inbox: bool = field(
        default=False,
        metadata=setting(flag, "Whether it answers what is asked through the inbox on the chain; needs [chain] urls."),
    )
    inbox_fee: int = field(
        default=0,
        metadata=setting(
            number(0, 2**63 - 1), "What a question through the inbox costs at least, in the coin's smallest unit."
        ),
    )
    inbox_token_fee: int = field(
        default=0,
        metadata=setting(
            number(0, 2**63 - 1),
            "And at least so much for each token that is asked for; what pays less is not answered.",
        ),
    )


@dataclass(frozen=True, slots=True)
class HttpSection:
    """``[http]``: what a router serves to plain HTTP clients, and any node to who watches it."""

    listen: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each(http_listen, "addresses"), "Where a router serves the OpenAI API, as HOST:PORT. Empty: nowhere."
        ),
    )
    metrics: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each(http_listen, "addresses"),
            "Where /metrics, /health and /ready alone are served, by any role, without a key. Empty: nowhere.",
        ),
    )
    keys: str = field(
        default="auto",
        metadata=setting(
            one_of(KEY_RULES), "Whether API keys are needed: required, none, or auto: unless it is loopback only."
        ),
    )
    origins: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each(web_origin, "origins"),
            'Origins whose web pages may call, such as "https://app.example.org"; "*": all.',
        ),
    )
    requests_minute: int = field(
        default=600,
        metadata=setting(
            number(0, 1_000_000), "Requests a minute of one key, or of another machine without one. 0: no limit."
        ),
    )
    tokens_minute: int = field(
        default=0,
        metadata=setting(number(0, 2**40), "Tokens a minute of one key, prompts and answers. 0: no limit."),
    )
    at_once: int = field(
        default=64, metadata=setting(number(1, 65_536), "Requests of one key that run at the same time.")
    )
    at_once_all: int = field(
        default=256, metadata=setting(number(1, 65_536), "Requests of all that run at the same time.")
    )
    body_bytes_max: int = field(default=4 << 20, metadata=setting(number(1 << 10, 1 << 28), "Of one request's body."))
    clients_max: int = field(default=512, metadata=setting(number(1, 65_536), "Connections of clients held at once."))
    slow_s: int = field(
        default=30,
        metadata=setting(
            number(1, 3_600), "Seconds that a client may take to send a request, or take an answer's part."
        ),
    )


@dataclass(frozen=True, slots=True)
class TelemetrySection:
    """``[telemetry]``: logs, traces, and how figures are named."""

    log_format: str = field(
        default="auto",
        metadata=setting(
            one_of(LOG_FORMATS), "How it logs: human, json, or auto: human on a terminal, JSON lines elsewhere."
        ),
    )
    log_prompts: bool = field(
        default=False,
        metadata=setting(flag, "Log prompts and answers, too. They are what people said to a machine in confidence."),
    )
    spans_file: Path | None = field(
        default=None,
        metadata=setting(
            path, "Where spans of every task are written, as JSON lines; several nodes may share it. Empty: nowhere."
        ),
    )
    otlp: str = field(
        default="",
        metadata=setting(
            endpoint_if_any,
            "An OpenTelemetry collector that spans are sent to; needs pip install 'p2pnode[otel]'. Empty: none.",
        ),
    )
    vllm_names: bool = field(
        default=False,
        metadata=setting(flag, "Give figures under the names of vLLM as well, for dashboards made for those."),
    )


@dataclass(frozen=True, slots=True)
class OracleSection:
    """``[oracle]``: what miners are tested with."""

    models: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each_as(_MODEL, "models"),
            "Models whose miners this oracle tests, each loaded only while it does; of others it says nothing.",
        ),
    )
    threads: int = field(
        default=1, metadata=setting(number(0, 1024), "CPU threads of a test's engine. 0: half of the cores.")
    )
    gpu_layers: int = field(
        default=0, metadata=setting(number(0, 1024), "Layers of a tested model kept on the GPU; 0: none.")
    )


@dataclass(frozen=True, slots=True)
class ChainSection:
    """``[chain]``: where the network settles, if its genesis names contracts."""

    urls: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each(endpoint, "endpoints"),
            "JSON-RPC endpoints of the network's chain; the first that is well is asked. Empty: it sees no chain.",
        ),
    )
    confirmations: int = field(
        default=0,
        metadata=setting(
            number(0, 10_000), "Blocks on top of one that make it final, where a chain marks none as final. 0: it does."
        ),
    )
    enabled: bool = field(
        default=True,
        metadata=setting(flag, "Whether an oracle looks at the chain and settles there; without, others do."),
    )
    key: Path | None = field(
        default=None,
        metadata=setting(path, "The keystore whose account pays for transactions. Empty: the node's own key."),
    )
    key_password_file: Path | None = field(
        default=None,
        metadata=setting(path, "A file whose first line is that keystore's password. Empty: as for the node's key."),
    )


@dataclass(frozen=True, slots=True)
class TestnetSection:
    """``[testnet]``: what `p2pnode testnet up` starts."""

    routers: int = field(default=1, metadata=setting(number(1, 4), "Routers, each a process of its own."))
    miners: int = field(default=3, metadata=setting(number(1, 16), "Miners, each a process of its own."))
    oracles: int = field(
        default=4,
        metadata=setting(
            number_of((0, 4, 7, 10, 13)), "Oracles, each a process of its own: 0, 4, 7, 10 or 13. 0: no committee."
        ),
    )
    chain: str = field(
        default="auto",
        metadata=setting(
            one_of(LOCAL_CHAINS),
            "The chain that it settles on, started with it: anvil, embedded, none; auto: anvil where installed.",
        ),
    )
