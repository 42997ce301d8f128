"""Two questions on one WebSocket. The connection is cut in the middle, and both answers go on where they stopped.

python tests/examples/websocket.py http://127.0.0.1:8080
"""

import asyncio
import json
import secrets
import sys
from collections import defaultdict
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

QUESTIONS = {"bear": "Where does a bear live?", "story": "Tell me a story about a rabbit."}
CUT_AFTER = 6


class Answers:
    """What was heard of each request, in order."""

    def __init__(self) -> None:
        self.heard: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.over: set[str] = set()

    async def read(self, socket: ClientConnection, count: int | None = None) -> None:
        """Take messages in, until all answers are over or ``count`` were read."""
        while len(self.over) < len(QUESTIONS) and count != 0:
            message = json.loads(await socket.recv())
            messages = self.heard[message["request_id"]]
            assert message["seq"] == len(messages), "every message comes once, and in order"
            messages.append(message)
            if message["type"] in ("done", "error"):
                self.over.add(message["request_id"])
            count = None if count is None else count - 1

    def text(self, request_id: str) -> str:
        """What was answered."""
        tokens = [each for each in self.heard[request_id] if each["type"] == "token"]
        return "".join(choice["delta"].get("content", "") for each in tokens for choice in each["choices"])


async def ask(url: str) -> None:
    """Ask, lose the connection, and go on."""
    # The name that a new connection proves by that it belongs to the same client.
    address = f"{url.replace('http', 'ws', 1)}/v1/ws?client={secrets.token_urlsafe(24)}"
    answers = Answers()
    async with connect(address) as socket:
        for request_id, question in QUESTIONS.items():
            request = {"model": "tiny", "messages": [{"role": "user", "content": question}], "max_tokens": 48}
            await socket.send(json.dumps({"type": "request", "request_id": request_id, **request}))
        await answers.read(socket, CUT_AFTER)
        socket.transport.abort()
    print(f"cut off after {CUT_AFTER} messages")
    async with connect(address) as socket:
        for request_id in QUESTIONS:
            from_seq = len(answers.heard[request_id])
            await socket.send(json.dumps({"type": "resume", "request_id": request_id, "from_seq": from_seq}))
        await answers.read(socket)
    for request_id, question in QUESTIONS.items():
        print(f"{question} {answers.text(request_id)}")


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[1]))
