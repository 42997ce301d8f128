"""What it takes to come to the present after 1,000 epochs: ``python -m tests.bench epochs [--epochs N] [--json]``.

A light client that knows the first committee asks a node for hand-overs, page by page, or skipping. Sizes are those of
questions and answers, signatures are checked for real, and each epoch's members are drawn as the protocol draws them.
Each hand-over carries an EVM block's header of the size that today's chains have.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from protocol.committee.election import Candidate, committee_root, elect
from protocol.committee.payload import Roots, make_header
from protocol.core.codec import encode
from protocol.core.genesis import Contracts, Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.machine import Channel, Send
from protocol.core.params import Params
from protocol.core.signing import keccak
from protocol.light.handovers import HandOverAsker, HandOverStore
from protocol.light.headers import ReadersTime
from protocol.light.trust_book import LightBook, write_kept
from protocol.messages.committee import (
    EMPTY_BODY,
    Certificate,
    CertificateKind,
    Certified,
    MemberSignature,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.handover import HandOver, HandOversAsked, HandOversFound, HandOversPicked
from tests.evm_made import header_of
from tests.unit.protocol.keys import Key, key

EPOCHS = 1_000
FOUNDED_S = 1_800_000_000
EPOCH_S = 300
"""So that a thousand are half of the trust period."""
AT = Channel(1)
DRAWS = ((4, 4), (4, 7), (4, 16), (4, 100), (31, 31), (31, 100))
"""Members of a committee, and candidates of equal stake of whom each is drawn."""


@dataclass(frozen=True)
class Way:
    """One reader that came to the present."""

    questions: int
    hand_overs: int
    sent_bytes: int
    taken_bytes: int
    took_ms: float
    kept_bytes: int


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if anybody does not arrive."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench epochs")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = follow_rows(args.epochs)
    print(json.dumps(rows) if args.json else shown(rows))
    return 0


def follow_rows(epochs: int = EPOCHS) -> list[dict[str, Any]]:
    """Bytes and time for each size of committee and of the crowd that it is drawn from, both ways."""
    rows = []
    for size, candidates in DRAWS:
        genesis, store = _network(size, candidates, epochs)
        for way, towards in (("one by one", 0), ("skipping", epochs)):
            found = _follow(genesis, store, epochs, towards)
            rows.append({"members": size, "candidates": candidates, "epochs": epochs, "way": way, **vars(found)})
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = f"{'members':>7} {'of':>4} {'epochs':>6}  {'way':10} {'questions':>9} {'hand-overs':>10} {'kB':>8} {'ms':>7}"
    lines = [
        f"{row['members']:7} {row['candidates']:4} {row['epochs']:6}  {row['way']:10} {row['questions']:9} "
        f"{row['hand_overs']:10} {(row['sent_bytes'] + row['taken_bytes']) / 1_000:8.1f} {row['took_ms']:7.0f}"
        for row in rows
    ]
    kept = max(row["kept_bytes"] for row in rows)
    return "\n".join([head, *lines, f"at most {kept / 1_000:.1f} kB are kept on disk"])


def _follow(genesis: Genesis, store: HandOverStore, epochs: int, towards: int) -> Way:
    book = LightBook(genesis, time=ReadersTime(FOUNDED_S + (epochs + 1) * EPOCH_S))
    asker = HandOverAsker(book)
    questions = hand_overs = sent = taken = 0
    spent = 0.0
    effects = asker.ask(AT, towards)
    while effects:
        asked = next(effect.message for effect in effects if isinstance(effect, Send))
        questions, sent = questions + 1, sent + len(encode(asked))
        assert isinstance(asked, HandOversPicked | HandOversAsked)
        answer = store.found(asked) if isinstance(asked, HandOversPicked) else store.page(asked.first)
        hand_overs, taken = hand_overs + len(answer.hand_overs), taken + len(encode(answer))
        began = time.perf_counter()
        effects = asker.found(AT, answer) if isinstance(answer, HandOversFound) else asker.took(AT, answer)
        spent += time.perf_counter() - began
    if book.trust.epoch != epochs + 1:
        raise SystemExit(f"the reader came to epoch {book.trust.epoch} of {epochs + 1}")
    return Way(questions, hand_overs, sent, taken, spent * 1_000, len(write_kept(book.kept())))


# The network


def _network(size: int, candidates: int, epochs: int) -> tuple[Genesis, HandOverStore]:
    crowd = {each.node: each for each in map(_member, range(candidates))}
    drawn = [_drawn(size, candidates, epoch) for epoch in range(1, epochs + 2)]
    contracts = Contracts(1, *(NodeId(bytes([number]) * 20) for number in range(11, 17)))
    genesis = Genesis("epochs", 31_337, Params(), drawn[0], (), (), contracts, FOUNDED_S)
    records: dict[bytes, bytes | None] = {}
    store = HandOverStore(lambda name: {name: value} if (value := records.get(name)) is not None else {})
    for epoch in range(1, epochs + 1):
        signers = [crowd[node] for node in drawn[epoch - 1]]
        name, value = store.keep(_hand_over(genesis, epoch, signers, drawn[epoch]))
        records[name] = value
    return genesis, store


@cache
def _member(number: int) -> Key:
    return key(3_000 + number)


def _drawn(size: int, candidates: int, epoch: int) -> tuple[NodeId, ...]:
    crowd = [Candidate(_member(number).node, 1_000) for number in range(candidates)]
    return elect(Digest(keccak(epoch.to_bytes(8, "big"))), crowd, 1_000, (), size)


def _hand_over(genesis: Genesis, epoch: int, members: list[Key], following: tuple[NodeId, ...]) -> HandOver:
    anchor = header_of(keccak(b"state"), epoch, FOUNDED_S + epoch * EPOCH_S)
    zero = ZERO_DIGEST
    root = committee_root(following)
    roots = Roots(zero, epoch * 1_000, zero, zero, epoch, Digest(keccak(anchor)), epoch, root)
    header = make_header(epoch, 1, Digest(keccak(b"parent")), roots, EMPTY_BODY)
    domain = genesis.domain()
    digest = header_digest(domain, header)
    said = statement_digest(domain, StatementKind.FINALIZE, epoch, 1, digest)
    quorum = 2 * ((len(members) - 1) // 3) + 1
    signatures = tuple(MemberSignature(place, members[place].sign(said)) for place in range(quorum))
    certificate = Certificate(CertificateKind.FINALIZATION, epoch, 1, digest, signatures)
    return HandOver(Certified(certificate, header), following, anchor)
