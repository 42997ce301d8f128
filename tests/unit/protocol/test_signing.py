"""Signatures: the same digests as any EIP-712 wallet, one signature for each, and none that fits twice."""

import contextlib
import json
from pathlib import Path
from typing import Any

import coincurve
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash import Keccak256
from eth_hash.backends.pycryptodome import CryptodomeBackend
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message, encode
from protocol.core.errors import DecodeError, LocalProtocolError, SignatureError
from protocol.core.ids import Digest, NetworkId, NodeId
from protocol.core.signing import (
    HALF_N,
    NAME,
    SECP256K1_N,
    VERSION,
    Domain,
    TypedStruct,
    keccak,
    payload_digest,
    recover,
    scheme,
    type_string,
    typed_digest,
    typed_fields,
    verify,
)
from protocol.messages.envelope import Envelope, envelope_digest, seal, unseal
from protocol.messages.sampling import SamplingParams
from protocol.messages.sessions import Bid, BidReceipt, SessionOpen, session_id
from protocol.messages.tasks import CancelTask, Prompt, PromptMessage
from tests.spec import CODE, python_files
from tests.unit.protocol.keys import key
from tests.unit.protocol.strategies import build, every_message, every_typed_struct
from tests.vectors.regenerate import SIGNING, signing_vectors, typed_examples

domains = st.builds(Domain, st.binary(min_size=32, max_size=32).map(NetworkId), st.integers(0, 2**63 - 1))
DOMAIN = Domain(NetworkId(b"\x11" * 32), 31_337)
ALICE, BOB = key(1), key(2)

reference_keccak = Keccak256(CryptodomeBackend())
"""Another library's, whichever of them eth_hash would choose by itself."""


def reference_digest(domain: Domain, primary: str, types: list[dict[str, str]], values: dict[str, Any]) -> bytes:
    """What eth_account would sign."""
    signable = encode_typed_data(
        full_message={
            "primaryType": primary,
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "salt", "type": "bytes32"},
                ],
                primary: types,
            },
            "domain": {"name": NAME, "version": VERSION, "chainId": domain.chain_id, "salt": domain.network_id},
            "message": values,
        }
    )
    return reference_keccak(b"\x19" + signable.version + signable.header + signable.body)


@given(st.binary(max_size=300))
def test_keccak_is_ethereums(data: bytes) -> None:
    assert keccak(data) == reference_keccak(data)


@pytest.mark.spec("SIGN-DOMAIN.1")
@pytest.mark.parametrize("cls", every_typed_struct(), ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_a_typed_digest_is_what_a_wallet_signs(cls: type[TypedStruct], data: st.DataObject) -> None:
    domain, value = data.draw(domains), data.draw(build(cls))
    types = [{"name": name, "type": kind} for name, kind in typed_fields(cls)]
    values = {name: _listed(getattr(value, name)) for name, _ in typed_fields(cls)}
    assert typed_digest(domain, value) == reference_digest(domain, cls.__name__, types, values)


@pytest.mark.spec("SIGN-PAYLOAD.1")
@pytest.mark.parametrize("cls", every_message(), ids=lambda cls: cls.__name__)
@given(domain=domains, payload=st.binary(max_size=100))
def test_a_payload_digest_is_what_a_wallet_signs(cls: type[Message], domain: Domain, payload: bytes) -> None:
    types = [{"name": "payload", "type": "bytes"}]
    expected = reference_digest(domain, cls.__name__, types, {"payload": payload})
    assert payload_digest(domain, cls.__name__, payload) == expected


@pytest.mark.spec("SIGN-DOMAIN.1")
@given(domains, domains, build(SessionOpen))
def test_a_signature_holds_in_one_network_only(here: Domain, there: Domain, opening: SessionOpen) -> None:
    assert (typed_digest(here, opening) == typed_digest(there, opening)) == (here == there)
    assert (payload_digest(here, "Bid", b"") == payload_digest(there, "Bid", b"")) == (here == there)


@pytest.mark.spec("SIGN-DOMAIN.1")
def test_no_two_structs_share_a_type() -> None:
    strings = [type_string(cls) for cls in every_typed_struct()]
    payloads = [f"{cls.__name__}(bytes payload)" for cls in every_message()]
    assert len(set(strings + payloads)) == len(strings) + len(payloads)


def test_a_field_without_a_type_is_a_bug() -> None:
    class Untyped(TypedStruct, frozen=True):
        text: str

    with pytest.raises(LocalProtocolError, match="no EIP-712 type"):
        typed_digest(DOMAIN, Untyped("a"))


@pytest.mark.spec("SESSION-ID.1")
@given(build(SessionOpen))
def test_a_session_id_is_what_the_client_signed(opening: SessionOpen) -> None:
    assert recover(session_id(DOMAIN, opening), ALICE.sign(typed_digest(DOMAIN, opening))) == ALICE.node


@pytest.mark.spec("SIGN-PAYLOAD.1")
@pytest.mark.parametrize("cls", every_message(), ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_what_is_sealed_can_be_unsealed(cls: type[Message], data: st.DataObject) -> None:
    inner = data.draw(build(cls))
    envelope = seal(DOMAIN, ALICE.sign, inner)
    assert unseal(DOMAIN, envelope, cls) == (inner, ALICE.node)
    assert recover(envelope_digest(DOMAIN, envelope, cls), envelope.signature) == ALICE.node


@pytest.mark.spec("SIGN-PAYLOAD.1")
def test_an_envelope_of_another_kind_is_refused() -> None:
    with pytest.raises(DecodeError, match="expected Bid, got CancelTask"):
        unseal(DOMAIN, seal(DOMAIN, ALICE.sign, CancelTask(bytes(32), 1)), Bid)


@pytest.mark.spec("SIGN-PAYLOAD.1")
def test_a_changed_payload_is_signed_by_nobody_known() -> None:
    envelope = seal(DOMAIN, ALICE.sign, BidReceipt(bytes(32), bytes(32), 1, bytes(32)))
    changed = Envelope(encode(BidReceipt(bytes(32), bytes(32), 2, bytes(32))), envelope.signature)
    assert unseal(DOMAIN, changed, BidReceipt)[1] != ALICE.node


@given(st.binary(min_size=32, max_size=32))
def test_keys_recover_as_ethereum_does(digest: bytes) -> None:
    signature = ALICE.sign(Digest(digest))
    assert recover(Digest(digest), signature) == ALICE.node
    assert Account._recover_hash(digest, signature=signature) == Account.from_key(ALICE.secret).address


@pytest.mark.spec("SIGN-LOW-S.1")
@given(st.binary(min_size=32, max_size=32))
def test_the_other_half_of_a_signature_is_refused(digest: bytes) -> None:
    signature = ALICE.sign(Digest(digest))
    s = int.from_bytes(signature[32:64], "big")
    assert s <= HALF_N
    mirrored = signature[:32] + (SECP256K1_N - s).to_bytes(32, "big") + bytes([55 - signature[64]])
    coincurve.PublicKey.from_signature_and_message(mirrored[:64] + bytes([mirrored[64] - 27]), digest, hasher=None)
    with pytest.raises(SignatureError, match="lower half"):
        recover(Digest(digest), mirrored)


@pytest.mark.spec("SIGN-LOW-S.1")
@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_v_is_27_or_28(v: int) -> None:
    signature = ALICE.sign(Digest(bytes(32)))
    with pytest.raises(SignatureError, match="27 or 28"):
        recover(Digest(bytes(32)), signature[:64] + bytes([v]))


@pytest.mark.spec("SIGN-LOW-S.1")
@pytest.mark.parametrize("s", [0, HALF_N + 1, SECP256K1_N, 2**256 - 1])
def test_s_is_in_the_lower_half(s: int) -> None:
    signature = ALICE.sign(Digest(bytes(32)))
    with pytest.raises(SignatureError):
        recover(Digest(bytes(32)), signature[:32] + s.to_bytes(32, "big") + signature[64:])


@pytest.mark.spec("SIGN-LOW-S.1")
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80) | st.binary(min_size=65, max_size=65))
def test_any_bytes_recover_or_fail_cleanly(digest: bytes, signature: bytes) -> None:
    with contextlib.suppress(SignatureError):
        assert len(recover(Digest(digest), signature)) == 20


def test_verify_names_what_is_signed_by_whom() -> None:
    digest = Digest(b"\x22" * 32)
    verify(digest, ALICE.sign(digest), ALICE.node, "the thing")
    with pytest.raises(SignatureError, match=f"the thing is signed by {BOB.node.hex()}"):
        verify(digest, BOB.sign(digest), ALICE.node, "the thing")


class KeyedHashes:
    """What a simulation may sign with: the node's id and a hash of it and the digest."""

    def sign(self, node: NodeId, digest: Digest) -> bytes:
        return node + keccak(node + digest) + bytes(13)

    def recover(self, digest: Digest, signature: bytes) -> NodeId:
        if signature != self.sign(NodeId(signature[:20]), digest):
            raise SignatureError("not of this digest")
        return NodeId(signature[:20])


def test_a_simulation_signs_by_another_scheme() -> None:
    keyed, digest, other = KeyedHashes(), Digest(b"\x22" * 32), Digest(b"\x23" * 32)
    signature = keyed.sign(BOB.node, digest)
    with scheme(keyed):
        assert recover(digest, signature) == BOB.node
        verify(digest, signature, BOB.node, "the thing")
        envelope = seal(DOMAIN, lambda sealed: keyed.sign(BOB.node, sealed), CancelTask(bytes(32), 1))
        assert unseal(DOMAIN, envelope, CancelTask)[1] == BOB.node
        for wrong, value in ((digest, ALICE.sign(digest)), (other, signature)):
            with pytest.raises(SignatureError, match="not of this digest"):
                recover(wrong, value)
    with pytest.raises(SignatureError, match="27 or 28"):
        recover(digest, signature)


def test_a_node_is_back_at_secp256k1_whatever_happens_in_a_simulation() -> None:
    digest = Digest(b"\x22" * 32)
    with pytest.raises(ZeroDivisionError), scheme(KeyedHashes()):
        with scheme(KeyedHashes()):
            pass
        with pytest.raises(SignatureError):
            recover(digest, ALICE.sign(digest))
        raise ZeroDivisionError
    assert recover(digest, ALICE.sign(digest)) == ALICE.node


def test_nobody_recovers_signatures_by_himself() -> None:
    recovering = [path.name for path in python_files(*CODE) if "from_signature_and_message" in path.read_text()]
    assert recovering == ["signing.py"]


@pytest.mark.spec("ORDER-PROMPT.1")
@given(build(Prompt), build(Prompt))
def test_a_prompt_commitment_binds_everything(one: Prompt, other: Prompt) -> None:
    assert (one.commitment() == other.commitment()) == (one == other)


@pytest.mark.spec("ORDER-PROMPT.1")
def test_the_nonce_hides_a_prompt_that_can_be_guessed() -> None:
    asked = (PromptMessage("user", "yes or no?"),)
    commitments = {Prompt(bytes([n]) * 32, asked, SamplingParams()).commitment() for n in range(16)}
    assert len(commitments) == 16


@pytest.mark.spec("SIGN-DOMAIN.1", "SIGN-PAYLOAD.1", "SESSION-ID.1")
def test_golden_vectors_hold() -> None:
    stored = json.loads(Path(SIGNING).read_text())
    assert stored == signing_vectors(), "if the change is meant: python -m tests.vectors.regenerate"


def test_every_struct_has_a_vector() -> None:
    assert {type(value) for value in typed_examples()} == set(every_typed_struct())


@pytest.mark.parametrize("case", json.loads(Path(SIGNING).read_text())["cases"], ids=lambda case: case["name"])
def test_golden_vectors_are_what_a_wallet_signs(case: dict[str, Any]) -> None:
    domain = Domain(NetworkId(bytes.fromhex(case["network_id"])), case["chain_id"])
    types = [{"name": name, "type": kind} for name, kind, _ in case["fields"]]
    values = {name: _read(kind, value) for name, kind, value in case["fields"]}
    assert reference_digest(domain, case["primary_type"], types, values).hex() == case["digest"]
    assert recover(Digest(bytes.fromhex(case["digest"])), bytes.fromhex(case["signature"])).hex() == case["signer"]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read(kind: str, value: Any) -> Any:
    if kind.endswith("[]"):
        return [_read(kind[:-2], item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) and kind != "string" else value
