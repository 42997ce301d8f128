"""The verifier in JavaScript, run by Node: questions in, verdicts out."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
INSTALL = "npm install --prefix tests/browser"

_NODE_MIN = (20, 19)


@cache
def missing() -> str:
    """What there is not of what the verifier needs here; empty where it can be run."""
    node = shutil.which("node")
    if node is None:
        return f"no Node here; install version {_NODE_MIN[0]}.{_NODE_MIN[1]} or later, then: {INSTALL}"
    shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    version = tuple(int(part) for part in shown.removeprefix("v").split(".")[:2])
    if version < _NODE_MIN:
        return f"Node is {shown}, it takes {_NODE_MIN[0]}.{_NODE_MIN[1]} or later"
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    for name, pinned in wanted.items():
        installed = FOLDER / "node_modules" / name / "package.json"
        if not installed.exists() or json.loads(installed.read_text())["version"] != pinned:
            return f"{name} {pinned} is not installed: {INSTALL}"
    return ""


def question(receipt: bytes | None = None, reader: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """One line for ``check.js --lines``; without a receipt it is about the one of the line before."""
    told = {} if receipt is None else {"receipt": base64.b64encode(receipt).decode()}
    return {**told, **(reader or {}), **more}


def verdicts(questions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the verifier says to each, in one process."""
    lines = "".join(json.dumps(asked) + "\n" for asked in questions)
    command = ["node", str(FOLDER / "check.js"), "--lines"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
