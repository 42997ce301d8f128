"""What convicts oracles that told a chat's client two things of one answer: kept in a file, for `p2pnode evidence`."""

import os
import sys
from typing import TYPE_CHECKING

from p2pnode.cli.output import paint
from p2pnode.paths import home

if TYPE_CHECKING:
    from p2pnode.answer import Answer
    from protocol.core.genesis import Genesis

FOLDER = "evidence"


def keep_evidence(genesis: "Genesis", answer: "Answer") -> None:
    """Write it, if there is any, and say where it is. Raises OSError."""
    if not answer.evidence:
        return
    from p2pnode.evidence_papers import write_evidence
    from protocol.results.convictions import make_file

    folder = home(os.environ) / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    first = answer.evidence[0]
    path = folder / f"{first.session.hex()[:16]}-{first.task}"
    write_evidence(path, make_file(genesis, answer.evidence))
    told = f"an oracle contradicted itself, which convicts it: p2pnode evidence submit {path}"
    print(paint(told, "red", sys.stderr), file=sys.stderr)
