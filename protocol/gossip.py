"""What a node does with a gossip message: accept, ignore or reject, per topic.

The check is stateless and total: it takes any bytes, reads no clock and never raises, so it may run inside the
transport before a message is forwarded. REJECT is for what its author cannot have meant: bytes that do not
decode, a message of another topic, another author's name, a signature that does not hold. IGNORE is for what
may be nobody's fault. Whether an accepted message is new, fresh or wanted is decided after it, with state.

The ``# [REJECT]`` and ``# [IGNORE]`` lines below are the normative list, cheapest first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from protocol.core.codec import Message, decode
from protocol.core.errors import DecodeError, SignatureError
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain, payload_digest, verify
from protocol.messages.adverts import Advert
from protocol.messages.envelope import Envelope
from protocol.messages.evidence import CommitteeNews
from protocol.messages.results import Commits
from protocol.messages.sessions import Announcement


class Decision(Enum):
    """What becomes of a message: handed on and forwarded, dropped, or dropped at its author's cost."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Checked:
    """The decision; ``message`` and ``envelope`` are set if it is ACCEPT, ``reason`` if it is not."""

    decision: Decision
    message: Message | None = None
    envelope: Envelope | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Topic:
    """The one kind of message a topic carries, and the field that names its author."""

    carries: type[Message]
    author: Callable[[Any], bytes]


TOPICS: Mapping[str, Topic] = {
    "nodes": Topic(Advert, lambda advert: advert.node),
    "sessions": Topic(Announcement, lambda announcement: announcement.router),
    "committee": Topic(CommitteeNews, lambda news: news.author),
    "results": Topic(Commits, lambda commits: commits.miner),
}
"""By short name. A later topic is one more line."""


def check(domain: Domain, params: Params, topic_name: str, origin: NodeId, data: bytes) -> Checked:
    """Decide over one message (untrusted). Spec: [GOSSIP-TOTAL.1]

    Args:
        topic_name: The short name, a key of :data:`TOPICS`.
        origin: Who published it, as the transport established.
    """
    # [IGNORE] the topic is one this node knows
    topic = TOPICS.get(topic_name)
    if topic is None:
        return _ignore(f"unknown topic {topic_name!r}")
    # [REJECT] the message is at most gossip_message_bytes_max long
    if len(data) > params.gossip_message_bytes_max:
        return _reject(f"{len(data)} bytes, limit {params.gossip_message_bytes_max}")
    try:
        # [REJECT] it is a canonical Envelope
        envelope = decode(data, limit_bytes=params.gossip_message_bytes_max)
        if not isinstance(envelope, Envelope):
            return _reject(f"{type(envelope).__name__} outside an envelope")
        # [REJECT] its payload is a canonical message of the kind this topic carries
        message = decode(envelope.payload, limit_bytes=topic.carries.LIMIT_BYTES)
        if not isinstance(message, topic.carries):
            return _reject(f"{type(message).__name__} in topic {topic_name}")
        # [REJECT] its author is the node that published it
        author = topic.author(message)
        if author != origin:
            return _reject(f"written by {author.hex()}, published by {origin.hex()}")
        # [REJECT] its author signed it
        verify(payload_digest(domain, topic.carries.__name__, envelope.payload), envelope.signature, author, topic_name)
    except (DecodeError, SignatureError) as error:
        return _reject(str(error))
    return Checked(Decision.ACCEPT, message, envelope)


def _reject(reason: str) -> Checked:
    return Checked(Decision.REJECT, reason=reason)


def _ignore(reason: str) -> Checked:
    return Checked(Decision.IGNORE, reason=reason)
