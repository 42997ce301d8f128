"""How a miner signs a frame's log probabilities, and how whoever reads the frame checks them."""

from protocol.core.errors import SignatureError, TranscriptError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, Sign, recover, typed_digest
from protocol.messages.logprobs import FrameLogProbs, LogProbs, TokenLogProbs, logprobs_digest
from protocol.messages.tasks import FrameMessage


def sign_logprobs(
    domain: Domain, sign: Sign, segment: Digest, first_index: int, tokens: tuple[TokenLogProbs, ...]
) -> LogProbs:
    """What goes with a frame of the segment. Spec: [LOGPROBS-SIGNED.1]"""
    said = FrameLogProbs(segment, first_index, logprobs_digest(tokens))
    return LogProbs(tokens, sign(typed_digest(domain, said)))


def check_logprobs(domain: Domain, segment: Digest, miner: NodeId, message: FrameMessage, ordered: int) -> None:
    """Whether a frame brings what was ordered, no less and no more, as its miner signed it. Raises TranscriptError.

    Spec: [LOGPROBS-SIGNED.1]
    """
    logprobs = message.logprobs
    if not ordered or not message.ids:
        if logprobs is not None:
            raise TranscriptError("frame.logprobs", "came with a frame that has none to bring")
        return
    if logprobs is None:
        raise TranscriptError("frame.logprobs", "were ordered and did not come")
    if tuple(token.drawn.id for token in logprobs.tokens) != message.ids:
        raise TranscriptError("frame.logprobs", "are of other tokens than the frame's")
    if any(len(token.top) >= ordered for token in logprobs.tokens):
        raise TranscriptError("frame.logprobs", f"name more than the {ordered - 1} likeliest tokens")
    said = FrameLogProbs(segment, message.first_index, logprobs_digest(logprobs.tokens))
    try:
        signer = recover(typed_digest(domain, said), logprobs.signature)
    except SignatureError as error:
        raise TranscriptError("frame.logprobs", str(error)) from error
    if signer != miner:
        raise TranscriptError("frame.logprobs", f"are not what miner {miner.hex()} signed")
