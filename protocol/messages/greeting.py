"""How a client and a router begin, protocol ``client``."""

from typing import Annotated

from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U32, Bytes20
from protocol.messages.adverts import ModelOffer
from protocol.messages.committee import Certified


@message(kind=10, limit_bytes=64)
class ClientHello(Message, frozen=True):
    """The first frame of a client."""

    version: U32 = 1


@message(kind=11, limit_bytes=131_072)
class RouterHello(Message, frozen=True):
    """The network a router serves, the models it knows miners for, and how far the committee is."""

    router: Bytes20
    genesis: Annotated[str, Meta(max_length=65_536)]
    models: Annotated[tuple[ModelOffer, ...], Meta(max_length=64)]
    certified: Certified | None = None
    """The latest final header; none where there is no committee, or the router has not heard of it yet."""
