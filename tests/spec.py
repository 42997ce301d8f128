"""SPEC.md, the code and the tests, kept together: ``python -m tests.spec`` checks, ``--rewrite`` regenerates.

A rule stands in SPEC.md as ``**[AREA-NAME.n]** text``. Its tag appears in the docstring of the code that holds
it and on a test, as ``@pytest.mark.spec("AREA-NAME.n")``. Tables and diagrams in SPEC.md are generated from
the code, between ``<!-- generated:name -->`` and ``<!-- /generated -->``.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

import protocol.messages
from protocol import gossip
from protocol.core.codec import Message, registered
from protocol.core.params import Params
from protocol.core.signing import TypedStruct, type_string
from protocol.session.lifecycle import SESSION_TABLE, TASK_TABLE, TERMINAL_CODES
from tests import receipt_grammar

for _module in pkgutil.iter_modules(protocol.messages.__path__):
    importlib.import_module(f"protocol.messages.{_module.name}")

ROOT = Path(__file__).parent.parent
SPEC = ROOT / "protocol" / "SPEC.md"
CODE = ("protocol", "p2pnode", "chain")

TAG = re.compile(r"\[([A-Z][A-Z0-9]*(?:-[A-Z0-9]+)*\.\d+)\]")
RULE = re.compile(r"^\*\*\[([A-Z0-9.-]+)\]\*\*", re.MULTILINE)
QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
"""A docstring of a contract."""
BLOCK = re.compile(r"(<!-- generated:(\w+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)

SEALED = {"Advert", "Announcement", "Bid", "BidReceipt", "BidSet", "CommitteeNews", "Commits"}
"""Kinds that are signed as ``Kind(bytes payload)`` in an Envelope."""

SIGNED_PARTS = {
    "Envelope": "`Kind(bytes payload)`",
    "FrameMessage": "`Frame` and `FrameLogProbs`",
    "Embedded": "`EmbedResult`",
    "Propose": "`Proposal`",
    "State": "`Vote`, `Nullify` or `Finalize`",
    "Certified": "2f+1 of `Vote`, `Nullify` or `Finalize`",
    "Offer": "`Batch`",
    "Recalled": "each statement and `Batch`",
    "SyncPage": "each certificate",
}
"""Kinds whose signed struct is not one of their fields."""


def tags_in_spec() -> set[str]:
    """The rules that SPEC.md states."""
    return set(RULE.findall(SPEC.read_text()))


def tags_in_code() -> set[str]:
    """The rules that docstrings of the code name."""
    return {tag for docstring in _docstrings() for tag in TAG.findall(docstring)}


def _docstrings() -> Iterator[str]:
    for path in python_files(*CODE):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""
    for path in (ROOT / "chain" / "contracts").glob("*.vy"):
        yield from QUOTED.findall(path.read_text())


def tags_on_tests() -> set[str]:
    """The rules that tests are marked with."""
    marks: set[str] = set()
    for path in python_files("tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec":
                marks |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return marks


def python_files(*folders: str) -> list[Path]:
    """All Python files of some top-level folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def rewritten() -> str:
    """SPEC.md with every generated block as the code has it now."""
    return BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[4], SPEC.read_text())


def _params_table() -> str:
    rows = [
        (
            f"`{item.name}`",
            f"{item.default:,}",
            f"{item.metadata['low']:,}",
            f"{item.metadata['high']:,}",
            item.metadata["doc"],
        )
        for item in fields(Params)
    ]
    return _table(("name", "default", "low", "high", "meaning"), rows)


def _messages_table() -> str:
    rows = [
        (str(kind), f"`{cls.__name__}`", f"{cls.LIMIT_BYTES:,}", _first_line(cls), _signed_how(cls))
        for kind, cls in registered().items()
    ]
    return _table(("kind", "name", "limit, bytes", "what it is", "signed"), rows)


def _signed_how(cls: type[Message]) -> str:
    if cls.__name__ in SEALED:
        return "in an Envelope"
    if cls.__name__ in SIGNED_PARTS:
        return SIGNED_PARTS[cls.__name__]
    annotations = inspect.get_annotations(cls).values()
    typed = [hint.__name__ for hint in annotations if isinstance(hint, type) and issubclass(hint, TypedStruct)]
    signed = "signature" in cls.__struct_fields__
    return ", ".join(f"`{name}`" for name in typed) if signed else "no: its stream's peer says it"


def _types_list() -> str:
    structs = sorted(TypedStruct.__subclasses__(), key=lambda cls: cls.__name__)
    ours = [cls for cls in structs if cls.__module__.startswith("protocol.")]
    return "".join(f"- `{type_string(cls)}`\n" for cls in ours)


def _gossip_rules() -> str:
    lines = re.findall(r"^ *# (\[(?:REJECT|IGNORE)\] .*)$", inspect.getsource(gossip), re.MULTILINE)
    topics = ", ".join(f"`{name}` carries `{topic.carries.__name__}`" for name, topic in gossip.TOPICS.items())
    return "".join(f"{number}. {line}\n" for number, line in enumerate(lines, 1)) + f"\nTopics: {topics}.\n"


def _lifecycle() -> str:
    codes = _table(("code", "meaning"), [(f"`{code}`", text) for code, text in TERMINAL_CODES.items()])
    return f"A session:\n\n{_diagram(SESSION_TABLE)}\nA task:\n\n{_diagram(TASK_TABLE)}\nTerminal codes:\n\n{codes}"


def _diagram(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> str:
    start = next(iter(table))
    lines = [f"    [*] --> {start.value}"]
    lines += [
        f"    {state.value} --> {after.value}: {fact.value}"
        for state, row in table.items()
        for fact, after in row.items()
    ]
    lines += [f"    {state.value} --> [*]" for state, row in table.items() if not row]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def _first_line(cls: type) -> str:
    line = (inspect.getdoc(cls) or "").splitlines()[0]
    return re.sub(r":\w+:`[\w.]*?(\w+)`", r"`\1`", line).replace("``", "`")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "params": _params_table,
    "messages": _messages_table,
    "types": _types_list,
    "gossip": _gossip_rules,
    "lifecycle": _lifecycle,
    "receipt": lambda: receipt_grammar.grammar() + "\n" + receipt_grammar.meanings(),
}


def complaints() -> list[str]:
    """What is out of step, one line each; empty when all is well."""
    spec, code, tests = tags_in_spec(), tags_in_code(), tags_on_tests()
    found = [f"[{tag}] of SPEC.md is in no docstring" for tag in sorted(spec - code)]
    found += [f"[{tag}] of SPEC.md is on no test" for tag in sorted(spec - tests)]
    found += [f"[{tag}] of the code is not in SPEC.md" for tag in sorted(code - spec)]
    found += [f"[{tag}] of a test is not in SPEC.md" for tag in sorted(tests - spec)]
    if rewritten() != SPEC.read_text():
        found.append("generated blocks of SPEC.md are not current: python -m tests.spec --rewrite")
    return found


def main() -> int:
    """Check, after rewriting if asked to."""
    if "--rewrite" in sys.argv[1:]:
        SPEC.write_text(rewritten())
    for line in complaints():
        print(line)
    return 1 if complaints() else 0


if __name__ == "__main__":
    sys.exit(main())
