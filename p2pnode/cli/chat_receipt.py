"""``p2pnode chat --receipt``: the answer's receipt in a file, written anew whenever the answer has risen."""

import argparse
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from p2pnode.cli.output import paint
from p2pnode.config import ConfigError

if TYPE_CHECKING:
    from p2pnode.answer import Answer


def add_receipt_option(parser: argparse.ArgumentParser) -> None:
    """``--receipt``."""
    parser.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="write the answer's receipt there, of a conversation the last answer's; `p2pnode verify` checks it",
    )


def check_receipt_option(path: Path | None) -> None:
    """Raises ConfigError for a file that could not be written: before anything is asked and paid for."""
    if path is None:
        return
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--receipt {path} cannot be written", hint="name a file in a folder that you can write to")


@asynccontextmanager
async def keeping_receipt(path: Path | None, answer: "Answer") -> AsyncIterator[None]:
    """Write the receipt of an answer that has ended, and again as it rises for as long as the block lasts.

    Raises ReceiptFileError, ReceiptTooLong.
    """
    import trio

    from p2pnode.transport.unwrap import unwrapped

    if path is None or answer.finish is None:
        yield
        return
    await _written(path, answer)
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, path, answer)
            yield
            nursery.cancel_scope.cancel()
    await _written(path, answer)
    print(paint(f"receipt: {path}, {answer.level}", "dim", sys.stderr), file=sys.stderr)


async def _keep(path: Path, answer: "Answer") -> None:
    while await answer.changed():
        await _written(path, answer)


async def _written(path: Path, answer: "Answer") -> None:
    import trio

    from p2pnode.receipts import save_receipt

    # Off the loop: a slow disk holds up no frame and no ack of the next answer.
    await trio.to_thread.run_sync(save_receipt, path, answer.receipt())
