"""``p2pnode committee``: who is in it, where each member is, and how long the blocks take."""

import argparse
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_json, print_table, shown


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "committee", description="The committee, as the oracle that runs here sees it."
    )
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the oracle and print what it says. Raises NoNodeRunning, ControlError, ConfigError."""
    from p2pnode.control import SOCKET, ask_control

    committee = ask_control(config_of(args).node.state_dir / SOCKET, "committee")
    if args.json:
        print_json(committee)
    else:
        _print(committee)
    return 0


def _print(committee: dict[str, Any]) -> None:
    final, gap = committee["final"], committee["gap_ms"]
    age = "" if final["age_ms"] is None else f", {seconds(final['age_ms'])} ago"
    print(f"{paint('epoch', 'bold')} {committee['epoch']}, height {committee['height']}, led by {committee['leader']}")
    print(f"final    height {final['height']}{age}; {final['outcomes']} outcomes since genesis")
    between = "no two blocks yet" if gap["p50"] is None else f"p50 {seconds(gap['p50'])}, p99 {seconds(gap['p99'])}"
    print(f"gaps     {between} between final blocks")
    print(f"signing  {committee['signing']}")
    print(f"waiting  {committee['batches_waiting']} batches")
    print(f"evidence {committee['evidence']} pieces")
    for line in chain_lines(committee.get("chain")):
        print(line)
    rows = []
    for member in committee["members"]:
        heard = "-" if member["heard_ms"] is None else seconds(member["heard_ms"])
        height, lag = shown(member["height"]), shown(member["lag"])
        place = f"{member['place']}{' leads' if member['leader'] else ''}"
        rows.append([place, member["node"], member["link"], height, lag, heard])
    print(f"\n{committee['quorum']} of {len(rows)} members decide\n")
    print_table(["place", "node", "link", "height", "lag", "heard"], rows)


def chain_lines(chain: dict[str, Any] | None) -> list[str]:
    """How far the chain is that the network settles on; nothing where this oracle looks at none."""
    if chain is None:
        return []
    at = f"final block {chain['finalized']}, the ledger is anchored at {chain['anchor']}, {chain['lag_blocks']} behind"
    last = chain["checkpoint"]
    settled = "none yet" if last is None else f"{last['epoch']}/{last['height']}"
    if chain["ahead"] is not None:
        settled += f", the committee is {chain['ahead']} heights ahead"
    lines = [f"chain    {at}", f"settled  {settled}; {chain['transactions']} transactions under way"]
    if chain["last"]:
        lines.append(f"         last: {chain['last']}")
    return [*lines, f"         {paint('trouble', 'red')}: {chain['trouble']}"] if chain["trouble"] else lines


def seconds(duration_ms: int) -> str:
    """A time as a person reads it."""
    return f"{duration_ms} ms" if duration_ms < 1_000 else f"{duration_ms / 1_000:.1f} s"
