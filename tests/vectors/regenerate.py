"""Golden vectors, made from fixed inputs by the code that they hold: ``python -m tests.vectors.regenerate``.

A vector changes only when a rule does, so its diff is the review of that change. Another implementation needs
nothing but the JSON: the manifest says how to read it.
"""

import json
from pathlib import Path
from typing import Any

import coincurve

from protocol.core.codec import encode
from protocol.core.ids import Digest, NetworkId
from protocol.core.signing import (
    Domain,
    TypedStruct,
    node_id_of_public_key,
    payload_digest,
    type_string,
    typed_digest,
    typed_fields,
)
from protocol.messages.audits import Challenge
from protocol.messages.chain import Consent
from protocol.messages.committee import Batch, Finalize, Header, Nullify, Proposal, Vote
from protocol.messages.embeddings import EmbedOrder, EmbedResult
from protocol.messages.logprobs import FrameLogProbs
from protocol.messages.results import Commit, Enlist, LaneResult, RegistryEntry, Reveal, SessionClose, Withdraw
from protocol.messages.sessions import Assignment, Bid, RouterTerm, SessionOpen
from protocol.messages.tasks import Ack, Frame, SegmentHead, TaskOrder

SIGNING = Path(__file__).with_name("signing.json")

MANIFEST = {
    "suite": "signing",
    "format": 1,
    "rules": ["SIGN-DOMAIN.1", "SIGN-PAYLOAD.1", "SIGN-LOW-S.1", "SESSION-ID.1"],
    "reading": (
        "EIP-712, domain {name: p2pnode, version: 1, chainId: chain_id, salt: network_id}; bytes are hex; "
        "fields are [name, type, value] in order; signature is r || s || v over digest by private_key (RFC 6979), "
        "signer its EVM address"
    ),
}


def fill(number: int, length: int) -> bytes:
    """Bytes that are easy to recognise: the number, then counting up."""
    return bytes((number + place) % 256 for place in range(length))


def typed_examples() -> list[TypedStruct]:
    """One value of every struct that is signed field by field."""
    session, model, order = fill(0x10, 32), fill(0x20, 32), fill(0x30, 32)
    client, router, miner = fill(0x40, 20), fill(0x50, 20), fill(0x60, 20)
    generation, prompt, sampling = fill(0x70, 24), fill(0x80, 32), fill(0x90, 32)
    return [
        SessionOpen(
            client, (router, miner), model, 1, 2_000, 50_000, 10, 1_800_000_000_000, True, fill(0xA0, 32), bytes(32)
        ),
        Assignment(session, 3, router, (miner, client), (generation, fill(0x71, 24)), fill(0xB0, 32)),
        TaskOrder(session, 7, 2**63 - 1, prompt, sampling, fill(0xC0, 32), 512, 1_024_000),
        SegmentHead(
            session,
            7,
            0,
            generation,
            miner,
            order,
            prompt,
            router,
            7,
            fill(0xD0, 32),
            33,
            model,
            sampling,
            0,
            bytes(32),
        ),
        Frame(fill(0xE0, 32), 64, fill(0xF0, 32), True),
        Ack(session, 7, 255, generation, fill(0xF2, 32), 2**32, fill(0xF1, 32)),
        RouterTerm(session, router, 4),
        FrameLogProbs(fill(0xE0, 32), 64, fill(0xF3, 32)),
        EmbedOrder(session, 2, fill(0x14, 32)),
        EmbedResult(fill(0x24, 32), generation, miner, model, 21, fill(0x34, 32)),
        *_committee_examples(),
        *_result_examples(),
    ]


def _result_examples() -> list[TypedStruct]:
    session, miner, generation = fill(0x10, 32), fill(0x60, 20), fill(0x70, 24)
    place = (session, 7, 1, generation, miner)
    return [
        LaneResult(fill(0x12, 32), fill(0x22, 32), fill(0x32, 32), fill(0x42, 32), fill(0x52, 32), 812),
        Commit(*place, fill(0x62, 32)),
        Reveal(*place, fill(0x72, 32), 812, fill(0x82, 32)),
        Withdraw(fill(0x92, 20), 2**62),
        SessionClose(session),
        Enlist(miner, fill(0xA2, 20), fill(0xB2, 32), 4, 55, 3),
        Challenge(miner, fill(0xF2, 20), fill(0x13, 32), 5, 1, fill(0x23, 32)),
        RegistryEntry(fill(0xC2, 20), "tiny", 2, fill(0xD2, 32), fill(0xE2, 32), "stable"),
    ]


def _committee_examples() -> list[TypedStruct]:
    parent, name, oracle = fill(0x11, 32), fill(0x21, 32), fill(0x31, 20)
    roots = [fill(0x41 + place, 32) for place in range(5)]
    return [
        Header(
            5, 1_000, parent, roots[0], 70_000, roots[1], roots[2], 19_000_000, roots[3], 12, roots[4], fill(0x51, 32)
        ),
        Proposal(5, 1_000, name),
        Vote(5, 1_000, name),
        Nullify(5, 2**63 - 1),
        Finalize(5, 1_000, name),
        Batch(4, oracle, 9, fill(0x61, 32), fill(0x71, 32)),
        Consent(oracle, fill(0x81, 20)),
    ]


def signing_vectors() -> dict[str, Any]:
    """The content of signing.json."""
    cases = []
    for chain_id in (0, 31_337):
        domain = Domain(NetworkId(fill(chain_id % 256, 32)), chain_id)
        cases += [_typed_case(domain, value) for value in typed_examples()]
        cases.append(_payload_case(domain))
    return {"manifest": MANIFEST, "cases": cases}


def _typed_case(domain: Domain, value: TypedStruct) -> dict[str, Any]:
    cls = type(value)
    fields = [[name, kind, _plain(getattr(value, name))] for name, kind in typed_fields(cls)]
    return _case(domain, cls.__name__, type_string(cls), fields, typed_digest(domain, value))


def _payload_case(domain: Domain) -> dict[str, Any]:
    bid = Bid(fill(0x10, 32), fill(0x60, 20), fill(0x20, 32), 150, 2, 4, 31, 240, 4_096, 1_800_000_000_000)
    payload = encode(bid)
    fields = [["payload", "bytes", payload.hex()]]
    return _case(domain, "Bid", "Bid(bytes payload)", fields, payload_digest(domain, "Bid", payload))


def _case(domain: Domain, primary: str, encoded_type: str, fields: list[Any], digest: Digest) -> dict[str, Any]:
    private = coincurve.PrivateKey(fill(1, 32))
    raw = private.sign_recoverable(digest, hasher=None)
    return {
        "name": f"{primary} on chain {domain.chain_id}",
        "network_id": domain.network_id.hex(),
        "chain_id": domain.chain_id,
        "primary_type": primary,
        "encoded_type": encoded_type,
        "fields": fields,
        "domain_separator": domain.separator().hex(),
        "digest": digest.hex(),
        "private_key": private.secret.hex(),
        "signature": (raw[:64] + bytes([raw[64] + 27])).hex(),
        "signer": node_id_of_public_key(private.public_key.format(compressed=False)[1:]).hex(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def main() -> None:
    """Write every vector file."""
    SIGNING.write_text(json.dumps(signing_vectors(), indent=1) + "\n")


if __name__ == "__main__":
    main()
