"""Golden vectors of the bound chain, from fixed keys: ``python -m tests.vectors.transcript`` writes them anew.

A vector changes only when a rule does, so its diff is the review of that change.
"""

import json
from pathlib import Path
from typing import Any

import coincurve

from protocol.core.codec import encode
from protocol.core.ids import ZERO_DIGEST, Digest, NetworkId, NodeId, Signature
from protocol.core.signing import Domain, node_id_of_public_key, typed_digest
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentHead, TaskOrder
from protocol.session.transcript import (
    LaneVerifier,
    SegmentWriter,
    expect_segment,
    make_ack,
    prompt_tokens_digest,
    segment_id,
)

TRANSCRIPT = Path(__file__).with_name("transcript.json")

MANIFEST = {
    "suite": "transcript",
    "format": 1,
    "rules": ["CHAIN-HEAD.1", "CHAIN-TOKEN.1", "CHAIN-END.1", "CHAIN-SIGNER.1", "ACK-SIGNED.1"],
    "reading": (
        "bytes are hex; chain 0 is the EIP-712 digest of head under (network_id, chain_id); chain i = sha256(01 || "
        "chain i-1 || index u64 || token u32 || length u32 || text), integers big-endian; an end frame signs sha256(02 "
        "|| chain || reason u8 || prompt u32 || completion u32 || cached u32); a frame's signature is over Frame("
        "segment, index, chain, end); message is the wire's bytes; all keys are in the file"
    ),
}

MINER_SECRET, CLIENT_SECRET = b"\x01" * 32, b"\x02" * 32
ROUTER, NONCE = NodeId(b"\x15" * 20), b"\x16" * 32
PROMPT_TOKENS = (1, 15, 4_000_000_000)
FRAMES: tuple[tuple[tuple[tuple[int, str], ...], EndRecord | None], ...] = (
    (((7, "In"),), None),
    (((8, " the"), (9, ""), (10, " wöods")), None),
    (((2, ""),), EndRecord(EndReason.STOP, 3, 5, 1)),
)


def _signer(secret: bytes) -> tuple[bytes, Any]:
    private = coincurve.PrivateKey(secret)

    def sign(digest: Digest) -> Signature:
        raw = private.sign_recoverable(digest, hasher=None)
        return Signature(raw[:64] + bytes([raw[64] + 27]))

    return node_id_of_public_key(private.public_key.format(compressed=False)[1:]), sign


def transcript_vectors() -> dict[str, Any]:
    """The content of transcript.json."""
    return {"manifest": MANIFEST, "cases": [_case(chain_id) for chain_id in (0, 31_337)]}


def _case(chain_id: int) -> dict[str, Any]:
    domain = Domain(NetworkId(bytes(range(32))), chain_id)
    miner, sign = _signer(MINER_SECRET)
    _, client_sign = _signer(CLIENT_SECRET)
    sampling = SamplingParams().digest()
    order = TaskOrder(b"\x10" * 32, 3, 0, b"\x11" * 32, sampling, b"\x12" * 32, 5, 5_000)
    generation, model = b"\x13" * 24, b"\x14" * 32
    head = SegmentHead(
        session=order.session,
        task=order.task,
        lane=0,
        generation=generation,
        miner=miner,
        order=typed_digest(domain, order),
        prompt=order.prompt,
        router=ROUTER,
        price_wei=3,
        prompt_tokens=prompt_tokens_digest(NONCE, PROMPT_TOKENS),
        prompt_token_count=len(PROMPT_TOKENS),
        model=model,
        sampling=sampling,
        start_index=0,
        previous_head=ZERO_DIGEST,
    )
    writer = SegmentWriter(domain, sign, head)
    reader = LaneVerifier(domain, expect_segment(domain, order, 0, generation, miner, model))
    reader.begin(head)
    frames = [_frame(writer, reader, tokens, end) for tokens, end in FRAMES]
    ack = make_ack(domain, client_sign, reader)
    return {
        "name": f"an answer of five tokens on chain {chain_id}",
        "network_id": domain.network_id.hex(),
        "chain_id": chain_id,
        "miner_key": MINER_SECRET.hex(),
        "client_key": CLIENT_SECRET.hex(),
        "prompt_token_ids": list(PROMPT_TOKENS),
        "order": _plain(order),
        "head": _plain(head),
        "segment": segment_id(domain, head).hex(),
        "frames": frames,
        "ack": {**_plain(ack.ack), "signature": ack.signature.hex()},
    }


def _frame(
    writer: SegmentWriter, reader: LaneVerifier, tokens: tuple[tuple[int, str], ...], end: EndRecord | None
) -> dict[str, Any]:
    message: FrameMessage = writer.frame([i for i, _ in tokens], [text.encode() for _, text in tokens], end)
    reader.take(message)
    return {
        "tokens": [[token, text.encode().hex()] for token, text in tokens],
        "end": _plain(end) if end is not None else None,
        "index": reader.index,
        "chain": reader.chain.hex(),
        "signature": message.signature.hex(),
        "message": encode(message).hex(),
    }


def _plain(value: Any) -> dict[str, Any]:
    items = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return {name: item.hex() if isinstance(item, bytes) else int(item) for name, item in items}


def main() -> None:
    """Write the vectors."""
    TRANSCRIPT.write_text(json.dumps(transcript_vectors(), indent=1) + "\n")


if __name__ == "__main__":
    main()
