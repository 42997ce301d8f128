"""The fake engine behind HTTP, as vLLM and its like are: ``python -m tests.bench.fake_http NAME [--slots N]``.

What other routers are put in front of, and what they are compared with. The engine is the class behind our own rows,
with the same delays; every token is an event of its own, and events that are ready together are written together.
Written for speed, not for use: HTTP/1.1, keep-alive, streamed chat completions, and whatever GET a health check makes.
``NAME`` comes back as ``system_fingerprint``, so that the bench knows who answers. Prints its port; runs until
standard input ends.
"""

import argparse
import gc
import json
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from p2pnode.engine.api import ChatMessage, Finished, GenerateRequest, Tokens
from p2pnode.engine.fake import FakeEngine
from protocol.messages.sampling import SamplingParams
from tests.bench.fake_miner import fake_config
from tests.bench.http_sse import HEAD_END, MODEL

HEAD_BYTES_MAX = 65_536
READ_BYTES = 65_536
CLOSED = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Connection:
    """One client's connection: requests one after the other."""

    def __init__(self, stream: trio.SocketStream, engine: FakeEngine, name: str) -> None:
        self._stream = stream
        self._engine = engine
        self._name = name
        self._unread = b""

    async def serve(self) -> None:
        """Until the client closes it, or speaks something else (sglang-router first tries HTTP/2)."""
        while HEAD_END not in self._unread:
            data = await self._stream.receive_some(READ_BYTES)
            self._unread += data
            if not data or len(self._unread) > HEAD_BYTES_MAX:
                return
        while HEAD_END in self._unread:
            head, _, self._unread = self._unread.partition(HEAD_END)
            method, path, version = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
            if version != "HTTP/1.1":
                return
            body = await self._body(_content_length(head))
            if method == "POST" and path == "/v1/chat/completions":
                await self._answer(json.loads(body))
            elif method == "GET":
                await self._send_json(200, _about(path))
            else:
                await self._send_json(404, {"error": {"message": f"{method} {path} is not served"}})
            while HEAD_END not in self._unread:
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    return
                self._unread += data

    async def _body(self, length: int) -> bytes:
        while len(self._unread) < length:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                raise trio.BrokenResourceError("a request was cut off")
            self._unread += data
        body, self._unread = self._unread[:length], self._unread[length:]
        return body

    async def _send_json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await self._stream.send_all(head.encode() + body)

    async def _answer(self, body: dict[str, Any]) -> None:
        if not body.get("stream"):
            await self._send_json(400, {"error": {"message": "only with stream: true"}})
            return
        tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        messages = [ChatMessage(turn["role"], _text(turn["content"])) for turn in body["messages"]]
        prompt = await self._engine.render(messages)
        await self._stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        before, after = self._frame('{"content":"\0"}')
        first = "".join(self._frame('{"role":"assistant","content":""}'))
        async for event in self._engine.generate(GenerateRequest(tuple(prompt), SamplingParams(), bytes(32), tokens)):
            if isinstance(event, Tokens):
                text = first + "".join(before + token.text.decode() + after for token in event.tokens)
                first = ""
            else:
                text = self._end(event, usage=bool((body.get("stream_options") or {}).get("include_usage")))
            await self._stream.send_all(b"%x\r\n%b\r\n" % (len(text), text.encode()))
        await self._stream.send_all(b"0\r\n\r\n")

    def _frame(self, delta: str, finish: str = "null") -> tuple[str, str]:
        """An event in two halves, split where the NUL is."""
        choice = f'{{"index":0,"delta":{delta},"finish_reason":{finish}}}'
        before, _, after = choice.partition("\0")
        head = (
            'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,'
            f'"model":"{MODEL}","system_fingerprint":"{self._name}","choices":['
        )
        return head + before, after + "]}\n\n"

    def _end(self, finished: Finished, *, usage: bool) -> str:
        text = "".join(self._frame("{}", f'"{finished.reason}"'))
        if usage:
            counts = {
                "prompt_tokens": finished.prompt_tokens,
                "completion_tokens": finished.completion_tokens,
                "total_tokens": finished.prompt_tokens + finished.completion_tokens,
            }
            chunk = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
            text += f"data: {json.dumps({**chunk, 'choices': [], 'usage': counts})}\n\n"
        return text + "data: [DONE]\n\n"


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _text(content: Any) -> str:
    """A turn's text, whichever way it is written."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _about(path: str) -> dict[str, Any]:
    if path.startswith("/v1/models"):
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "bench"}]}
    return {"status": "ok", "model_path": MODEL, "model_id": MODEL, "served_model_name": MODEL}


async def _serve(name: str, slots: int, port: int) -> None:
    engine = FakeEngine(fake_config(slots))

    async def connected(stream: trio.SocketStream) -> None:
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        with suppress(*CLOSED):
            await Connection(stream, engine, name).serve()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, connected, port, host="127.0.0.1"))
        gc.collect()
        gc.freeze()
        print(json.dumps({"port": listeners[0].socket.getsockname()[1]}), flush=True)
        async with trio.lowlevel.FdStream(0) as standard_input:
            async for _ in standard_input:
                pass
        nursery.cancel_scope.cancel()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fake_http")
    parser.add_argument("name")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    args = parser.parse_args()
    trio.run(_serve, args.name, args.slots, args.port)


if __name__ == "__main__":
    main()
