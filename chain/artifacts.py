"""The compiled contracts, as they are committed: ``python -m chain.artifacts [--check]`` compiles them anew.

A node reads the artifacts and needs no compiler. The same sources give the same bytes on every machine: the compiler's
version, its settings and the names of the files are all that goes in. ``--check`` compares and writes nothing.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).with_name("contracts")
ARTIFACTS = Path(__file__).with_name("artifacts")

NAMES = ("NodeRegistry", "Evidence", "Checkpoints", "Escrow", "SessionInbox", "ModelRegistry")
"""The contracts, in the order in which they are deployed."""

COMPILER = "0.4.3"
EVM_VERSION = "cancun"
"""What every chain of today runs."""
RUNTIME_BYTES_MAX = 24_576
"""EIP-170: a chain takes no larger contract."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    """What is deployed, with the constructor's arguments behind it."""
    runtime: bytes
    """What then stands on the chain, without the immutable values behind it."""
    sources: str
    """The compiler's digest of the contract's source and of all modules that it imports."""
    compiler: str
    storage: dict[str, int] = field(default_factory=dict)
    """The slot of each variable, as the compiler lays them out."""


@cache
def load_artifact(name: str) -> Artifact:
    """A contract's artifact, as committed."""
    content = json.loads((ARTIFACTS / f"{name}.json").read_text())
    return Artifact(
        name,
        content["abi"],
        bytes.fromhex(content["bytecode"].removeprefix("0x")),
        bytes.fromhex(content["runtime"].removeprefix("0x")),
        content["sources"],
        content["compiler"],
        content["storage"],
    )


def compile_contract(name: str) -> str:
    """A contract's artifact, compiled from its source: the text of the file. Needs the package ``vyper``."""
    import vyper
    from vyper.compiler.input_bundle import FilesystemInputBundle
    from vyper.compiler.settings import OptimizationLevel, Settings

    if vyper.__version__.split("+")[0] != COMPILER:
        raise SystemExit(f"vyper {vyper.__version__}: the artifacts are made by {COMPILER}")
    bundle = FilesystemInputBundle([SOURCES])
    out = vyper.compile_from_file_input(
        bundle.load_file(f"{name}.vy"),
        input_bundle=bundle,
        output_formats=["abi", "bytecode", "bytecode_runtime", "integrity", "layout"],
        settings=Settings(optimize=OptimizationLevel.GAS, evm_version=EVM_VERSION),
    )
    content = {
        "contract": name,
        "compiler": vyper.__version__,
        "evm_version": EVM_VERSION,
        "sources": out["integrity"],
        "storage": _slots(out["layout"].get("storage_layout", {})),
        "abi": out["abi"],
        "bytecode": out["bytecode"],
        "runtime": out["bytecode_runtime"],
    }
    return json.dumps(content, indent=1) + "\n"


def _slots(layout: dict[str, Any]) -> dict[str, int]:
    """The slots of a contract's variables; those of a module go by its name and a point."""
    slots: dict[str, int] = {}
    for name, place in layout.items():
        if "slot" in place:
            slots[name] = place["slot"]
        else:
            slots |= {f"{name}.{inner}": slot for inner, slot in _slots(place).items()}
    return slots


def main(arguments: list[str]) -> None:
    """Write the artifacts, or compare them and exit with what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m chain.artifacts", description="Compile the contracts.")
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    args = parser.parse_args(arguments)
    known = {f"{name}.json" for name in NAMES}
    stale = [path.name for path in sorted(ARTIFACTS.glob("*.json")) if path.name not in known]
    for name in NAMES:
        path, made = ARTIFACTS / f"{name}.json", compile_contract(name)
        if (path.read_text() if path.exists() else "") == made:
            continue
        stale.append(path.name)
        if not args.check:
            ARTIFACTS.mkdir(exist_ok=True)
            path.write_text(made)
    if args.check and stale:
        raise SystemExit(f"not what the sources give: {', '.join(stale)}; run python -m chain.artifacts")


if __name__ == "__main__":
    main(sys.argv[1:])
