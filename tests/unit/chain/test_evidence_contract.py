"""The contract that judges evidence: the verdicts of the protocol, on the protocol's own vectors."""

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.accusing import accusation, compact
from chain.artifacts import Artifact, load_artifact
from protocol.core.codec import pack, unpack
from protocol.core.errors import EvidenceError
from protocol.core.signing import HALF_N, SECP256K1_N, keccak, typed_digest
from protocol.messages.committee import CONTENT_BYTES_MAX, Batch, SignedBatch, StatementKind
from protocol.messages.evidence import ConflictingStatements, ConflictingValues
from protocol.messages.results import Content, Observation, Verdict
from protocol.messages.tasks import Frame
from protocol.results.evidence import Evidence, convict, evidence_id, observations_at_start
from tests.unit.chain.evm import CHAIN_ID, Contract, Evm, Refused
from tests.unit.chain.stand_ins import stand_in
from tests.vectors.evidence import (
    ALICE,
    DOMAIN,
    EVIDENCE,
    KINDS,
    LATE,
    VALUE,
    A,
    B,
    cases,
    evidence_vectors,
    stated,
)

REPORTER = b"\x5e" * 20
VECTORS = json.loads(EVIDENCE.read_text())
CASES = {f"{case['kind']}: {case['name']}": case for case in VECTORS["cases"]}
REASONS = {"place", "conflict", "signature", "high s", "content", "lane", "no observation"}


@pytest.fixture(scope="module")
def court() -> Contract:
    """The contract, with a registry that takes every word for it."""
    evm = Evm()
    registry = evm.deploy(stand_in("registry"), sender=REPORTER)
    return deployed(evm, registry.address)


def deployed(evm: Evm, registry: bytes) -> Contract:
    """The contract before some registry."""
    artifact: Artifact = load_artifact("Evidence")
    return evm.deploy(artifact, DOMAIN.network_id, evm.chain_id, registry, sender=REPORTER)


def verdict(court: Contract, name: str, *arguments: Any) -> bytes | str:
    """Whom the contract convicts, or the reason why nobody."""
    try:
        return bytes.fromhex(court.call(name, *arguments, REPORTER)[2:])
    except Refused as refused:
        assert refused.reason in REASONS
        return refused.reason


def told(court: Contract, name: str, *arguments: Any) -> tuple[bytes, bytes, bytes]:
    """Node, evidence and reporter, as the registry hears of them."""
    (log,) = court.send(name, *arguments, REPORTER, sender=REPORTER).logs
    node, evidence, reporter = (log.data[at : at + 32] for at in (0, 32, 64))
    return node[12:], evidence, reporter[12:]


def read(case: dict[str, Any]) -> Evidence:
    """A vector's evidence."""
    packed = bytes.fromhex(case["evidence"])
    return cast(Evidence, unpack(KINDS[case["kind"]], packed, limit_bytes=1 << 16))


def calls(evidence: Evidence) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every call that could be made of evidence: a batch may be asked for each of its observations."""
    if not isinstance(evidence, ConflictingValues):
        yield accusation(evidence)
        return
    halves = evidence.first, evidence.second
    counts = [len(list(observations_at_start(half.content))) for half in halves]
    signatures = tuple(compact(half.signature) for half in halves)
    for places in product(*(range(count + 1) for count in counts)):
        said = [
            (msgspec.structs.astuple(half.batch), half.content, at) for half, at in zip(halves, places, strict=True)
        ]
        yield "values", ((evidence.session, evidence.task, evidence.lane), *said, signatures)


def test_golden_vectors_hold() -> None:
    assert evidence_vectors() == VECTORS, "if the change is meant: python -m tests.vectors.evidence"
    assert {case["kind"] for case in VECTORS["cases"]} == set(KINDS)
    assert len(CASES) == len(VECTORS["cases"]) == len(cases())


@pytest.mark.spec(
    "EVIDENCE-STATEMENTS.1",
    "EVIDENCE-BATCHES.1",
    "EVIDENCE-VALUES.1",
    "EVIDENCE-VALUES.2",
    "EVIDENCE-COMMITS.1",
    "EVIDENCE-REVEAL.1",
    "EVIDENCE-FRAMES.1",
    "EVIDENCE-SIGNER.1",
    "EVIDENCE-ID.1",
)
@pytest.mark.parametrize("name", CASES)
def test_the_contract_and_the_protocol_convict_the_same(court: Contract, name: str) -> None:
    case = CASES[name]
    evidence = read(case)
    if case["convicted"] is None:
        with pytest.raises(EvidenceError) as raised:
            convict(DOMAIN, evidence)
        assert raised.value.link == case["refused"]
        said = [verdict(court, function, *arguments) for function, arguments in calls(evidence)]
        assert all(isinstance(word, str) for word in said), said
        try:
            function, arguments = accusation(evidence)
        except EvidenceError:
            return  # no two observations that could be named
        assert verdict(court, function, *arguments) in {case["refused"], "high s"}
        return
    node, named = (bytes.fromhex(case[key]) for key in ("convicted", "id"))
    assert convict(DOMAIN, evidence) == node
    assert evidence_id(DOMAIN, node, evidence) == named  # type: ignore[arg-type]
    function, arguments = accusation(evidence)
    assert verdict(court, function, *arguments) == node
    assert told(court, function, *arguments) == (node, named, REPORTER)


@pytest.mark.spec("EVIDENCE-ID.1")
def test_the_halves_may_change_places(court: Contract) -> None:
    for case in CASES.values():
        evidence = read(case)
        if case["convicted"] is None or not hasattr(evidence, "second") or case["kind"] == "ConflictingBatches":
            continue
        turned = msgspec.structs.replace(evidence, first=evidence.second, second=evidence.first)  # type: ignore[union-attr]
        function, arguments = accusation(turned)
        assert told(court, function, *arguments)[1].hex() == case["id"]


def test_cross_chain_and_cross_network_replay(court: Contract) -> None:
    """What convicts under one chain id or network convicts nobody under another."""
    evm = court.evm
    function, arguments = accusation(read(CASES["ConflictingStatements: two votes"]))
    registry = evm.deploy(stand_in("registry"), sender=REPORTER)
    other = evm.deploy(load_artifact("Evidence"), bytes(32), evm.chain_id, registry.address, sender=REPORTER)
    assert verdict(other, function, *arguments) == "signature"
    elsewhere = Evm(chain_id=1)
    registry = elsewhere.deploy(stand_in("registry"), sender=REPORTER)
    assert verdict(deployed(elsewhere, registry.address), function, *arguments) == "signature"
    with pytest.raises(Refused, match="registry"):
        deployed(elsewhere, bytes(20))
    with pytest.raises(Refused, match="chain"):
        elsewhere.deploy(load_artifact("Evidence"), DOMAIN.network_id, CHAIN_ID, registry.address, sender=REPORTER)


def test_signature_malleability(court: Contract) -> None:
    """Of a signature's two forms one can be said at all: the other s has no room beside the parity, or is too high."""
    function, (first, second, pairs) = accusation(read(CASES["ConflictingStatements: two votes"]))
    (r, vs), other = pairs
    s, parity = int.from_bytes(vs, "big") % 2**255, int.from_bytes(vs, "big") >> 255
    assert SECP256K1_N - s > HALF_N
    for wrong_s, wrong_parity, reason in [
        (s, 1 - parity, "signature"),
        ((SECP256K1_N - s) % 2**255, 1 - parity, "signature"),
        (HALF_N + 1, parity, "high s"),
        (2**255 - 1, parity, "high s"),
        (0, parity, "signature"),
    ]:
        wrong = (r, (wrong_s | wrong_parity << 255).to_bytes(32, "big"))
        assert verdict(court, function, first, second, (wrong, other)) == reason
    assert verdict(court, function, first, second, (other, (r, vs))) == "signature", "each of its own half"


def test_a_struct_of_another_kind_is_none_of_this(court: Contract) -> None:
    """A vote's signature is none of a proposal, a finalize, or a batch, whatever the fields are."""
    vote = [stated(StatementKind.VOTE, header) for header in (A, B)]
    for kind in (StatementKind.PROPOSAL, StatementKind.FINALIZE):
        dressed = [msgspec.structs.replace(each, kind=kind) for each in vote]
        function, arguments = accusation(ConflictingStatements(*dressed))
        # Each half recovers to a key, but not both to one.
        assert verdict(court, function, *arguments) == "signature"
    with pytest.raises(Refused, match="kind"):
        function, (first, second, pairs) = accusation(ConflictingStatements(*vote))
        court.call(function, (5, *first[1:]), (5, *second[1:]), pairs, REPORTER)


@pytest.mark.spec("EVIDENCE-FRAMES.1")
def test_a_closing_is_given_and_is_an_end_record(court: Contract) -> None:
    evidence = read(CASES["ConflictingFrames: a cancelled end"])
    function, (*heads, closing, pairs) = accusation(evidence)
    assert verdict(court, function, *heads, closing, pairs) == ALICE.node
    assert verdict(court, function, *heads, (False, *closing[1:]), pairs) == "conflict"
    # A reason that no end record has: here the chain that a miner signed would close with it.
    packed = b"\x02" + closing[1] + bytes([3]) + b"".join(number.to_bytes(4, "big") for number in closing[3:])
    frame = Frame(heads[3][0], heads[3][1], hashlib.sha256(packed).digest(), True)
    signed_end = (pairs[0], compact(ALICE.sign(typed_digest(DOMAIN, frame))))
    changed = [*heads[:3], msgspec.structs.astuple(frame), (True, closing[1], 3, *closing[3:])]
    assert verdict(court, function, *changed, signed_end) == "conflict"


SAID = (*(msgspec.structs.replace(VALUE, task=task, count=task * 333) for task in (0, 127, 128, 70_000)), LATE, VALUE)
CONTENT = pack(Content(observations=SAID))


@pytest.mark.spec("EVIDENCE-VALUES.2")
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), max_size=3),
    st.integers(0, len(CONTENT)),
    st.binary(max_size=8),
)
def test_whatever_a_content_is_both_read_the_same(
    court: Contract, changes: list[tuple[int, int]], cut: int, inserted: bytes
) -> None:
    content = bytearray(CONTENT)
    for at, byte in changes:
        content[at] = byte
    content[cut:cut] = inserted
    # Each observation that the one reads contradicts one of this batch, so the other must find it at its place.
    read = list(observations_at_start(bytes(content)))
    for place in {max(0, len(read) - 1), len(read)}:
        value = read[place] if place < len(read) else VALUE
        other = msgspec.structs.replace(value, root=bytes([value.root[0] ^ 1]) + value.root[1:])
        batches = [signed_batch(bytes(content), 9), signed_batch(pack(Content(observations=(other,))), 10)]
        fields = [msgspec.structs.astuple(each.batch) for each in batches]
        halves = [(fields[0], batches[0].content, place), (fields[1], batches[1].content, 0)]
        signatures = tuple(compact(each.signature) for each in batches)
        said = verdict(court, "values", (value.session, value.task, value.lane), *halves, signatures)
        assert (said == ALICE.node) == (place < len(read))


@pytest.mark.spec("EVIDENCE-VALUES.2")
def test_the_largest_content_is_read(court: Contract) -> None:
    evm = court.evm
    values = tuple(Observation(A, task % 100, 0, Verdict.OK, B, task % 100) for task in range(223))
    packed = pack(Content(observations=(*values, VALUE)))
    content = packed[:CONTENT_BYTES_MAX]
    assert len(packed) <= CONTENT_BYTES_MAX + 8, "all of the observations themselves"
    batches = [signed_batch(content, 9), signed_batch(pack(Content(observations=(LATE,))), 10)]
    function, arguments = accusation(ConflictingValues(A, 7, 1, *batches))
    assert verdict(court, function, *arguments) == ALICE.node
    done = court.send(function, *arguments, REPORTER, sender=REPORTER)
    assert done.gas < 2_000_000
    assert evm.balance(court.address) == 0


def signed_batch(content: bytes, number: int, signer: Any = ALICE) -> Any:
    """A batch of this content."""
    batch = Batch(4, signer.node, number, A, keccak(content))
    return SignedBatch(batch, signer.sign(typed_digest(DOMAIN, batch)), content)
