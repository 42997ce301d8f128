"""Golden vectors of receipts: ``python -m tests.vectors.receipts`` writes them anew, README.md says how to read them.

A vector changes only when a rule does, or what a genesis holds; its diff is the review of that change.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from protocol.core.codec import pack
from protocol.light.receipt import Invalid, Link, NotEnoughTrust, Verdict, Verified
from protocol.light.receipt.altered import Altered, alterations
from protocol.light.receipt.verdict import Mark
from tests.receipts_made import Maker
from tests.vectors.receipts.broken import Broken
from tests.vectors.receipts.broken_forms import broken_forms, broken_networks
from tests.vectors.receipts.broken_lanes import (
    broken_acks,
    broken_ends,
    broken_frames,
    broken_segments,
    broken_tokens,
)
from tests.vectors.receipts.broken_proofs import (
    broken_certificates,
    broken_checkpoints,
    broken_commits,
    broken_elsewhere,
    broken_hand_overs,
    broken_observations,
    broken_outcomes,
    broken_reveals,
)
from tests.vectors.receipts.broken_sessions import (
    TWO_LANES,
    broken_assignments,
    broken_bids,
    broken_orders,
    broken_prompts,
    broken_sessions,
    broken_two_lanes,
)
from tests.vectors.receipts.edits import Edit, applied, edits_between
from tests.vectors.receipts.reading import FIELDS, FOLDER, MANIFEST
from tests.vectors.receipts.tries import broken_tries, whole_tries
from tests.vectors.receipts.whole import CARRIED, EVERYTHING, Reader, knowing, shown, whole_cases

_PUT_MAX = 2_048
"""Bytes that edits put in; with more the receipt is a file of its own."""


def vectors() -> dict[str, bytes]:
    """Every file of the folder that is made here, by its name."""
    made = _Files()
    cases, fields = [*_whole(made), *_broken(made)], [*_fields(made)]
    return {
        MANIFEST: _json({"suite": "receipts", "format": 1, "readers": made.readers, "cases": cases}),
        FIELDS: _json({"suite": "receipts, by field", "format": 1, "receipts": fields}),
        **made.files,
    }


class _Files:
    """Receipts as files, or as edits of one that is there."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.readers: dict[str, Any] = {}
        self._first: dict[Any, str] = {}

    def put(self, name: str, maker: Any, data: bytes) -> dict[str, Any]:
        """Where a receipt is found."""
        base = self._first.get(maker)
        if base is not None:
            edits = edits_between(self.files[base], data)
            assert applied(self.files[base], edits) == data
            if sum(len(put) // 2 for _, _, put in edits) <= _PUT_MAX:
                return {"file": base, "edits": edits}
        file = re.sub("[^a-z0-9]+", "-", name) + ".receipt"
        self._first.setdefault(maker, file)
        self.files[file] = data
        return {"file": file, "edits": []}

    def reader(self, reader: Reader) -> str:
        """The name of a reader."""
        told = {"network": reader.network, "trust": reader.trust, "now_ms": reader.now_ms, "accepted": reader.accepted}
        for name, known in self.readers.items():
            if known == told:
                return name
        name = f"r{len(self.readers)}"
        self.readers[name] = told
        return name


def _whole(made: _Files) -> Iterator[dict[str, Any]]:
    for case in (*whole_cases(), *whole_tries()):
        data = pack(case.receipt)
        verdict = case.reader.verdict(case.maker.genesis, data)
        assert not isinstance(verdict, Invalid), f"{case.name}: {verdict}"
        yield {
            "name": case.name,
            **made.put(case.name, case.maker, data),
            "reader": made.reader(case.reader),
            **told(verdict),
        }


def _broken(made: _Files) -> Iterator[dict[str, Any]]:
    for broken in _all_broken():
        verdict = broken.reader.verdict(broken.maker.genesis, broken.data)
        assert isinstance(verdict, Invalid) and verdict.link is broken.link, f"{broken.name}: {verdict}"
        name = f"{broken.link}: {broken.name}"
        put = made.put(name, broken.maker, broken.data)
        yield {"name": name, **put, "reader": made.reader(broken.reader), **told(verdict)}


def _all_broken() -> Iterator[Broken]:
    for link, cases in (
        (Link.FORMAT, broken_forms()),
        (Link.NETWORK, broken_networks()),
        (Link.SESSION, broken_sessions()),
        (Link.ORDER, broken_orders()),
        (Link.PROMPT, broken_prompts()),
        (Link.BIDS, broken_bids()),
        (Link.ASSIGNMENT, broken_assignments()),
        (Link.SEGMENTS, broken_segments()),
        (Link.TOKENS, broken_tokens()),
        (Link.FRAMES, broken_frames()),
        (Link.END, broken_ends()),
        (Link.ACKS, broken_acks()),
        (Link.COMMIT, broken_commits()),
        (Link.REVEAL, broken_reveals()),
        (Link.HANDOVER, broken_hand_overs()),
        (Link.OBSERVATIONS, broken_observations()),
        (Link.CERTIFICATE, broken_certificates()),
        (Link.OUTCOME, broken_outcomes()),
        (Link.CHECKPOINT, broken_checkpoints()),
        (Link.CHECKPOINT, broken_tries()),
    ):
        yield from (Broken(link, name, data) for name, data in cases)
    for name, data in broken_two_lanes():
        yield Broken(Link.ASSIGNMENT, name, data, knowing(TWO_LANES), TWO_LANES)
    yield from broken_elsewhere()


def told(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a manifest has it."""
    match verdict:
        case Verified():
            return {"verdict": "verified", "level": verdict.level.name.lower(), **_marks(verdict)}
        case NotEnoughTrust():
            level = verdict.level.name.lower()
            return {"verdict": "not enough trust", "level": level, "link": verdict.link, **_marks(verdict)}
        case Invalid():
            return {"verdict": "invalid", "link": verdict.link}


def _marks(verdict: Verdict) -> dict[str, list[str]]:
    """The links that do not simply hold."""
    marked = (
        (mark, [each.link for each in verdict.links if each.mark is mark]) for mark in (Mark.SKIPPED, Mark.UNTRUSTED)
    )
    return {mark.value: [str(link) for link in links] for mark, links in marked}


def _fields(made: _Files) -> Iterator[dict[str, Any]]:
    """Every field altered: of a receipt with all parts, and of committees that another one carries."""
    whole = knowing(EVERYTHING)
    yield _altered(made, EVERYTHING, whole, alterations(EVERYTHING.receipt()))
    carried = ((path, data) for path, data in alterations(CARRIED.receipt()) if path.startswith(".committees"))
    yield _altered(made, CARRIED, shown(CARRIED, CARRIED.carried), carried)


def _altered(made: _Files, maker: Maker, reader: Reader, altered: Iterable[Altered]) -> dict[str, Any]:
    """In each way once: of a list the first item that can be altered so."""
    data, cases = pack(maker.receipt()), dict[str, tuple[str, str, list[Edit]]]()
    for path, changed in altered:
        way = re.sub(r"\[\d+\]", "[]", path)
        if way not in cases:
            verdict = reader.verdict(maker.genesis, changed)
            assert isinstance(verdict, Invalid), f"{path}: {verdict}"
            cases[way] = (path, verdict.link, edits_between(data, changed))
    return {"file": made.put("", maker, data)["file"], "reader": made.reader(reader), "cases": [*cases.values()]}


def _json(content: dict[str, Any]) -> bytes:
    """One case a line."""
    shown = json.dumps(content, indent=1)
    return (re.sub(r"\n {3,}|\n {2,}(?=[\]}])", " ", shown) + "\n").encode()


def main() -> None:
    """Write the vectors; files that belong to none any more are removed."""
    made = vectors()
    for old in FOLDER.glob("*.receipt"):
        if old.name not in made:
            old.unlink()
    for name, data in made.items():
        (FOLDER / name).write_bytes(data)
    print(f"{len(made)} files, {sum(map(len, made.values()))} bytes")


if __name__ == "__main__":
    main()
