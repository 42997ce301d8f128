"""``p2pnode model``: the models of this machine."""

import argparse
from pathlib import Path
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import ProgressLine, bytes_shown, print_json, print_mapping, print_table


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("model", description="The models of this machine.")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, summary in (
        ("list", "the models that are here"),
        ("show", "everything about one"),
        ("add", "copy a GGUF file into the store"),
        ("verify", "hash a model's file again and compare; all models if none is named"),
        ("remove", "delete an added model"),
    ):
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == "add":
            action.add_argument("file", type=Path, metavar="FILE", help="a model in GGUF format")
            action.add_argument("--name", help="what to call it (default: by the file's own metadata)")
        elif name == "verify":
            action.add_argument("model", nargs="?", metavar="MODEL", help="its name, digest or path")
        elif name != "list":
            action.add_argument("model", metavar="MODEL", help="its name, digest or path")
        add_config_options(action)
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    """Do one thing with the models. Raises ModelStoreError, CorruptModel, ConfigError."""
    from p2pnode.models.store import ModelStore

    store = ModelStore(config_of(args).node.models_dir)
    actions = {"list": _list, "show": _show, "add": _add, "verify": _verify, "remove": _remove}
    actions[args.action](store, args)
    return 0


def _list(store: Any, args: argparse.Namespace) -> None:
    models = [_described(model) for model in store.models()]
    if args.json:
        print_json(models)
        return
    rows = [
        [model["name"], model["digest"][:12], model["quantization"], bytes_shown(model["file_bytes"]),
         str(model["context_tokens"]), "package" if model["shipped"] else "store"]
        for model in models
    ]  # fmt: skip
    print_table(["name", "digest", "type", "size", "context", "where"], rows)


def _show(store: Any, args: argparse.Namespace) -> None:
    with ProgressLine("hashing") as progress:
        _print(_described(store.resolve(args.model, progress)), args)


def _add(store: Any, args: argparse.Namespace) -> None:
    with ProgressLine(f"adding {args.file.name}") as progress:
        manifest = store.add(args.file, args.name, progress)
    _print(_described(store.resolve(manifest.digest().hex())), args)


def _verify(store: Any, args: argparse.Namespace) -> None:
    models = store.models() if args.model is None else [store.resolve(args.model)]
    for model in models:
        with ProgressLine(f"hashing {model.manifest.name}") as progress:
            store.verify(model, progress)
        if not args.json:
            print(f"{model.manifest.name}: ok, sha256 {model.manifest.file_sha256.hex()}")
    if args.json:
        print_json([_described(model) for model in models])


def _remove(store: Any, args: argparse.Namespace) -> None:
    removed = _described(store.remove(args.model))
    if args.json:
        print_json(removed)
    else:
        print(f"removed {removed['name']}")


def _described(model: Any) -> dict[str, Any]:
    from p2pnode.models.store import manifest_json

    digest = {"digest": model.manifest.digest().hex()}
    return {**manifest_json(model.manifest), **digest, "path": str(model.path), "shipped": model.shipped}


def _print(described: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print_json(described)
    else:
        print_mapping(described)
