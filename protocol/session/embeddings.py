"""The rules of requests for vectors: what a client may ask, and what a miner's answer has to be."""

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest, verify
from protocol.messages.embeddings import EmbedAsked, Embedded, EmbedOrder, EmbedResult, EmbedTexts, vectors_digest

FLOAT_BYTES = 4


def find_embed_fault(params: Params, asked: EmbedTexts) -> str | None:
    """Why nobody in the network embeds it, or None."""
    if asked.size_bytes() > params.prompt_bytes_max:
        return f"the texts of one request have at most {params.prompt_bytes_max} bytes"
    return None


def check_asked(domain: Domain, params: Params, client: NodeId, session: bytes, message: EmbedAsked) -> None:
    """Whether the session's client signed it. Raises RemoteProtocolError. Spec: [EMBED-SIGNED.1]"""
    verify(typed_digest(domain, message.order), message.signature, client, "the request for vectors")
    if message.order.session != session or message.order.texts != message.asked.commitment():
        raise RemoteProtocolError("the request is for another session, or commits to other texts")
    fault = find_embed_fault(params, message.asked)
    if fault is not None:
        raise RemoteProtocolError(fault)


def sign_embedded(
    domain: Domain, sign: Sign, order: EmbedOrder, result: EmbedResult, vectors: tuple[bytes, ...]
) -> Embedded:
    """The miner's answer."""
    signature = sign(typed_digest(domain, result))
    return Embedded(order.session, order.number, result.generation, result.tokens, vectors, signature)


def check_embedded(domain: Domain, asked: EmbedAsked, model: bytes, miner: NodeId, answer: Embedded) -> None:
    """Whether the leased miner signed these vectors for this request. Raises RemoteProtocolError.

    Spec: [EMBED-SIGNED.1]
    """
    if len(answer.vectors) != len(asked.asked.texts):
        raise RemoteProtocolError("not as many vectors as texts")
    sizes = {len(vector) for vector in answer.vectors}
    if len(sizes) != 1 or sizes.pop() % FLOAT_BYTES:
        raise RemoteProtocolError("the vectors are not of one length, or not of whole numbers")
    result = result_of(domain, asked.order, answer.generation, miner, model, answer.tokens, answer.vectors)
    verify(typed_digest(domain, result), answer.signature, miner, "the vectors")


def result_of(
    domain: Domain,
    order: EmbedOrder,
    generation: bytes,
    miner: bytes,
    model: bytes,
    tokens: int,
    vectors: tuple[bytes, ...],
) -> EmbedResult:
    """What the miner signs."""
    return EmbedResult(typed_digest(domain, order), generation, miner, model, tokens, vectors_digest(vectors))
