"""What a node's log holds, one object a line."""

import json
from pathlib import Path
from typing import Any


def logged(log: Path, *messages: str) -> list[dict[str, Any]]:
    """Its lines with these messages, in order."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [line for line in told if line["message"] in messages]
