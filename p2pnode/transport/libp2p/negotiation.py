"""multistream-select on a muxed stream: who opens it names a protocol, who serves it agrees or not.

The opener sends header and protocol in one write, the server answers both in one: one round trip. Lines are bounded,
and what is read beyond them goes back to the stream.
"""

from collections.abc import Callable

from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.seam import TransportError

_HEADER = "/multistream/1.0.0"
_REFUSED = "na"
_LINE_BYTES_MAX = 1024
_PROPOSALS_MAX = 16


class NegotiationFailed(TransportError):
    """The other side does not speak the protocol, or not even multistream-select."""

    code = "transport/protocol-not-spoken"


async def propose(stream: MuxedStream, *protocols: str) -> str:
    """Ask for a protocol, or for several in order of preference; which one the other side speaks.

    Raises NegotiationFailed, and the muxer's errors if the stream breaks.
    """
    await stream.write(_line(_HEADER) + _line(protocols[0]))
    lines = _Lines(stream)
    if await lines.next() != _HEADER:
        raise NegotiationFailed("the peer does not speak multistream-select")
    for index, protocol in enumerate(protocols):
        if index:
            await stream.write(_line(protocol))
        answer = await lines.next()
        if answer == protocol:
            lines.give_back()
            return protocol
        if answer != _REFUSED:
            raise NegotiationFailed(f"the peer answered {answer[:64]!r} to {protocol}")
    raise NegotiationFailed(
        f"the peer does not speak {' or '.join(protocols)}", hint="it may run another version, or another role"
    )


async def agree(stream: MuxedStream, speaks: Callable[[str], bool]) -> str:
    """Answer proposals until one is spoken; that one. Raises NegotiationFailed after too many."""
    lines = _Lines(stream)
    answers = _line(_HEADER)
    if await lines.next() != _HEADER:
        raise NegotiationFailed("the peer does not speak multistream-select")
    for _ in range(_PROPOSALS_MAX):
        if not lines.has_next():
            await stream.write(answers)
            answers = b""
        proposal = await lines.next()
        if speaks(proposal):
            await stream.write(answers + _line(proposal))
            lines.give_back()
            return proposal
        answers += _line(_REFUSED)
    raise NegotiationFailed("too many proposals")


def _line(text: str) -> bytes:
    body = text.encode() + b"\n"
    if len(body) < 128:
        return bytes([len(body)]) + body
    return bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body


class _Lines:
    """Length-prefixed lines read in large pieces."""

    def __init__(self, stream: MuxedStream) -> None:
        self._stream = stream
        self._buffer = b""

    def has_next(self) -> bool:
        """Whether a whole line is at hand."""
        return self._parse() is not None

    async def next(self) -> str:
        while True:
            parsed = self._parse()
            if parsed is not None:
                line, used = parsed
                self._buffer = self._buffer[used:]
                return line
            self._buffer += await self._stream.read(_LINE_BYTES_MAX)

    def give_back(self) -> None:
        """Return what was read beyond the last line to the stream."""
        self._stream.unread(self._buffer)
        self._buffer = b""

    def _parse(self) -> tuple[str, int] | None:
        if not self._buffer:
            return None
        size, start = self._buffer[0], 1
        if size & 0x80:
            if len(self._buffer) < 2:
                return None
            size, start = size & 0x7F | self._buffer[1] << 7, 2
        if not 1 <= size <= _LINE_BYTES_MAX:
            raise NegotiationFailed(f"a line of {size} bytes in the negotiation")
        if len(self._buffer) < start + size:
            return None
        try:
            return self._buffer[start : start + size].decode("ascii").rstrip("\n"), start + size
        except UnicodeDecodeError as error:
            raise NegotiationFailed("a line that is not ASCII in the negotiation") from error
