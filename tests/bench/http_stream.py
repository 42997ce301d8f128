"""One streamed chat completion at a time, for those who wait for events in trio: start-up checks and chaos."""

from collections.abc import AsyncGenerator

import trio

from tests.bench.http_sse import MODEL, AnswerReader, MalformedAnswer, Said, chat_request

READ_BYTES = 65_536


class StreamBroken(Exception):
    """The answer was refused, or ended before its end."""


class StreamRefused(StreamBroken):
    """It was, and its client was told: by a status, or by an error event."""


async def chat(port: int, text: str, max_tokens: int, model: str = MODEL) -> AsyncGenerator[Said, None]:
    """Ask; yields what was said so far whenever something came. Raises StreamBroken, OSError."""
    reader, said = AnswerReader(), Said([])
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(chat_request(text, max_tokens, model))
            while not reader.complete:
                data = await stream.receive_some(READ_BYTES)
                if not data:
                    reader.ended()
                events = reader.feed(data)
                if reader.status not in (0, 200):
                    raise StreamRefused(f"HTTP status {reader.status}")
                for event in events:
                    said.note(event)
                if events:
                    yield said
                if not data and not reader.complete:
                    raise StreamBroken(f"the connection ended after {len(said.words)} tokens")
    except (MalformedAnswer, trio.BrokenResourceError) as error:
        raise StreamBroken(str(error) or type(error).__name__) from error
    if said.error:
        raise StreamRefused(f"error event: {said.error}")
    if not said.done:
        raise StreamBroken(f"the answer ended after {len(said.words)} tokens without [DONE]")
