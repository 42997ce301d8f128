"""The style of this repository, as far as a test can hold it."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spec import CODE, ROOT, python_files

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70
BANNED_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common", "main"}

ALL_FILES = python_files(*CODE, "tests")
NAMES = [str(path.relative_to(ROOT)) for path in ALL_FILES]


def _nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", ALL_FILES, ids=NAMES)
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX
    assert path.stem not in BANNED_NAMES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in _nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


@pytest.mark.parametrize("path", python_files("tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_wait_for_nothing(path: Path) -> None:
    sleeps = [node.lineno for node in _nodes(path) if isinstance(node, ast.Call) and _is_sleep(node)]
    assert sleeps == [], "tests run on virtual time or wait for an event"


def _is_sleep(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "time.sleep"


@pytest.mark.parametrize(
    "path", python_files("protocol/core", "protocol/messages"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_signed_or_agreed_is_a_float(path: Path) -> None:
    floats = [
        node.lineno
        for node in _nodes(path)
        if (isinstance(node, ast.Name) and node.id == "float")
        or (isinstance(node, ast.Constant) and isinstance(node.value, float))
    ]
    assert floats == []


@pytest.mark.parametrize("path", python_files("protocol"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_protocol_is_pure(path: Path) -> None:
    imported = {name.split(".")[0] for node in _nodes(path) for name in _imports(node)}
    assert imported & _impure_modules() == set()


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _impure_modules() -> set[str]:
    """The list that import-linter goes by; here it is checked without its graph, function bodies included."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    pure = next(contract for contract in contracts if contract["name"] == "protocol is sans-IO and deterministic")
    return set(pure["forbidden_modules"])
