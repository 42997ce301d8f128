"""Whatever arrives, on whatever stream and whoever signed it, an oracle's machine takes it without an exception."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.machine import ChannelClosed, ChannelOpened, GossipReceived, PeerConnected, PersistFailed, Received
from protocol.messages.committee import (
    Block,
    Certificate,
    CertificateKind,
    Certified,
    Offer,
    Propose,
    Recall,
    Recalled,
    State,
    Statement,
    SyncPage,
    SyncRequest,
)
from protocol.messages.envelope import seal
from protocol.messages.evidence import CommitteeNews
from protocol.roles.oracle.events import Include
from tests.unit.protocol import strategies
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    KEYS,
    NULLIFICATION,
    NULLIFY,
    PARAMS,
    STRANGER,
    Made,
    batch,
    build,
    certify,
    keyed,  # noqa: F401
    opening,
    propose,
    say,
)
from tests.unit.protocol.oracle_at_hand import ALL, Oracle

ANYTHING = st.one_of([strategies.build(kind) for kind in strategies.every_message()])
COMMITTEE = st.one_of(
    [
        strategies.build(kind)
        for kind in (Propose, State, Certified, Offer, Recall, Recalled, SyncRequest, SyncPage, CommitteeNews)
    ]
)
STREAMS = ("member", "sync", "dead", "asked")


def statement(place: int, said: Statement) -> Statement:
    """The same as a member would sign it, of a height that is near."""
    header = bytes(32) if said.kind is NULLIFY else said.header
    return say(place, said.kind, said.height % 12, header, epoch=1 + (said.epoch % 7 == 0))


def certificate(found: Certificate) -> Certificate:
    """A valid one of the same kind."""
    header = bytes(32) if found.kind is NULLIFICATION else found.header
    return certify(found.kind, found.height % 12, header, epoch=1 + (found.epoch % 7 == 0))


def block(found: Block, place: int) -> Made:
    """A block that a leader might make; most of them lead nowhere."""
    wrong = {"results_root": found.header.results_root} if found.header.deposits % 2 else {}
    included = [batch(place, 1)] if found.header.anchor_number % 2 else []
    return build(opening(), found.header.height % 12, included, **wrong)


def signed(message: object, place: int) -> object:
    """The same content rightly signed, so that it gets beyond the first checks."""
    match message:
        case State(statement=said):
            return State(statement(place, said))
        case Certified(certificate=found):
            return Certified(certificate(found), None)
        case Propose(header=header, parent=parent, nullifications=between):
            made = block(Block(header, b""), place)
            carried = tuple(certify(NULLIFICATION, item.height % 12) for item in between)
            return propose(made, None if parent is None else certificate(parent), carried)
        case Offer(signed=found):
            return Offer(batch(place, found.batch.number % 9, found.batch.previous, found.content))
        case Recalled(final=final, statements=statements):
            said = tuple(statement(place, item) for item in statements)
            told = None if final is None else Certified(certificate(final.certificate), None)
            return Recalled(message.epoch % 3, message.height, told, said, (batch(place, 1),))
        case SyncPage(blocks=blocks):
            made = [block(item, place) for item in blocks]
            return SyncPage(1, tuple(item.block(item.notarization()) for item in made), (), 1, 5)
        case CommitteeNews(certified=certified, statements=statements):
            told = tuple(Certified(certificate(item.certificate), None) for item in certified)
            said = tuple(statement(place, item) for item in statements)
            return CommitteeNews(KEYS[place].node_id, 1, told, said)
    return message


def tell(oracle: Oracle, stream: str, place: int, message: object) -> list[object]:
    """It arrives somewhere."""
    if stream == "member":
        if place not in oracle.into:
            oracle.open(place)
        channel = oracle.into[place]
    elif stream == "asked" and oracle.asked:
        channel = next(reversed(oracle.asked))
    else:
        channel = oracle.open(place, "sync")
    if stream == "dead":
        oracle.tell(ChannelClosed(channel, "gone"))
    return oracle.tell(Received(channel, message))  # type: ignore[arg-type]


def bounded(oracle: Oracle) -> None:
    """S13: none of what it keeps has grown beyond its bound."""
    machine, simplex = oracle.machine, oracle.machine.simplex
    assert len(simplex.tallies) <= 2 * PARAMS.heights_ahead_max + 1
    assert len(simplex.waiting) <= 3 * 4 * PARAMS.batches_waiting_max
    assert len(machine._syncing._ahead) <= 64
    assert len(machine._syncing.served) <= 64
    assert len(machine.links._peers) <= 6
    assert len(simplex.tree.headers) <= 64


@pytest.mark.spec("SYNC-CHECK.1", "CERTIFICATE-QUORUM.1")
@settings(max_examples=120)
@given(st.lists(st.tuples(COMMITTEE, st.sampled_from(STREAMS), st.sampled_from(ALL), st.booleans()), max_size=12))
def test_whatever_a_member_says(spam: list[tuple[object, str, int, bool]]) -> None:
    oracle = Oracle().started()
    for message, stream, place, rightly in spam:
        tell(oracle, stream, place, signed(message, place) if rightly else message)
        oracle.wait(100)
    bounded(oracle)


@settings(max_examples=60)
@given(st.lists(st.tuples(ANYTHING, st.sampled_from(STREAMS), st.sampled_from(ALL)), max_size=8))
def test_any_message_of_any_kind_on_any_stream(spam: list[tuple[object, str, int]]) -> None:
    oracle = Oracle().join()
    for message, stream, place in spam:
        tell(oracle, stream, place, message)
    bounded(oracle)


@settings(max_examples=60)
@given(st.lists(st.tuples(strategies.build(CommitteeNews), st.booleans()), max_size=3))
def test_whatever_comes_by_gossip(spam: list[tuple[CommitteeNews, bool]]) -> None:
    oracle = Oracle().started()
    for message, rightly in spam:
        told = signed(message, ALL[0]) if rightly else message
        envelope = seal(DOMAIN, STRANGER.sign, message)
        oracle.tell(GossipReceived("committee", STRANGER.node_id, told, envelope))  # type: ignore[arg-type]
        oracle.wait(100)
    bounded(oracle)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["opened", "closed", "connected", "include", "wait", "odd", "failed"]), max_size=30))
def test_whatever_its_own_node_tells_it(happens: list[str]) -> None:
    oracle = Oracle().started()
    for number, what in enumerate(happens):
        place = ALL[number % 3]
        match what:
            case "opened":
                oracle.open(place, ("member", "sync", "other")[number % 3])
            case "closed":
                oracle.close(next(iter([*oracle.out, *oracle.into.values(), -99])))  # type: ignore[arg-type]
            case "connected":
                oracle.tell(PeerConnected(KEYS[place].node_id))
            case "include":
                oracle.tell(Include(bytes(number)))
            case "wait":
                oracle.wait(1_000)
            case "odd":
                oracle.tell(object())
                oracle.tell(ChannelOpened(oracle.open(place), STRANGER.node_id, "member"))
            case "failed":
                oracle.tell(PersistFailed(b"committee", "disk"))
    bounded(oracle)


@settings(max_examples=40)
@given(st.lists(st.tuples(COMMITTEE, st.sampled_from(STREAMS), st.sampled_from(ALL)), max_size=8))
def test_two_machines_that_hear_the_same_do_the_same(spam: list[tuple[object, str, int]]) -> None:
    ran = []
    for _ in range(2):
        oracle, did = Oracle().started(), []
        for message, stream, place in copy.deepcopy(spam):
            did.append(tell(oracle, stream, place, signed(message, place)))
            did.append(oracle.wait(500))
        ran.append((did, oracle.disk, oracle.machine.next_deadline()))
    assert ran[0] == ran[1]


def test_every_kind_of_certificate_is_among_what_is_tried() -> None:
    assert {certify(kind, 1, bytes(32)).kind for kind in CertificateKind} == set(CertificateKind)
