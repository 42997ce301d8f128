"""Checkpoints: which headers are taken, and whose certificates."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol.committee.election import committee_root
from protocol.core.ids import NetworkId
from protocol.core.signing import HALF_N, SECP256K1_N, Domain, typed_digest
from protocol.messages.committee import Finalize, Header, Vote, header_digest
from tests.unit.chain.contracts_at_hand import (
    ANYBODY,
    DEPLOYER,
    DOMAIN,
    STRANGER,
    Certificate,
    Rig,
    Settings,
    certificate,
    compact,
    fields_of,
    members_of,
)
from tests.unit.chain.evm import Evm, Refused
from tests.unit.protocol.keys import key
from tests.vectors.regenerate import SIGNING

GAS_MAX = 90_000
"""What a checkpoint with 3 of 4 signatures may cost."""


@pytest.fixture(scope="module")
def deployed() -> tuple[Rig, Any]:
    """Both contracts, with one checkpoint."""
    rig = Rig()
    rig.submit(rig.header(1, 5))
    return rig, rig.evm.keep()


@pytest.fixture
def rig(deployed: tuple[Rig, Any]) -> Iterator[Rig]:
    """For one test: what it does is undone."""
    made, kept = deployed
    made.evm.take_back(kept)
    yield made


def send(rig: Rig, parts: list[Any]) -> None:
    """Bring these parts."""
    rig.checkpoints.send("submit", *parts, sender=ANYBODY)


def refused(rig: Rig, reason: str, parts: list[Any]) -> None:
    """Bring these parts, to be refused for this reason."""
    with pytest.raises(Refused) as refusal:
        send(rig, parts)
    assert refusal.value.reason == reason


@pytest.mark.spec("CHECKPOINT-ACCEPT.1", "BLOCK-HEADER.1")
def test_a_finalized_header_is_accepted_and_kept(rig: Rig) -> None:
    rig.evm.advance(seconds=7, blocks=1)
    header = rig.header(1, 6)
    digest = header_digest(DOMAIN, header)
    done = rig.submit(header)
    assert rig.checkpoints.events(done) == [("Accepted", 1, 6, digest)]
    assert rig.checkpoints.call("latest") == digest
    assert rig.checkpoints.call("accepted", digest) == (rig.evm.time_s, 1, 6, 2)
    assert rig.checkpoints.call("accepted", bytes(32)) == (0, 0, 0, 0)
    assert done.gas <= GAS_MAX


@pytest.mark.spec("SIGN-DOMAIN.1", "BLOCK-HEADER.1")
@pytest.mark.parametrize("chain_id", [1, 31_337])
def test_headers_are_named_as_in_the_vectors(chain_id: int) -> None:
    cases = json.loads(SIGNING.read_text())["cases"]
    [case] = [case for case in cases if case["name"] == "Header on chain 31337"]
    fields = [bytes.fromhex(value) if kind == "bytes32" else value for _, kind, value in case["fields"]]
    domain = Domain(NetworkId(bytes.fromhex(case["network_id"])), chain_id)
    rig = Rig(evm=Evm(chain_id=chain_id), domain=domain)
    name = rig.checkpoints.call("name_of", fields)
    assert name == header_digest(domain, Header(*fields))
    assert (name.hex() == case["digest"]) == (chain_id == 31_337)


@pytest.mark.spec("CHECKPOINT-ACCEPT.1")
@pytest.mark.parametrize("size", [4, 7, 10, 13, 16, 19, 22, 25, 28, 31])
def test_every_size_of_committee_certifies_with_its_last_members_too(size: int) -> None:
    rig = Rig(Settings(size=size))
    rig.submit(rig.header())
    quorum = size - size // 3
    rig.submit(rig.header(1, 2), places=tuple(range(size - quorum, size)))


@pytest.mark.spec("CHECKPOINT-ACCEPT.1")
@pytest.mark.parametrize(
    ("epoch", "height", "reason"), [(1, 5, "old"), (1, 4, "old"), (3, 1, "committee"), (0, 9, "committee")]
)
def test_only_a_later_slot_is_taken(rig: Rig, epoch: int, height: int, reason: str) -> None:
    refused(rig, reason, certificate(rig.header(epoch, height), rig.keys).parts())


@pytest.mark.spec("CHECKPOINT-ACCEPT.1")
def test_a_header_of_an_epoch_that_is_over_is_refused(rig: Rig) -> None:
    rig.submit(rig.header(2, 1))
    refused(rig, "epoch", certificate(rig.header(1, 9), rig.keys).parts())
    assert rig.checkpoints.call("accepted", rig.checkpoints.call("latest"))[1:] == (2, 1, 2)


def _with(place: int, value: Any) -> Callable[[list[Any]], None]:
    def change(parts: list[Any]) -> None:
        parts[place] = value(parts[place]) if callable(value) else value

    return change


def _upper(signatures: list[Any]) -> list[Any]:
    """The first signature in its other form, n - s and the other parity, which plain ecrecover takes: there is no room
    for such an s beside the parity."""
    r, vs = signatures[0]
    number = int.from_bytes(vs, "big")
    s = SECP256K1_N - (number & (2**255 - 1))
    assert s >= 2**255
    other = (s | ((number >> 255) ^ 1) << 255) & (2**256 - 1)
    return [(r, other.to_bytes(32, "big")), *signatures[1:]]


def _just_above(signatures: list[Any]) -> list[Any]:
    """The least s that is refused."""
    return [(signatures[0][0], (HALF_N + 1).to_bytes(32, "big")), *signatures[1:]]


def _parity(signatures: list[Any]) -> list[Any]:
    r, vs = signatures[0]
    return [(r, bytes([vs[0] ^ 0x80]) + vs[1:]), *signatures[1:]]


TAMPERED: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "a signature less": (_with(3, lambda given: given[:2]), "quorum"),
    "a signature more": (_with(3, lambda given: [*given, given[2]]), "quorum"),
    "one signer named, three signatures": (_with(2, 0b0001), "signers"),
    "four signers named": (_with(2, 0b1111), "signers"),
    "a signer beyond the committee": (_with(2, 0b10111), "signers"),
    "a signer far beyond": (_with(2, 0b111 | 1 << 255), "signers"),
    "nobody": (_with(2, 0), "signers"),
    "one signature three times": (_with(3, lambda given: [given[0]] * 3), "signature"),
    "signatures in another order": (_with(3, lambda given: [given[1], given[0], given[2]]), "signature"),
    "another signer named": (_with(2, 0b1011), "signature"),
    "the signature's other form": (_with(3, _upper), "signature"),
    "s above the half": (_with(3, _just_above), "high s"),
    "the other parity": (_with(3, _parity), "signature"),
    "r is zero": (_with(3, lambda given: [(bytes(32), given[0][1]), *given[1:]]), "signature"),
    "s is zero": (_with(3, lambda given: [(given[0][0], bytes(32)), *given[1:]]), "signature"),
    "members in another order": (_with(1, lambda given: given[::-1]), "committee"),
    "another member": (_with(1, lambda given: (*given[:3], STRANGER.node)), "committee"),
    "the zero address for a member": (_with(1, lambda given: (*given[:3], bytes(20))), "committee"),
    "three members": (_with(1, lambda given: given[:3]), "size"),
    "five members": (_with(1, lambda given: (*given, STRANGER.node)), "size"),
    "no members": (_with(1, ()), "size"),
}


@pytest.mark.spec("CHECKPOINT-ACCEPT.1", "CONTRACT-SIGNATURE.1")
@pytest.mark.parametrize("name", TAMPERED)
def test_a_certificate_that_was_tampered_with_is_refused(rig: Rig, name: str) -> None:
    change, reason = TAMPERED[name]
    parts = certificate(rig.header(1, 6), rig.keys).parts()
    change(parts)
    refused(rig, reason, parts)
    send(rig, certificate(rig.header(1, 6), rig.keys).parts())


@pytest.mark.parametrize("field", Header.__struct_fields__)
def test_every_field_of_the_header_is_signed(rig: Rig, field: str) -> None:
    parts = certificate(rig.header(1, 6), rig.keys).parts()
    place = Header.__struct_fields__.index(field)
    value = parts[0][place]
    other = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    parts[0] = (*parts[0][:place], other, *parts[0][place + 1 :])
    refused(rig, "signature", parts)


def test_a_foreign_signer_is_refused(rig: Rig) -> None:
    made = certificate(rig.header(1, 6), (*rig.keys[:2], STRANGER, rig.keys[3]))
    parts = made.parts()
    parts[1] = members_of(rig.keys)
    refused(rig, "signature", parts)


OTHER_DOMAINS = {
    "of another network": replace(DOMAIN, network_id=NetworkId(b"\7" * 32)),
    "of another chain": replace(DOMAIN, chain_id=1),
    "made without a chain": replace(DOMAIN, chain_id=0),
}


@pytest.mark.spec("CONTRACT-SIGNATURE.1")
@pytest.mark.parametrize("domain", OTHER_DOMAINS.values(), ids=OTHER_DOMAINS)
def test_a_certificate_of_elsewhere_is_refused(rig: Rig, domain: Domain) -> None:
    made = Certificate(rig.header(1, 6), rig.keys, (0, 1, 2), domain)
    refused(rig, "signature", made.parts())


def test_a_certificate_does_not_count_for_another_slot_kind_or_header(rig: Rig) -> None:
    header = rig.header(1, 6)
    digest = header_digest(DOMAIN, header)
    for statement in (Finalize(1, 7, digest), Finalize(2, 6, digest), Vote(1, 6, digest), Finalize(1, 6, bytes(32))):
        parts = certificate(header, rig.keys).parts()
        to_sign = typed_digest(DOMAIN, statement)
        parts[3] = [compact(member.sign(to_sign)) for member in rig.keys[:3]]
        refused(rig, "signature", parts)


@pytest.mark.spec("CONTRACT-SIGNATURE.1")
def test_after_a_fork_the_side_with_another_chain_id_takes_nothing(rig: Rig) -> None:
    rig.evm.chain_id = 1
    try:
        rig.evm.advance(blocks=1)
        refused(rig, "chain", certificate(rig.header(1, 6), rig.keys).parts())
    finally:
        rig.evm.chain_id = DOMAIN.chain_id


@pytest.mark.spec("CONTRACT-SIGNATURE.1")
def test_nothing_is_deployed_on_another_chain_than_the_genesis_names() -> None:
    with pytest.raises(Refused) as refusal:
        Rig(evm=Evm(chain_id=1))
    assert refusal.value.reason == "chain"


@pytest.mark.parametrize(
    "wrong",
    [
        Settings(window_s=5_000, dead_s=5_000),
        Settings(window_s=0),
        Settings(terms_max=0),
        Settings(dead_s=2**32 + 1),
    ],
)
def test_settings_that_could_not_work_are_refused(wrong: Settings) -> None:
    with pytest.raises(Refused) as refusal:
        Rig(wrong)
    assert refusal.value.reason == "settings"


def test_checkpoints_need_a_registry_with_a_committee() -> None:
    rig = Rig()
    with pytest.raises(Refused):
        rig.deploy_checkpoints(registry=DEPLOYER)


# The hand-over


def drawn(rig: Rig, epoch: int, count: int = 4) -> tuple[Any, ...]:
    """Register so many oracles, let the hand-over freeze them, draw, and give the keys in the order of the draw."""
    keys = [key(100 + number) for number in range(count)]
    for node in keys:
        rig.register(node)
    rig.submit(rig.header(epoch - 2, 1))
    [(_, _, members)] = rig.registry.events(rig.draw(epoch))
    by_address = {node.node: node for node in keys}
    return tuple(by_address[bytes.fromhex(member[2:])] for member in members)


@pytest.mark.spec("CHECKPOINT-HANDOVER.1")
def test_the_first_header_of_an_epoch_hands_over_to_the_drawn_committee(rig: Rig) -> None:
    keys = drawn(rig, 4)
    root = committee_root(members_of(keys))
    rig.submit(rig.header(3, 1, next_committee=root))
    assert rig.checkpoints.call("epochs", 4) == (root, 0, 0)
    refused(rig, "committee", certificate(rig.header(4, 1), rig.keys).parts())
    rig.submit(rig.header(4, 1, next_committee=root), keys)
    assert rig.checkpoints.call("epochs", 5) == (root, 0, 1)
    refused(rig, "committee", certificate(rig.header(4, 2), rig.keys).parts())


@pytest.mark.spec("CHECKPOINT-HANDOVER.1")
def test_a_hand_over_names_the_drawn_committee_or_its_own_again(rig: Rig) -> None:
    keys = drawn(rig, 4)
    root = committee_root(members_of(keys))
    other = committee_root(members_of(keys[::-1]))
    refused(rig, "next committee", certificate(rig.header(3, 1, next_committee=other), rig.keys).parts())
    rig.submit(rig.header(3, 1))  # it was drawn too late for the ledger
    refused(rig, "next committee", certificate(rig.header(3, 2, next_committee=root), rig.keys).parts())
    rig.submit(rig.header(3, 2))


@pytest.mark.spec("CHECKPOINT-HANDOVER.1")
def test_a_hand_over_to_nobody_is_refused(rig: Rig) -> None:
    assert rig.registry.call("drawn_root", 3) == bytes(32)
    refused(rig, "next committee", certificate(rig.header(2, 1, next_committee=bytes(32)), rig.keys).parts())


@pytest.mark.spec("CHECKPOINT-HANDOVER.1")
def test_a_committee_stays_for_so_many_terms_and_no_longer(rig: Rig) -> None:
    rig.submit(rig.header(2, 1))
    rig.submit(rig.header(3, 1))
    rig.submit(rig.header(3, 2))
    refused(rig, "terms", certificate(rig.header(4, 1), rig.keys).parts())


@pytest.mark.spec("CHECKPOINT-HANDOVER.1")
def test_a_draw_begins_the_count_of_terms_anew(rig: Rig) -> None:
    rig.submit(rig.header(2, 1))
    keys = drawn(rig, 5)
    root = committee_root(members_of(keys))
    rig.submit(rig.header(4, 1, next_committee=root))
    for epoch in (5, 6, 7):
        rig.submit(rig.header(epoch, 1, next_committee=root), keys)
    refused(rig, "terms", certificate(rig.header(8, 1, next_committee=root), keys).parts())


@pytest.mark.spec("CHECKPOINT-HANDOVER.1")
def test_a_committee_of_another_size_takes_over(rig: Rig) -> None:
    keys = drawn(rig, 4, count=9)
    assert len(keys) == 7
    root = committee_root(members_of(keys))
    rig.submit(rig.header(3, 1, next_committee=root))
    parts = certificate(rig.header(4, 1, next_committee=root), keys, (0, 1, 2)).parts()
    refused(rig, "quorum", parts)
    rig.submit(rig.header(4, 1, next_committee=root), keys)


def test_nothing_else_than_a_header_of_twelve_fields_is_read(rig: Rig) -> None:
    assert len(fields_of(rig.header())) == len(Header.__struct_fields__) == 12
    parts = certificate(rig.header(1, 6), rig.keys).parts()
    data = rig.checkpoints.data("submit", *parts)
    too_large = data[:4] + (2**64).to_bytes(32, "big") + data[36:]
    for wrong in (data[:-32], too_large, data[:3]):
        with pytest.raises(Refused):
            rig.evm.send(ANYBODY, rig.checkpoints.address, wrong)
    with pytest.raises(Refused):
        rig.evm.send(ANYBODY, rig.checkpoints.address, data, value=1)


def test_headers_of_the_same_fields_have_one_name(rig: Rig) -> None:
    header = rig.header()
    assert rig.checkpoints.call("name_of", fields_of(header)) == header_digest(DOMAIN, msgspec.structs.replace(header))
