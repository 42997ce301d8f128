"""The vectors of receipts as whoever is held to them reads them: see README.md."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vectors.receipts.edits import applied

FOLDER = Path(__file__).parent
MANIFEST, FIELDS = "manifest.json", "fields.json"


@dataclass(frozen=True)
class Vector:
    """A receipt, who reads it, and what it comes to."""

    name: str
    data: bytes
    reader: dict[str, Any]
    expected: dict[str, Any]
    """``verdict``, and with it ``level``, ``link``, ``skipped`` and ``untrusted`` as they apply."""


def manifest() -> list[Vector]:
    """Those that hold, and those that do not, link by link."""
    content = json.loads((FOLDER / MANIFEST).read_text())
    about = ("name", "file", "edits", "reader")
    return [
        Vector(
            case["name"],
            applied(_file(case["file"]), case["edits"]),
            content["readers"][case["reader"]],
            {name: value for name, value in case.items() if name not in about},
        )
        for case in content["cases"]
    ]


def fields() -> list[Vector]:
    """Receipts with each of their fields altered."""
    content = json.loads((FOLDER / FIELDS).read_text())
    readers = json.loads((FOLDER / MANIFEST).read_text())["readers"]
    return [
        Vector(name, applied(_file(of["file"]), edits), readers[of["reader"]], {"verdict": "invalid", "link": link})
        for of in content["receipts"]
        for name, link, edits in of["cases"]
    ]


def _file(name: str) -> bytes:
    return (FOLDER / name).read_bytes()
