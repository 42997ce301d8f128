"""``p2pnode api-key``: who may ask this node's HTTP surface, and how much."""

import argparse
from datetime import UTC, datetime
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_json, print_mapping, print_table

_LIMITS = {
    "requests_minute": "requests a minute",
    "tokens_minute": "tokens a minute, prompts and answers",
    "at_once": "requests at the same time",
    "tokens_total": "tokens in all",
    "wei_total": "what its answers may cost in all, in the ledger's units",
}


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "api-key", description="The keys that programs ask this node's HTTP surface with."
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, summary in (
        ("add", "make a key; it is shown this once"),
        ("list", "all keys with their limits and what they have used"),
        ("revoke", "take a key away; a running node goes by it at once"),
    ):
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name != "list":
            action.add_argument("name", metavar="NAME", help="what the key is called")
        if name == "add":
            for limit, what in _LIMITS.items():
                option = f"--{limit.replace('_', '-')}"
                action.add_argument(option, type=_count, default=0, metavar="N", help=f"{what} (default: see [http])")
        add_config_options(action)
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    """Do one thing with the keys. Raises ApiKeyError, ConfigError."""
    from p2pnode.http.keys import FILE, ApiKey, add_key, read_keys, revoke_key
    from p2pnode.http.limits import Usage, read_usage

    folder = config_of(args).node.state_dir
    if args.action == "add":
        limits = {limit: getattr(args, limit) for limit in _LIMITS}
        secret, key = add_key(folder, ApiKey(args.name, "", 0, **limits))
        _print_made(secret, key.name, key.id, args.json)
        return 0
    if args.action == "revoke":
        key = revoke_key(folder, args.name)
        print_json({"revoked": key.name}) if args.json else print(f"revoked: {key.name}")
        return 0
    usage = read_usage(folder)
    rows = [_row(key, usage.get(key.id, Usage())) for key in read_keys(folder / FILE)]
    if args.json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    else:
        print("no keys yet; make one: p2pnode api-key add NAME")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError("must be a whole number, 0 for the configuration's limit")
    return int(text)


def _print_made(secret: str, name: str, id_: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "id": id_[:16], "key": secret})
        return
    print_mapping({"name": name, "id": id_[:16], "key": secret})
    print(paint("Keep it now: only its hash is stored, and it is not shown again.", "yellow"))


def _row(key: Any, usage: Any) -> dict[str, Any]:
    limits = {limit: getattr(key, limit) or "-" for limit in _LIMITS}
    made = datetime.fromtimestamp(key.made_s, UTC).strftime("%Y-%m-%d")
    used = {"requests": usage.requests, "tokens": usage.tokens, "wei": usage.wei}
    return {"name": key.name, "id": key.id[:16], "made": made, **limits, **used}
