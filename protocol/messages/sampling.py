"""How the tokens of one request are drawn: part of every order, bound into every transcript.

All values are integers, so that the struct has one encoding and one digest everywhere.
"""

import hashlib
from typing import Annotated

import msgpack
from msgspec import Meta, Struct

from protocol.core.ids import Digest

STOP_SEQUENCES_MAX = 8
STOP_BYTES_MAX = 256
SCHEMA_CHARACTERS_MAX = 16_384
TOP_LOGPROBS_MAX = 20


class SamplingParams(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Sampling of one request. The defaults are the network's: at 0.7 copying between lanes is visible."""

    temperature_bp: Annotated[int, Meta(ge=0, le=20_000)] = 7_000
    """Temperature × 10,000; 0 is greedy."""
    top_k: Annotated[int, Meta(ge=0, le=1_024)] = 64
    """Keep the k largest logits; 0 means the cap of 1,024."""
    top_p_bp: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    """Keep the smallest set of tokens whose probability reaches this."""
    min_p_bp: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Drop tokens less likely than this share of the likeliest one."""
    repetition_penalty_bp: Annotated[int, Meta(ge=5_000, le=20_000)] = 10_000
    """Divides positive and multiplies negative logits of tokens seen in the penalty window; 10,000 is off."""
    presence_penalty_bp: Annotated[int, Meta(ge=-20_000, le=20_000)] = 0
    """Subtracted once from the logit of a token seen in the window."""
    frequency_penalty_bp: Annotated[int, Meta(ge=-20_000, le=20_000)] = 0
    """Subtracted from the logit once for every time the token was seen in the window."""
    penalty_window: Annotated[int, Meta(ge=0, le=1_024)] = 64
    """How many of the last tokens, prompt included, the penalties look at."""
    choice: Annotated[int, Meta(ge=0, le=15)] = 0
    """Which of several answers to one prompt this is (OpenAI's ``n``)."""
    stop: Annotated[
        tuple[Annotated[bytes, Meta(min_length=1, max_length=STOP_BYTES_MAX)], ...], Meta(max_length=STOP_SEQUENCES_MAX)
    ] = ()
    """Byte strings that end the answer; neither they nor what follows is emitted."""
    schema: Annotated[str, Meta(max_length=SCHEMA_CHARACTERS_MAX)] = ""
    """A JSON schema, as JSON text: tokens that would lead the answer away from it are not drawn. Empty: any text."""
    logprobs: Annotated[int, Meta(ge=0, le=1 + TOP_LOGPROBS_MAX)] = 0
    """Where not 0, the miner tells each token's log probability, and those of so many, less one, of the likeliest."""

    def digest(self) -> Digest:
        """sha256 of the canonical MessagePack array of the fields in order."""
        fields = tuple(getattr(self, name) for name in self.__struct_fields__)
        return Digest(hashlib.sha256(b"p2pnode/sampling/1" + msgpack.packb(fields)).digest())
